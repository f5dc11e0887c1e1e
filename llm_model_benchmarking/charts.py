"""The pictures that only this folder has: speed, TTFT, ITL, memory, fidelity, start-up; users."""

from collections.abc import Callable, Iterable, Mapping

import seaborn
from matplotlib.axes import Axes
from matplotlib.container import BarContainer
from matplotlib.figure import Figure

from harness.results.rows import Row
from harness.results.schema import AT, Results, VariantResult
from harness.show.panels import (
    APPROXIMATE_INTERVALS,
    LIMIT,
    Point,
    Style,
    all_rows,
    draw_bars,
    legend_below,
    load_text,
    not_below_zero,
    note,
    number_text,
    page,
    plain_log,
    styles,
    why_empty,
)
from llm_model_benchmarking.rows import Latencies, TokenRow

ITL_MARKS = {"p95": ("o", 0.75), "p99": ("D", 0.25)}  # and where on the bar
HALF_GROUP = 0.45  # of the width of all bars of a variant
USERS_PATH = "throughput/tokens_per_user.png"


def charts(results: Results) -> dict[str, Figure]:
    """One page of six panels: variants side by side, one bar per load; what each user gets where
    their number differs.
    """
    width = max(14, 2 + 3.2 * len(results.variants))
    figure, panels = page(results, "Language model servers", 3, 2, (width, 13))
    drawers = draw_speed, draw_ttft, draw_itl, draw_memory, draw_fidelity, draw_startup
    for draw, axes in zip(drawers, panels, strict=True):
        draw(axes, results)
    figures = {"benchmark_metrics.png": figure}
    if len({row.concurrency for row in all_rows(results)} - {None}) > 1:
        figures[USERS_PATH] = users_figure(results)
    return figures


def users_figure(results: Results) -> Figure:
    """A line per variant: tokens/s of each user over those of all users, a point per concurrency.

    A user's rate includes the wait: a server that answers one at a time goes straight down.
    """
    title = "What each user gets, and all of them together"
    figure, (axes,) = page(results, title, 1, 1, (9, 7))
    looks = styles(results.variants)
    for name, variant in results.variants.items():
        rows = [row for row in variant.rows if row.concurrency and row.output_per_second.mean > 0]
        draw_users(axes, name, rows, looks[name])
    axes.set_xscale("log")
    axes.set_yscale("log")
    for axis in (axes.xaxis, axes.yaxis):
        plain_log(axis)
    axes.grid(alpha=0.3, which="both")
    axes.set_xlabel(
        "output tokens/s of all users together (bars: 95 % interval; numbers: concurrency)"
    )
    axes.set_ylabel("output tokens/s of each user, wait included\n(straight down: one at a time)")
    legend_below(figure, axes)
    return figure


def draw_users(axes: Axes, name: str, rows: list[Row], look: Style) -> None:
    """One variant's line, its points marked with the concurrency."""
    rates = [row.output_per_second for row in rows]
    totals = [rate.mean for rate in rates]
    users = [rate.mean / row.concurrency for rate, row in zip(rates, rows, strict=True)]
    ends = [not_below_zero(rate.ci95) or (rate.mean, rate.mean) for rate in rates]
    below = [rate.mean - low for rate, (low, _) in zip(rates, ends, strict=True)]
    above = [high - rate.mean for rate, (_, high) in zip(rates, ends, strict=True)]
    axes.errorbar(
        totals,
        users,
        xerr=[below, above],
        label=name,
        color=look.colour,
        marker=look.marker,
        markersize=7,
        elinewidth=3,
    )
    for row, place in zip(rows, zip(totals, users, strict=True), strict=True):
        axes.annotate(
            f"{row.concurrency}", place, (7, 5), textcoords="offset points", color=look.colour
        )


