"""A benchmark folder's requests and checks, pickled to the standard output for another program.

    python -m harness.folder_requests mnist_model_benchmarking | ...

Locust replaces what Python's own processes and pipes are made of, so it asks from outside.
"""

import contextlib
import importlib
import pickle
import sys


def main() -> None:
    (package,) = sys.argv[1:]
    options = importlib.import_module(f"{package}.benchmark").parser().parse_args([])
    with (
        contextlib.redirect_stdout(sys.stderr),
        contextlib.closing(importlib.import_module(f"{package}.suite").suite(options)) as made,
    ):
        requests = made.path, made.bodies, made.check, dict(made.headers)
    pickle.dump(requests, sys.stdout.buffer)


if __name__ == "__main__":
    main()
