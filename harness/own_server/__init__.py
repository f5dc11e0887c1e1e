"""Anybody's LitServe script: launched unmodified, with its settings varied, and measured."""