def draw_speed(axes: Axes, results: Results) -> None:
    """Served tokens per second with intervals, beside the model without a server.

    What memory bandwidth allows is said, not drawn: it is often far above.
    """
    points = by_load(
        results, lambda row: row.output_per_second.mean, lambda row: row.output_per_second.ci95
    )
    draw_by_load(axes, results, points)
    label = "one stream without a server"
    for at, variant in enumerate(results.variants.values() if points else ()):
        if in_process := variant.in_process_per_second:
            ends = at - HALF_GROUP, at + HALF_GROUP
            axes.hlines(in_process, *ends, LIMIT, "--", linewidth=1.3, label=label)
            label = ""
    title = "Output tokens/s (black: 95 % interval); bandwidth: what it allows one stream"
    finish(axes, results, title, "tokens per second", bandwidth_text)


def draw_ttft(axes: Axes, results: Results) -> None:
    """Time to first token, mean with interval."""
    points = latency_points(results, lambda own: own.ttft, "mean")
    if draw_by_load(axes, results, points, "no answer was streamed"):
        axes.set_yscale("log")  # a queue makes it a hundred times as long
        plain_log(axes.yaxis)
    title = f"Time to first token (TTFT), mean, queue wait included\nblack: {APPROXIMATE_INTERVALS}"
    finish(axes, results, title, "milliseconds")


def draw_itl(axes: Axes, results: Results) -> None:
    """Inter-token latency with intervals: the median as bars, p95 and p99 as marks beside."""
    medians = latency_points(results, lambda own: own.itl, "p50")
    missing = "no answer of more than one token was streamed"
    bars = draw_by_load(axes, results, medians, missing, lambda _: "")
    for container in bars.values():  # inside: above the bars are the marks
        style = {"label_type": "center", "color": "white", "fontsize": 8}
        axes.bar_label(container, fmt=lambda ms: number_text(ms) if ms > 0 else "", **style)
    for percentile, (marker, place) in ITL_MARKS.items():
        points = latency_points(results, lambda own: own.itl, percentile)
        at = {(point.series, point.x): point for point in points}
        marks = [
            (bar.get_x() + place * bar.get_width(), at[load, name])
            for load, container in bars.items()
            for name, bar in zip(results.variants, container, strict=True)
            if (load, name) in at
        ]
        draw_marks(axes, marks, marker, percentile)
    title = f"Inter-token latency (ITL), bars: median\nblack: {APPROXIMATE_INTERVALS}"
    finish(axes, results, title, "milliseconds")


def draw_marks(axes: Axes, marks: list[tuple[float, Point]], marker: str, label: str) -> None:
    """Points with their intervals, at these places."""
    if marks:
        ends = [(point.y - point.ci95[0], point.ci95[1] - point.y) for _, point in marks]
        axes.errorbar(
            [x for x, _ in marks],
            [point.y for _, point in marks],
            list(zip(*ends, strict=True)),
            fmt=marker,
            color="black",
            elinewidth=1,
            markersize=4,
            label=label,
        )


def draw_memory(axes: Axes, results: Results) -> None:
    """Weights beside all that the server's processes hold, and the GPU's memory if there is one."""
    draw_by_kind(
        axes,
        results,
        {
            "weights": lambda variant: variant.own.model_bytes,
            "server processes": lambda v: largest(row.server_memory_bytes for row in v.rows),
            "GPU memory in use": lambda v: largest(row.gpu_memory_bytes for row in v.rows),
        },
        1e6,
    )
    finish(axes, results, "Memory", "megabytes")


def draw_fidelity(axes: Axes, results: Results) -> None:
    """Token agreement with the baseline's greedy answer, and how far the distributions differ."""
    points = by_load(results, lambda row: row.own.token_agreement)
    percents = [point._replace(y=100 * point.y) for point in points]
    draw_by_load(axes, results, percents, "the server tells no token ids")
    title = "Token agreement with the baseline's greedy answer, until the first difference"
    finish(axes, results, title, "percent of tokens", divergence_text)


