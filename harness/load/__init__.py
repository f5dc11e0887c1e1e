"""The load generator: what to send, the loops that send it, what comes back, its own ceiling."""
