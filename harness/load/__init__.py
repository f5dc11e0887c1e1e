"""The load generator: jobs, loops, connections, server-sent events, the echo server that tells its
ceiling.
"""
