"""The stopwatch all benchmark folders share: knows URLs, clocks, processes; not what is served."""

import os
import sys
from pathlib import Path
from types import TracebackType

ROOT = Path(__file__).resolve().parents[1]  # of the checkout that this code is of

script = getattr(sys.modules["__main__"], "__file__", None)
if script:
    theirs = Path(script).resolve().parent.parent
    if theirs != ROOT and (theirs / "harness" / "__init__.py").is_file():
        sys.exit(
            f"{script} belongs to {theirs}, but the code that is installed here is of {ROOT}: "
            f"set PYTHONPATH={theirs}, or install that one (pip install -e {theirs})"
        )

# Pictures go to files. matplotlib reads this when it is imported, and fails where it names what is
# not installed, as the one that a notebook hands down to its children.
os.environ["MPLBACKEND"] = "Agg"


def explain(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Say in a word that a command was interrupted, be it while it still imports what it needs."""
    if issubclass(kind, KeyboardInterrupt):
        if "--multiprocessing-fork" not in sys.orig_argv:  # a child's caller says it
            print("interrupted", file=sys.stderr)
        sys.exit(130)
    sys.__excepthook__(kind, error, trace)


sys.excepthook = explain

for stream in sys.stdout, sys.stderr:
    if hasattr(stream, "reconfigure"):  # a "?" in a terminal without "±" is better than the end
        stream.reconfigure(errors="replace")
