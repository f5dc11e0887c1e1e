"""The stopwatch all benchmark folders share: knows URLs, clocks, processes; not what is served."""

import os
import sys

# Pictures go to files. matplotlib reads this when it is imported, and fails where it names what is
# not installed, as the one that a notebook hands down to its children.
os.environ["MPLBACKEND"] = "Agg"

for stream in sys.stdout, sys.stderr:
    if hasattr(stream, "reconfigure"):  # a "?" in a terminal without "±" is better than the end
        stream.reconfigure(errors="replace")
