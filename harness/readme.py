"""Write the tables of README.md from the result files, so that no number in it is typed by hand.

    python -m harness.readme            # README.md of this folder; --check only says whether it is up to date

A table stands between "<!-- results FILE -->" and "<!-- end of results -->".
"""

import argparse
import re
import sys
from pathlib import Path

from harness.judge.advice import advice
from harness.judge.bottlenecks import reasons
from harness.show.console import about_capacity, about_models, headings, number, row
from harness.results.file import UnusableResultsError, read
from harness.results.run import Results

BLOCK = re.compile(r"(<!-- results (\S+) -->\n).*?(<!-- end of results -->)", re.DOTALL)


def filled(text: str, root: Path) -> str:
    """The text with every block written anew; UnusableResultsError if a result file cannot be used."""
    return BLOCK.sub(lambda block: block[1] + tables(read(root / block[2])) + block[3], text)


def tables(results: Results) -> str:
    """Where it was measured, throughput and latency of every variant and load, the verdicts."""
    machine, settings = results.machine, results.settings
    dirty = " (with uncommitted changes)" if machine["git_dirty"] else ""
    versions = ", ".join(f"{name} {machine['packages'][name]}" for name in ("litserve", "torch"))
    lines = [
        "",
        f"Measured on {machine['cpu']}, {machine['usable_cores']} cores, {', '.join(machine['gpus']) or 'no GPU'}, "
        f"Python {machine['python']}, {versions}; {results.started_utc[:10]}, "
        f"commit {(machine['git_commit'] or 'unknown')[:8]}{dirty}; {settings['rounds']} rounds of "
        f"{settings['duration']:g} s.",
        "",
        f"| variant | {' | '.join(headings(results))} |",
        f"|---|{'--:|' * len(headings(results))}",
        *(
            f"| {name}{' (!)' if level.warnings else ''} | {' | '.join(row(level))} |"
            for name, variant in results.variants.items()
            for level in variant.levels
        ),
        "",
        doubts(results),
        "",
        *(f"- {line}" for line in about_models(results) + about_capacity(results)),
        "",
        *(f"- {sentence}" for sentence in advice(results)),
        "",
        *(f"- {sentence}" for sentence in reasons(results)),
        "",
        "| compared | at | verdict |",
        "|---|--:|---|",
        *(f"| {v.variant} against {v.against} | {v.level} | {v.text} |" for v in results.verdicts),
        "",
        "Noise floor, the baseline against itself: "
        + ", ".join(f"{number(floor, '.1f')} % at {level}" for level, floor in results.noise_floor_percent.items())
        + ".",
        "",
        "",
    ]
    return "\n".join(lines)


def doubts(results: Results) -> str:
    """How many rows carry a warning, and where it is to be read."""
    rows = [level for variant in results.variants.values() for level in variant.levels]
    flagged = sum(bool(level.warnings) for level in rows)
    if not flagged:
        return "No row carries a warning."
    return f"(!) {flagged} of {len(rows)} rows carry a warning, told on the console and under `warnings` in the file."


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m harness.readme", description=__doc__.partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fail if the file is out of date")
    options = parser.parse_args()
    path = Path("README.md")
    try:
        wanted = filled(path.read_text(), Path())
    except (OSError, UnusableResultsError) as error:
        sys.exit(f"no tables written: {error}")
    if options.check:
        sys.exit(None if wanted == path.read_text() else f"{path} is out of date: run python -m harness.readme")
    path.write_text(wanted)


if __name__ == "__main__":
    main()
