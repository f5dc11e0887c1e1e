"""What README.md says of one published result file, from its machine to its pictures."""

from collections.abc import Iterator
from pathlib import Path

from harness.judge.bottlenecks import reasons
from harness.results.schema import Results
from harness.show.breakdown_charts import REQUEST_PATH, has_breakdown
from harness.show.charts import CAPACITY_PATH, THROUGHPUT_PATH
from harness.show.columns import MATRIX_LEGEND, matrix, shown_columns
from harness.show.console import aa_control, capacities, commit
from harness.show.memory import MEMORY_PATH, has_memory, memory_lines
from harness.show.panels import all_rows, epochs, failure_text, machine_line
from harness.show.presentation import Presentation


def tables(results: Results, presentation: type[Presentation], charts_folder: Path) -> str:
    """Markdown for one published machine, whose pictures are in `charts_folder`."""
    first, *others = pictures(results, presentation, charts_folder) or [""]
    blocks = [
        bullets([f"**{failure}**" for failure in failures(results)]),
        measured_on(results),
        "\n".join(matrix_lines(results)),
        bullets([*results.advice, *capacities(results)]),
        first,
        folded(
            "Every row",
            "\n".join(rows_table(results, presentation)),
            doubts(results),
            bullets(presentation.sentences(results)),
        ),
        folded("Memory: what each server holds", "\n".join(memory_lines(results))),
        folded(
            "Why: what limits each variant, and what each saved and cost",
            bullets(reasons(results)),
            *others,
        ),
        folded(
            "All verdicts",
            "\n".join(verdict_table(results)),
            *(f"{line}." for line in aa_control(results)),
        ),
    ]
    return "\n" + "\n\n".join(block for block in blocks if block) + "\n\n"


def bullets(lines: list[str]) -> str:
    """A list; nothing of nothing."""
    return "\n".join(f"- {line}" for line in lines)


def folded(summary: str, *texts: str) -> str:
    """A part that opens on a click; nothing of nothing."""
    text = "\n\n".join(text for text in texts if text)
    head = f"<details><summary>{summary}</summary>"
    return f"{head}\n\n{text}\n\n</details>" if text else ""


def matrix_lines(results: Results) -> Iterator[str]:
    """The lines of the first table; none without rows."""
    if not all_rows(results):
        return
    load = "offered rate" if results.settings.get("rate") else "concurrency"
    yield f"| {results.unit}/s at {load} | {' | '.join(results.variants)} |"
    yield f"|--:|{'--:|' * len(results.variants)}"
    for line in matrix(results, "**{}**".format):
        yield f"| {' | '.join(line)} |"
    yield ""
    yield f"({MATRIX_LEGEND})"


def failures(results: Results) -> list[str]:
    """Which variants failed, and why."""
    return [
        f"{name} failed: {failure_text(variant.error)}"
        for name, variant in results.variants.items()
        if variant.error
    ]


def measured_on(results: Results) -> str:
    """What was measured, where, with which software, when and how long."""
    machine, packages = results.machine, results.machine["packages"]
    sets = ", ".join(machine.get("instruction_sets") or [])
    versions = ", ".join(f"{name} {packages[name]}" for name in ("litserve", "torch"))
    dirty = " (with uncommitted changes)" if machine["git_dirty"] else ""
    precision = results.settings.get("precision")
    asked = f" (--precision {precision:g})" if precision else ""
    parts = [
        f"Measured on {machine_line(results)}" + (f" ({sets})" if sets else ""),
        f"Python {machine['python']}, {versions}",
        f"{results.started_utc[:10]}, commit {commit(results)}{dirty}",
        f"{results.request}, {epochs(results)}, {results.measured_s / 60:.0f} minutes{asked}",
        *results.notes,
    ]
    return "; ".join(parts) + "."


def rows_table(results: Results, presentation: type[Presentation]) -> Iterator[str]:
    """The lines of the table of all rows; none without rows."""
    if not all_rows(results):
        return
    columns = shown_columns(results, presentation)
    yield f"| variant | {' | '.join(column.heading for column in columns)} |"
    yield f"|---|{'--:|' * len(columns)}"
    for name, variant in results.variants.items():
        for row in variant.rows:
            cells = [f"{name} (!)" if row.warnings else name]
            cells += [column.cell(row) for column in columns]
            yield f"| {' | '.join(cells)} |"


def doubts(results: Results) -> str:
    """How many rows carry a warning, and where to read it."""
    rows = all_rows(results)
    doubtful = sum(bool(row.warnings) for row in rows)
    if not rows:
        return ""
    if not doubtful:
        return "No row carries a warning."
    return f"(!) {doubtful} of {len(rows)} rows carry a warning: see `warnings` in the result file."


def verdict_table(results: Results) -> Iterator[str]:
    """The lines of the table of all verdicts; none without verdicts."""
    if results.verdicts:
        yield "| compared | at | verdict |"
        yield "|---|--:|---|"
    for each in results.verdicts:
        yield f"| {each.variant} against {each.against} | {each.load} | {each.comparison.text} |"


def pictures(results: Results, presentation: type[Presentation], charts_folder: Path) -> list[str]:
    """Links to the pictures that tell most: throughput, breakdown, the folder's own."""
    if not all_rows(results):
        return []
    paths = {THROUGHPUT_PATH: "Served throughput"}
    if has_breakdown(results):
        paths[REQUEST_PATH] = "Breakdown of a request"
    if results.capacity_windows:
        paths[CAPACITY_PATH] = "Capacity"
    if has_memory(results):
        paths[MEMORY_PATH] = "Memory"
    own = presentation.charts(results)
    paths |= {path: Path(path).stem.replace("_", " ").capitalize() for path in own}
    return [link(words, charts_folder / path) for path, words in paths.items()]


def link(words: str, path: Path) -> str:
    """A picture in Markdown."""
    return f"![{words}]({path.as_posix()})"
