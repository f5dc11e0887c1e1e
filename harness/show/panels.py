"""What pages of all suites are made of: headings, colours, points, bars, CPU and GPU panels."""

import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import cycle
from typing import NamedTuple

import numpy
import pandas
import seaborn
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.container import BarContainer
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter

from harness.results.rows import Row
from harness.results.schema import Results, script_and_revision

COLOUR_BLIND_SAFE = 8  # so many colours seaborn's "colorblind" has that are not grey or alike
MARKERS = "osD^vPX<>p*hd"
GREY, LIMIT = "#555555", "#D55E00"
ROLE_STYLES = {
    "http": ("server: HTTP process", "#0072B2"),
    "queue": ("server: queue manager", "#56B4E9"),
    "workers": ("server: workers", "#009E73"),
    "client": ("client (load generator)", "#E69F00"),
}
GIB = 2**30
TITLE_INCHES = 0.36  # from the top of a page to the lines below its title
LETTERS_PER_INCH = 15  # of those lines
INTERVALS = "bars: 95 % interval"
APPROXIMATE_INTERVALS = "approximate 95 % intervals (bootstrap over epochs and blocks)"


class Style(NamedTuple):
    """What tells a variant or a load from all others on a page."""

    colour: tuple[float, float, float]
    marker: str


class Point(NamedTuple):
    """One value of a series, at a place on the x axis, and its 95 % interval if there is one."""

    series: str
    x: float | str
    y: float
    ci95: tuple[float, float] | None = None


def styles(names: Iterable[str]) -> dict[str, Style]:
    """A style for each of any number of names, no two alike; a variant at another revision looks
    like itself, but paler.
    """
    scripts = {name: script_and_revision(name) for name in names}
    shown = list(dict.fromkeys(script for script, _ in scripts.values()))
    palette = "colorblind" if len(shown) <= COLOUR_BLIND_SAFE else "husl"
    colours = seaborn.color_palette(palette, len(shown))
    looks = dict(zip(shown, map(Style, colours, cycle(MARKERS)), strict=True))
    return {
        name: paler(looks[script]) if revision else looks[script]
        for name, (script, revision) in scripts.items()
    }


def paler(look: Style) -> Style:
    """The same, half way to white."""
    return look._replace(colour=tuple((1 + part) / 2 for part in look.colour))


def page(
    results: Results,
    title: str,
    rows: int,
    columns: int,
    size: tuple[float, float],
    load: str | None = None,
) -> tuple[Figure, list[Axes]]:
    """An empty page: under its title the machine, how requests were sent (`load`, or what the run
    says), and the run's notes.

    Args:
        rows, columns: of panels.
        size: width and height in inches.
    """
    figure = Figure(figsize=size, layout="constrained")
    lines = [machine_line(results), load or how_sent(results), *results.notes]
    width = int(LETTERS_PER_INCH * size[0])
    lines = [piece for line in lines for piece in textwrap.wrap(line, width)]
    figure.suptitle(title + "\n" * len(lines), fontsize=13)
    top = 1 - TITLE_INCHES / size[1]
    figure.text(0.5, top, "\n".join(lines), ha="center", va="top", fontsize=9, color=GREY)
    return figure, list(figure.subplots(rows, columns, squeeze=False).flat)


def machine_line(results: Results) -> str:
    """What was measured on."""
    machine = results.machine
    gpus = ", ".join(machine["gpus"]) or "no GPU"
    return f"{machine['cpu']}, {machine['usable_cores']} cores, {gpus}"


def how_sent(results: Results) -> str:
    """What was sent, how, and how often all was repeated."""
    loop = "open loop, Poisson arrivals" if results.settings.get("rate") else "closed loop"
    return f"{loop}, {results.request}, {epochs(results)}"


def epochs(results: Results) -> str:
    """How often all servers were launched."""
    count = len({window.epoch for window in results.windows})
    return f"{count} epoch{'' if count == 1 else 's'}"


def load_of(row: Row) -> float:
    """Where a row lies on the load axis."""
    return row.concurrency if row.offered_rate is None else row.offered_rate


def load_text(name: str) -> str:
    """An offered load for people, from its name."""
    return f"concurrency {name}" if name.isdigit() else f"offered rate {name}"


def load_label(results: Results) -> str:
    """What the load axis shows."""
    return "offered rate (requests/s)" if results.settings.get("rate") else "concurrency"


def number_text(rate: float) -> str:
    """A rate for people; small ones with a decimal."""
    return f"{rate:,.{0 if rate >= 100 else 1}f}"


def all_rows(results: Results) -> list[Row]:
    """Every row of every variant."""
    return [row for variant in results.variants.values() for row in variant.rows]


