"""Write the tables of README.md from the published results: no number in it is typed by hand.

    python -m harness.readme            # README.md in this folder; --check only compares

Between "<!-- results FOLDER -->" and "<!-- end of results -->" stand the tables of every machine
under FOLDER/metrics/published; between "<!-- records FILE -->" and "<!-- end of records -->" what a
JSON file says in its `note` and, one line each, in its `rows`.
"""

import argparse
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness.judge.judgement import judged
from harness.results.file import UnusableResultsError, write_whole
from harness.show.readme_tables import tables
from harness.suite import read_results, suite_of

BLOCK = re.compile(r"(<!-- results (\S+) -->\n).*?(<!-- end of results -->)", re.DOTALL)
RECORDS = re.compile(r"(<!-- records (\S+) -->\n).*?(<!-- end of records -->)", re.DOTALL)
FILES = "metrics/published/*/benchmark_results.json"


def filled(text: str, root: Path) -> str:
    """The text with every block written anew; UnusableResultsError if a file cannot be used."""
    text = BLOCK.sub(lambda block: block[1] + published(root, block[2]) + block[3], text)
    return RECORDS.sub(lambda block: block[1] + recorded(root / block[2]) + block[3], text)


def recorded(path: Path) -> str:
    """The note and the table of a file of records; UnusableResultsError if it holds none."""
    try:
        records = json.loads(path.read_text())
        lines = [f"{records['note']}.", "", *records_table(records["rows"])]
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise UnusableResultsError(f"{path} holds no records: {error}") from error
    return "\n" + "\n".join(lines) + "\n\n"


def records_table(rows: list[dict[str, Any]]) -> Iterator[str]:
    """A column per name, a line per record; LookupError without any."""
    names = list(rows[0])
    yield f"| {' | '.join(name.replace('_', ' ') for name in names)} |"
    yield f"|{'--:|' * len(names)}"
    for row in rows:
        cells = [
            f"{row[name]:,}" if isinstance(row[name], int) else f"{row[name]}" for name in names
        ]
        yield f"| {' | '.join(cells)} |"


def published(root: Path, folder: str) -> str:
    """The tables of every machine whose results of this folder are published."""
    paths = sorted((root / folder).glob(FILES))
    if not paths:
        raise UnusableResultsError(f"{folder} has no {FILES}")
    sections = []
    for path in paths:
        results = judged(read_results(path))  # as `python -m harness.verdicts` does
        if results.against:
            raise UnusableResultsError(f"{path} compares two revisions, and is no result of record")
        charts = path.parent.relative_to(root)
        sections.append(tables(results, suite_of(results.package), charts))
    return "\n".join(sections)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m harness.readme", description=__doc__.partition("\n")[0]
    )
    check = "write nothing; fail if the file is out of date"
    parser.add_argument("--check", action="store_true", help=check)
    options = parser.parse_args()
    path = Path("README.md")
    try:
        wanted = filled(path.read_text(encoding="utf-8"), Path())
        if options.check:
            current = wanted == path.read_text(encoding="utf-8")
            sys.exit(None if current else f"{path} is out of date: run python -m harness.readme")
        write_whole(wanted, path)
    except (OSError, UnicodeDecodeError, UnusableResultsError) as error:
        sys.exit(f"no tables written: {error}")


if __name__ == "__main__":
    main()
