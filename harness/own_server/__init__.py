"""A server that is not ours: its launcher, requests, checks, settings to vary, advice."""
