"""Draw the charts of a result file again, beside it.

python -m harness.charts mnist_model_benchmarking/metrics/benchmark_results.json
"""

import argparse
import sys
from pathlib import Path

from harness.results.file import UnusableResultsError
from harness.show.charts import draw
from harness.suite import read_results, suite_of


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m harness.charts", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("results", type=Path, help="a benchmark_results.json")
    path = parser.parse_args().results
    try:
        results = read_results(path)
        pictures = draw(results, suite_of(results.package), path.parent)
    except (UnusableResultsError, OSError) as error:
        sys.exit(str(error))
    for picture in pictures:
        print(f"wrote {picture}")


if __name__ == "__main__":
    main()
