"""Compare two result files, row by row: did a change, a machine or an upgrade help?

python -m harness.compare OLD.json NEW.json    # exit 0: no regression, 1: regression, 2: refused
"""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from harness.judge.comparison import RowPair, compared_rows, refuse_incomparable
from harness.results.file import UnusableResultsError
from harness.show.console import comparison_table, make_console
from harness.suite import read_results

REGRESSION, UNUSABLE = 1, 2


def main() -> None:
    options = parser().parse_args()
    try:
        old, new = read_results(options.old), read_results(options.new)
        refuse_incomparable(old, new, options.across_machines)
        pairs = compared_rows(old, new, options.threshold)
    except UnusableResultsError as error:
        print(error, file=sys.stderr)
        sys.exit(UNUSABLE)
    regression = any(pair.regression for pair in pairs)
    if options.json:
        rows = [as_json(pair) for pair in pairs]
        print(json.dumps({"regression": regression, "rows": rows}, allow_nan=False))
    else:
        console = make_console()
        console.print(comparison_table(pairs, old, new))
        console.print("regression" if regression else "no regression")
    sys.exit(REGRESSION if regression else 0)


def as_json(pair: RowPair) -> dict:
    """One row for programs: the verdict, and output per second in both files."""
    rates = {
        name: row and row.output_per_second.mean
        for name, row in (("old", pair.old), ("new", pair.new))
    }
    comparison = pair.comparison and asdict(pair.comparison)
    return vars(pair) | rates | {"comparison": comparison}


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
        type=float,
        default=0.0,
        metavar="PERCENT",
        help="tolerate rows that are slower by less (default: %(default)s)",
    )
    add("--across-machines", action="store_true", help="compare although the machines differ")
    add("--json", action="store_true", help="print one JSON object instead of a table")
    return parser


if __name__ == "__main__":
    main()