def draw_startup(axes: Axes, results: Results) -> None:
    """From launch to ready, and what of it is compiling."""
    draw_by_kind(
        axes,
        results,
        {
            "launch to ready, alone": lambda variant: variant.startup_s,
            "compile, first launch": lambda variant: variant.own.compile_s,
            "compile, cached": lambda variant: variant.own.compile_cached_s,
        },
    )
    finish(axes, results, "Start-up", "seconds")


def by_load(
    results: Results,
    value: Callable[[Row], float | None],
    interval: Callable[[Row], tuple[float, float] | None] = lambda _: None,
) -> list[Point]:
    """A point per variant and load at which the value is known."""
    return [
        Point(load_text(row.load.name), name, y, interval(row))
        for name, variant in results.variants.items()
        for row in variant.rows
        if (y := value(row)) is not None
    ]


def latency_points(
    results: Results, latencies: Callable[[TokenRow], Latencies], name: str
) -> list[Point]:
    """A point per variant and load at which the mean or percentile of that name has an interval."""
    points = by_load(
        results,
        lambda row: latencies(row.own)[0][name],
        lambda row: latencies(row.own)[1][name],
    )
    return [point for point in points if point.ci95]


def draw_by_load(
    axes: Axes,
    results: Results,
    points: list[Point],
    missing: str = "",
    text: Callable[[float], str] = number_text,
) -> dict[str, BarContainer]:
    """A bar per variant and load; returns them by load. Without any, the panel says why."""
    if not points:
        note(axes, missing if all_rows(results) else why_empty(results))
        return {}
    looks = {load_text(load): style.colour for load, style in styles(results.loads).items()}
    return draw_bars(axes, points, list(results.variants), looks, text)


def draw_by_kind(
    axes: Axes,
    results: Results,
    kinds: Mapping[str, Callable[[VariantResult], float | None]],
    unit: float = 1.0,
) -> None:
    """A bar per variant and kind of thing; without any, the panel says why."""
    points = [
        Point(kind, name, y / unit)
        for name, variant in results.variants.items()
        for kind, value in kinds.items()
        if (y := value(variant)) is not None
    ]
    colours = dict(zip(kinds, seaborn.color_palette("Set2", len(kinds)), strict=True))
    if points:
        draw_bars(axes, points, list(results.variants), colours)
    else:
        note(axes, why_empty(results))


def largest(values: Iterable[int | None]) -> int | None:
    """The largest of the values that are known."""
    return max((value for value in values if value is not None), default=None)


def bandwidth_text(variant: VariantResult) -> str:
    """What memory bandwidth allows one stream, tokens per second."""
    most = variant.own.theoretical_max_tokens_per_sec
    return "" if most is None else f"bandwidth: {number_text(most)}"


def divergence_text(variant: VariantResult) -> str:
    """How far the distribution of the next token is from the baseline's; agreement in float32."""
    divergence, agreement = variant.own.kl_divergence, variant.own.float32_token_agreement
    lines = [] if divergence is None else [f"KL {divergence:.2g} nats"]
    lines += [] if agreement is None else [f"float32: {100 * agreement:.0f} %"]
    return "\n".join(lines)


def finish(
    axes: Axes,
    results: Results,
    title: str,
    unit: str,
    words: Callable[[VariantResult], str] = lambda _: "",
) -> None:
    """Title, unit, and under each variant's name what else is known of it or that it failed."""
    axes.set_title(title, fontsize=10)
    if not axes.axison:  # a note stands there
        return
    labels = [
        "\n".join(
            filter(
                None,
                (name.replace(AT, f"\n{AT}"), words(variant), "failed" if variant.error else ""),
            )
        )
        for name, variant in results.variants.items()
    ]
    axes.set_xticks(range(len(labels)), labels, fontsize=9)
    axes.set_ylabel(unit)
    low, high = axes.get_ylim()
    if axes.get_yscale() == "log":
        axes.set_ylim(low / 2, high * (high / low) ** 0.3)  # room for the legend
    else:
        axes.set_ylim(0, high * 1.3)
    axes.legend(fontsize=8, loc="upper left", ncols=2)
