"""Judge a result file again, from its raw windows: the verdicts are those that the run printed.

python -m harness.verdicts mnist_model_benchmarking/metrics/benchmark_results.json
"""

import argparse
import sys
from pathlib import Path

from harness.judge.judgement import judged
from harness.results.file import UnusableResultsError
from harness.show.console import make_console, print_verdicts
from harness.suite import read_results


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m harness.verdicts", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("results", type=Path, help="a benchmark_results.json")
    try:
        results = read_results(parser.parse_args().results)
    except UnusableResultsError as error:
        sys.exit(str(error))
    print_verdicts(judged(results), make_console())


if __name__ == "__main__":
    main()
