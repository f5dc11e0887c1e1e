"""The stopwatch all benchmark folders share: knows URLs, clocks, processes; not what is served."""
