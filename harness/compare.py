"""The command that compares two result files: did a change, a machine or an upgrade help?

python -m harness.compare OLD.json NEW.json    # exit 0: no regression, 1: regression, 2: refused
"""

import argparse
import json
import sys
from pathlib import Path

from harness.cli import positive
from harness.judge.comparison import (
    EXIT_CODES,
    THRESHOLD_PERCENT,
    RowPair,
    compared_rows,
    refuse_incomparable,
    summary,
)
from harness.results.file import UnusableResultsError
from harness.show.console import comparison_table, make_console
from harness.suite import read_results

UNUSABLE = 2


def main() -> None:
    options = parser().parse_args()
    try:
        old, new = read_results(options.old), read_results(options.new)
        refuse_incomparable(old, new, options.across_machines)
        pairs = compared_rows(old, new, options.threshold)
    except UnusableResultsError as error:
        print(error, file=sys.stderr)
        sys.exit(UNUSABLE)
    conclusion = summary(pairs)
    if options.json:
        rows = [as_json(pair) for pair in pairs]
        print(json.dumps({"summary": conclusion, "rows": rows}, allow_nan=False))
    else:
        console = make_console()
        console.print(comparison_table(pairs, old, new))
        console.print(conclusion)
    sys.exit(EXIT_CODES[conclusion])


def as_json(pair: RowPair) -> dict:
    """One row for programs: the verdict, and output per second in both files."""
    rates = {
        name: row and row.output_per_second.mean
        for name, row in (("old", pair.old), ("new", pair.new))
    }
    return vars(pair) | rates


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m harness.compare", description=__doc__.partition("\n")[0]
    )
    add = parser.add_argument
    add("old", type=Path, help="a benchmark_results.json")
    add("new", type=Path, help="another one of the same suite and settings")
    add(
        "--threshold",
        type=positive,
        default=THRESHOLD_PERCENT,
        metavar="PERCENT",
        help="what a row may lose (default: %(default)s)",
    )
    add("--across-machines", action="store_true", help="compare although the machines differ")
    add("--json", action="store_true", help="print one JSON object instead of a table")
    return parser


if __name__ == "__main__":
    main()
