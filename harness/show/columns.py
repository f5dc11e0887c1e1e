"""Cells of tables: numbers for people, the matrix of the first screen, shared columns."""

from collections.abc import Callable, Iterator, Mapping

from harness.judge.verdicts import MARGIN_PERCENT
from harness.results.rows import Rate, Row
from harness.results.schema import Capacity, Results
from harness.show.presentation import Column, Presentation

DASH = "–"  # nothing is known


def number(value: float | None, form: str) -> str:
    """A number in the given form, or a dash for none."""
    return DASH if value is None else format(value, form)


def share(value: float | None) -> str:
    """A share in percent."""
    return "–" if value is None else f"{100 * value:.1f}%"


MATRIX_LEGEND = (
    f"bold: the fastest; =: the same within {MARGIN_PERCENT:g} %; ±: half of the 95 % interval"
)


def matrix(results: Results, bold: Callable[[str], str]) -> Iterator[tuple[str, ...]]:
    """The first thing to look at: a line per offered load, a cell per variant.

    Args:
        results: whose output per second it shows.
        bold: marks the fastest.
    """
    for load in results.loads:
        cells = (matrix_cell(results, name, load, bold) for name in results.variants)
        yield load, *cells


def matrix_cell(results: Results, name: str, load: str, bold: Callable[[str], str]) -> str:
    """Output per second of a variant with its resolution, marked if nothing is faster."""
    rows = {row.load.name: row for row in results.variants[name].rows}
    if load not in rows:
        return "–"
    rate, best = rows[load].output_per_second, results.best.get(load)
    known = "" if rate.resolution_percent is None else f" ±{rate.resolution_percent:.0f}%"
    text = f"{rate.mean:,.{0 if rate.mean >= 100 else 1}f}{known}"
    if best and name == best.variant:
        return bold(text)
    return f"{text} =" if best and name in best.same else text


def rate_text(rate: Rate) -> str:
    """Mean and interval; small rates with a decimal."""
    form = ",.0f" if rate.mean >= 100 else ".1f"
    return f"{rate.mean:{form}}" if rate.ci95 is None else interval_text(rate.mean, rate.ci95, form)


def latency_text(
    name: str, values: Mapping[str, float | None], ci95: Mapping[str, tuple[float, float] | None]
) -> str:
    """The mean or percentile of that name, three significant figures, and its interval.

    A dash without an interval: too few requests back it, or no second block tells how far to trust
    it.
    """
    value, interval = values[name], ci95[name]
    if value is None or interval is None:
        return "–"
    return interval_text(value, interval, f",.{0 if value >= 100 else 1 if value >= 10 else 2}f")


def interval_text(value: float, ci95: tuple[float, float], form: str) -> str:
    """A value and its interval in the given form."""
    low, high = ci95
    return f"{value:{form}} [{low:{form}}, {high:{form}}]"


def capacity_text(capacity: Capacity) -> str:
    """A capacity with its interval; without one, what the binomial tests say."""
    rate = capacity.requests_per_second
    if rate and rate.ci95:
        return f"{rate_text(rate)} requests/s"
    bounds = {"holds": capacity.holds_at, "fails": capacity.fails_at}
    tests = ", ".join(f"{each:.4g} {word}" for word, each in bounds.items() if each is not None)
    if rate:
        return (
            f"about {rate_text(rate)} requests/s ({tests or 'no rate is certain to hold or fail'})"
        )
    return "not known in the time there was" + (f" ({tests})" if tests else "")


def cpu_text(row: Row) -> str:
    """What the server's processes spend on 1,000 requests, role by role."""
    by_role = row.cpu_s_per_1000_requests.items()
    of_server = [seconds for role, seconds in by_role if role != "client"]
    if None in of_server:
        return "–"
    return " + ".join(f"{seconds:,.{2 if seconds < 10 else 0}f}" for seconds in of_server)


def correct_share(row: Row) -> str:
    """Share of the requests that were answered correctly."""
    return share(row.requests["ok"] / row.requests["sent"] if row.requests["sent"] else None)


def latency_column(name: str) -> Column:
    """A percentile of the latency, or its mean."""
    return Column(
        f"{name} ms [95 %]", lambda row: latency_text(name, row.latency_ms, row.latency_ci95_ms)
    )


def shown_columns(results: Results, presentation: type[Presentation]) -> list[Column]:
    """The columns of the table, but for optional ones that say nothing of any row."""
    rows = [row for variant in results.variants.values() for row in variant.rows]
    return [
        column
        for column in presentation.columns
        if not column.optional or any(column.cell(row) != DASH for row in rows)
    ]


LOAD = Column("concurrency or offered rate", lambda row: row.load.name)
CORRECT = Column("correct", correct_share)
CPU = Column("CPU s/1000 requests: http + queue + workers", cpu_text)
