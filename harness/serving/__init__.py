"""Inside the server's processes: serve, instrumentation, admission control, counters, no-op."""
