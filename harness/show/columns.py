"""Columns of the tables: headings and cells for people, a dash where there is nothing to say."""

from harness.results.rows import Rate, Row
from harness.show.presentation import Column


def number(value: float | None, form: str) -> str:
    """A number in the given form, or a dash for none."""
    return "–" if value is None else format(value, form)


def share(value: float | None) -> str:
    """A share in percent."""
    return "–" if value is None else f"{100 * value:.1f}%"


def rate_text(rate: Rate) -> str:
    """Mean and interval; small rates with a decimal."""
    form = ",.0f" if rate.mean >= 100 else ".1f"
    interval = "" if rate.ci95 is None else f" [{rate.ci95[0]:{form}}, {rate.ci95[1]:{form}}]"
    return f"{rate.mean:{form}}{interval}"


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


LOAD = Column("concurrency or offered rate", lambda row: row.load.name)
CORRECT = Column("correct", correct_share)
CPU = Column("CPU s/1000 requests: http + queue + workers", cpu_text)