def log_axis(axes: Axes, values: Iterable[float], label: str) -> None:
    """A logarithmic x axis that marks exactly the values that were measured."""
    values = sorted(set(values))
    axes.set_xscale("log", base=2)
    axes.set_xticks(values, [f"{value:g}" for value in values])
    axes.minorticks_off()
    left, right = axes.get_xlim()
    axes.set_xlim(min(left, values[0] / 1.2), max(right, values[-1] * 1.2))
    axes.set_xlabel(label)
    axes.grid(alpha=0.3)


def from_zero(axes: Axes) -> None:
    """Let the y axis begin at 0 and end above what was drawn."""
    axes.set_ylim(0, 1.05 * axes.get_ylim()[1])


class PlainLogFormatter(LogFormatter):
    """Numbers without an exponent, at the ticks that LogFormatter labels."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        return super().__call__(x, pos) and f"{x:,.9g}"


def plain_log(axis: Axis) -> None:
    """A logarithmic axis with plain numbers, two at least: within two decades more than the powers
    of ten, of which there may be one.
    """
    axis.set_major_formatter(PlainLogFormatter())
    axis.set_minor_formatter(PlainLogFormatter(minor_thresholds=(2, 0.8)))
    axis.set_tick_params(which="minor", labelsize=7)


def draw_points(axes: Axes, points: Sequence[Point], looks: Mapping[str, Style]) -> None:
    """A line with markers per series over a logarithmic x axis; series stand beside each other.

    A point with an interval is three numbers to seaborn, whose median and range are then our mean
    and interval: nothing is bootstrapped.
    """
    drawn = {point.series for point in points}
    shown = [name for name in looks if name in drawn]
    rows = [(p.series, p.x, value) for p in points for value in (p.y, *(p.ci95 or ()))]
    gaps = numpy.diff(numpy.log2(sorted({point.x for point in points})))
    # octaves, to seaborn in units of the narrowest gap: a point stays near its place on the axis
    width = min(0.4, 0.08 * len(shown)) / max(1.0, gaps.min() if len(gaps) else 1.0)
    seaborn.pointplot(
        pandas.DataFrame(rows, columns=["series", "x", "y"]),
        x="x",
        y="y",
        hue="series",
        hue_order=shown,
        palette={name: looks[name].colour for name in shown},
        markers=[looks[name].marker for name in shown],
        estimator="median",
        errorbar=("pi", 100),
        native_scale=True,
        log_scale=(2, None),
        dodge=width if len(shown) > 1 else False,
        linewidth=1.5,
        markersize=6,
        err_kws={"alpha": 0.45, "linewidth": 4},
        ax=axes,
    )
    axes.get_legend().remove()  # legends stand where there is room, see legend_below


def plot_over_load(
    axes: Axes,
    results: Results,
    value: Callable[[Row], float | None],
    interval: Callable[[Row], tuple[float, float] | None] = lambda _: None,
) -> None:
    """A line per variant over the load axis, with a marker where the value is known."""
    points = [
        point
        for name, variant in results.variants.items()
        for point in points_over_load(name, variant.rows, value, interval)
    ]
    if points:
        draw_points(axes, points, styles(results.variants))
        log_axis(axes, map(load_of, all_rows(results)), load_label(results))
    else:
        note(axes, why_empty(results))


def points_over_load(
    name: str,
    rows: Sequence[Row],
    value: Callable[[Row], float | None],
    interval: Callable[[Row], tuple[float, float] | None],
) -> list[Point]:
    """The points of one variant, where the value is known."""
    known = [(row, y) for row in rows if (y := value(row)) is not None]
    return [Point(name, load_of(row), y, not_below_zero(interval(row))) for row, y in known]


def not_below_zero(interval: tuple[float, float] | None) -> tuple[float, float] | None:
    """The part of an interval that a rate can lie in."""
    return interval and (max(0.0, interval[0]), interval[1])


def why_empty(results: Results) -> str:
    """Why a panel about all variants shows nothing."""
    return "too few correct answers" if all_rows(results) else "no variant could be measured"


def legend_below(figure: Figure, axes: Axes, columns: int = 5) -> None:
    """The legend of a panel below the whole page, where it hides nothing."""
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        ncols = min(columns, len(handles))
        figure.legend(handles, labels, loc="outside lower center", ncols=ncols, fontsize=9)


def draw_bars(
    axes: Axes,
    points: Sequence[Point],
    places: Sequence[str],
    colours: Mapping[str, object],
    text: Callable[[float], str] = "{:,.0f}".format,
) -> dict[str, BarContainer]:
    """At every place a bar per series, with its number above it; returns the bars by series."""
    table = pandas.DataFrame(points).pivot(index="x", columns="series", values="y")
    table = table.reindex(index=list(places), columns=[name for name in colours if name in table])
    below, above = numpy.zeros((2, *table.shape))
    for point in points:
        if interval := not_below_zero(point.ci95):
            at = table.index.get_loc(point.x), table.columns.get_loc(point.series)
            below[at], above[at] = point.y - interval[0], interval[1] - point.y
    table.plot.bar(
        ax=axes,
        yerr=numpy.stack([below.T, above.T], axis=1),
        color=[colours[name] for name in table],
        width=0.8,
        rot=0,
        legend=False,
    )
    axes.set_xlabel("")
    bars = [each for each in axes.containers if isinstance(each, BarContainer)]
    for name, container in zip(table, bars, strict=True):
        labels = ["" if pandas.isna(value) else text(value) for value in table[name]]
        axes.bar_label(container, labels, fontsize=8, padding=1)
    return dict(zip(table, bars, strict=True))


def note(axes: Axes, text: str) -> None:
    """A panel without a picture says why."""
    axes.axis("off")
    text = textwrap.fill(text, 60)
    axes.text(0.5, 0.5, text, ha="center", va="center", color=GREY, transform=axes.transAxes)


def failure_text(error: str) -> str:
    """Why a variant failed, in one line: what happened, and the last line of its log."""
    first, *log = error.splitlines()
    return " ".join([first, *(line.strip() for line in log[-1:])])


def draw_served(axes: Axes, results: Results, name: str) -> None:
    """Output per second of one variant over the load."""
    rows = results.variants[name].rows
    points = points_over_load(
        name, rows, lambda row: row.output_per_second.mean, lambda row: row.output_per_second.ci95
    )
    draw_points(axes, points, {name: styles(results.variants)[name]})
    for point in points:
        place, text = (point.x, point.y), number_text(point.y)
        axes.annotate(text, place, (8, -12), textcoords="offset points", fontsize=9)
    log_axis(axes, map(load_of, rows), load_label(results))
    left, right = axes.get_xlim()
    axes.set_xlim(right=right * (right / left) ** 0.06)  # for the last number
    from_zero(axes)
    axes.set_ylabel(f"{results.unit}/s, correct answers only")
    axes.set_title(f"Served over HTTP ({INTERVALS})", fontsize=10)


def draw_cpu(axes: Axes, rows: list[Row], results: Results) -> None:
    """Stacked bars by role, under the line of all usable cores."""
    known = [role for role in ROLE_STYLES if all(row.cpu_percent[role] is not None for row in rows)]
    loads = [f"{load_of(row):g}" for row in rows]
    limit = highest = 100 * results.machine["usable_cores"]
    if known:
        table = pandas.DataFrame([row.cpu_percent for row in rows], index=loads)[known]
        table.columns = [ROLE_STYLES[role][0] for role in known]
        colours = [ROLE_STYLES[role][1] for role in known]
        table.plot.bar(ax=axes, stacked=True, color=colours, width=0.6, rot=0)
        highest = max(limit, table.sum(axis=1).max())
    axes.axhline(limit, color=LIMIT, linestyle="--", linewidth=1, label="all usable cores")
    machine = [row.cpu_percent["machine"] for row in rows]
    axes.plot(range(len(rows)), machine, "k_", markersize=22, label="the whole machine")
    axes.set_xticks(range(len(rows)), loads)
    axes.set_xlabel(load_label(results))
    axes.set_ylabel("CPU, percent of one core")
    axes.set_ylim(0, 1.55 * highest)
    unknown = "CPU (the server's own is unknown: it was not launched here)"
    axes.set_title("CPU by role" if "http" in known else unknown, fontsize=10)
    axes.legend(fontsize=8, ncols=2, loc="upper left")


def draw_gpu(axes: Axes, rows: list[Row], results: Results) -> None:
    """GPU activity, memory, power and energy per load, or why there is nothing to see."""
    if all(row.gpu_percent is None and row.gpu_memory_bytes is None for row in rows):
        gpus = results.machine["gpus"]
        note(axes, "the GPU gave no readings" if gpus else "no GPU: nothing to show")
        return
    heights = [row.gpu_percent or 0.0 for row in rows]
    bars = axes.bar(range(len(rows)), heights, 0.6, color=ROLE_STYLES["workers"][1])
    axes.bar_label(bars, [gpu_text(row) for row in rows], fontsize=9, padding=2)
    axes.set_xticks(range(len(rows)), [f"{load_of(row):g}" for row in rows])
    axes.set_xlabel(load_label(results))
    axes.set_ylim(0, 150)
    axes.set_yticks(range(0, 101, 20))
    axes.set_ylabel("percent of time with any kernel running")
    axes.set_title("GPU activity (not how full it was), memory in use, power", fontsize=10)


def gpu_text(row: Row) -> str:
    """What is known of the GPU besides its activity, a line each."""
    memory_bytes, energy_j = row.gpu_memory_bytes, row.gpu_energy_j_per_request
    lines = {
        "activity unknown": row.gpu_percent is None,
        f"{(memory_bytes or 0) / GIB:.1f} GiB": memory_bytes is not None,
        f"{row.gpu_power_w or 0:.0f} W": row.gpu_power_w is not None,
        f"{energy_j or 0:.3g} J/request": energy_j is not None,
    }
    return "\n".join(line for line, known in lines.items() if known)
