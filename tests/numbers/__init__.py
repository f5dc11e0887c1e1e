"""Servers without a model, for tests of what surrounds a server."""
