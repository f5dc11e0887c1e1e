"""Inside the server's processes: serve, instrumentation, admission control, counters, the no-op server."""
