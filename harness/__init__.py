"""The stopwatch both benchmark folders share: it knows URLs, clocks and processes, never images or tokens."""
