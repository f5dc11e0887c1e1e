"""Write the tables of README.md from the published results: no number in it is typed by hand.

    python -m harness.readme            # README.md in this folder; --check only compares

Between "<!-- results FOLDER -->" and "<!-- end of results -->" stand the tables of every machine
under FOLDER/metrics/published.
"""

import argparse
import re
import sys
from pathlib import Path

from harness.results.file import UnusableResultsError
from harness.show.readme_tables import tables
from harness.suite import read_results, suite_of

BLOCK = re.compile(r"(<!-- results (\S+) -->\n).*?(<!-- end of results -->)", re.DOTALL)
FILES = "metrics/published/*/benchmark_results.json"


def filled(text: str, root: Path) -> str:
    """The text with every block written anew; UnusableResultsError if a file cannot be used."""
    return BLOCK.sub(lambda block: block[1] + published(root, block[2]) + block[3], text)


def published(root: Path, folder: str) -> str:
    """The tables of every machine whose results of this folder are published."""
    paths = sorted((root / folder).glob(FILES))
    if not paths:
        raise UnusableResultsError(f"{folder} has no {FILES}")
    sections = []
    for path in paths:
        results = read_results(path)
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
    except (OSError, UnusableResultsError) as error:
        sys.exit(f"no tables written: {error}")
    if options.check:
        current = wanted == path.read_text(encoding="utf-8")
        sys.exit(None if current else f"{path} is out of date: run python -m harness.readme")
    path.write_text(wanted, encoding="utf-8")


if __name__ == "__main__":
    main()
