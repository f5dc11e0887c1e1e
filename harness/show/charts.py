"""All pictures of a run: throughput, latency, capacity, breakdowns, a page per variant."""

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from harness.judge.capacity import HOLDS, LATE_SHARE, certainty, tallies
from harness.results.schema import Capacity, CapacityWindow, Results
from harness.show.breakdown_charts import breakdown_figures, draw_ceilings
from harness.show.columns import capacity_text
from harness.show.memory import MEMORY_PATH, has_memory, memory_figure
from harness.show.panels import (
    APPROXIMATE_INTERVALS,
    INTERVALS,
    LIMIT,
    Style,
    all_rows,
    draw_cpu,
    draw_gpu,
    draw_served,
    epochs,
    failure_text,
    from_zero,
    legend_below,
    not_below_zero,
    note,
    page,
    plain_log,
    plot_over_load,
    styles,
)
from harness.show.presentation import Presentation

THROUGHPUT_PATH = "throughput/requests_per_second.png"
CAPACITY_PATH = "throughput/capacity.png"
PERCENTILES = "p50", "p95", "p99"


def draw(results: Results, presentation: type[Presentation], directory: Path) -> list[Path]:
    """Write all pictures under `directory`; returns their paths."""
    figures = {
        THROUGHPUT_PATH: throughput_figure(results),
        "throughput/latency.png": latency_figure(results),
    }
    if results.capacity_windows:
        figures[CAPACITY_PATH] = capacity_figure(results)
    if has_memory(results):
        figures[MEMORY_PATH] = memory_figure(results)
    figures |= breakdown_figures(results, presentation)
    for name in results.variants:
        path = f"utilisation/benchmark_results_{name.replace('/', '-')}.png"
        figures[path] = variant_figure(results, presentation, name)
    figures |= presentation.charts(results)
    return [saved(figure, directory / path) for path, figure in figures.items()]


def saved(figure: Figure, path: Path) -> Path:
    """Write one picture; OSError with one sentence if that fails."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=120)
    except OSError as error:
        raise OSError(f"cannot draw {path}: {error.strerror or error}") from error
    return path


def throughput_figure(results: Results) -> Figure:
    """Correct answers per second over the load, with 95 % intervals."""
    figure, (axes,) = page(results, "Served throughput by variant", 1, 1, (9, 5.8))
    plot_over_load(
        axes,
        results,
        lambda row: row.requests_per_second.mean,
        lambda row: row.requests_per_second.ci95,
    )
    axes.set_ylabel(f"requests/s, correct answers only\n({INTERVALS})")
    from_zero(axes)
    legend_below(figure, axes)
    return figure


def latency_figure(results: Results) -> Figure:
    """Latency percentiles over the load, with intervals; one without an interval has no point."""
    title = f"Latency of correct answers by variant; bars: {APPROXIMATE_INTERVALS}"
    figure, panels = page(results, title, 1, len(PERCENTILES), (13, 5.2))
    for axes, percentile in zip(panels, PERCENTILES, strict=True):
        intervals = [row.latency_ci95_ms[percentile] for row in all_rows(results)]
        plot_over_load(
            axes,
            results,
            lambda row, name=percentile: row.latency_ci95_ms[name] and row.latency_ms[name],
            lambda row, name=percentile: row.latency_ci95_ms[name],
        )
        lacking = " (points are missing: too few requests)" if None in intervals else ""
        axes.set_title(f"{percentile}{lacking}", fontsize=10)
        if axes.lines:
            axes.set_yscale("log")
            plain_log(axes.yaxis)
        axes.set_ylabel("milliseconds")
    legend_below(figure, panels[0])
    return figure


def capacity_figure(results: Results) -> Figure:
    """The search for capacity: the late share over the offered rate; each variant's capacity."""
    capacities = {name: each.capacity for name, each in results.variants.items() if each.capacity}
    slo_ms = next(iter(capacities.values())).slo_p99_ms
    sent = f"open loop, Poisson arrivals, {results.request}, {epochs(results)}"
    figure, (late, carried) = page(results, f"Capacity at p99 {slo_ms:g} ms", 1, 2, (14, 6.4), sent)
    looks = styles(results.variants)
    for place, (name, capacity) in enumerate(capacities.items()):
        own = [window for window in results.capacity_windows if window.variant == name]
        draw_late_shares(late, own, looks[name])
        draw_capacity(carried, place, capacity, looks[name])
        label = f"{name}: {capacity_text(capacity)}"
        colour, marker = looks[name]
        late.plot([], [], color=colour, marker=marker, linestyle="none", label=label)
    limit = f"{100 * LATE_SHARE:g} %: what p99 leaves out"
    late.axhline(100 * LATE_SHARE, color=LIMIT, linestyle="--", linewidth=1, label=limit)
    late.set_xscale("log")
    late.set_yscale("symlog", linthresh=100 * LATE_SHARE)
    late.set_ylim(-0.05, 130)
    plain_log(late.xaxis)
    late.yaxis.set_major_formatter("{x:g}")
    late.set_xlabel("offered rate (requests/s)\n(filled: holds for certain; hollow: does not)")
    late.set_ylabel(f"percent of answers later than {slo_ms:g} ms, or not correct")
    carried.set_yticks(range(len(capacities)), capacities)
    carried.set_ylim(len(capacities) - 0.5, -0.5)  # the first one on top
    carried.set_xlim(left=0)
    carried.set_xlabel(f"capacity (requests/s; {INTERVALS}, if there is a second epoch)")
    for axes in (late, carried):
        axes.grid(alpha=0.3)
    legend_below(figure, late, columns=2)
    return figure


def draw_late_shares(axes: Axes, windows: list[CapacityWindow], look: Style) -> None:
    """One variant's late share at every rate that was tried, all windows at it together."""
    for rate, tally in tallies(windows).items():
        axes.scatter(
            rate,
            100 * tally.late / tally.sent,
            s=40,
            marker=look.marker,
            edgecolors=look.colour,
            facecolors=look.colour if certainty(tally) == HOLDS else "none",
        )


def draw_capacity(axes: Axes, place: int, capacity: Capacity, look: Style) -> None:
    """One variant's capacity and its interval, or what is known instead."""
    rate = capacity.requests_per_second
    if rate is None:
        axes.text(0.02, place, capacity_text(capacity), transform=axes.get_yaxis_transform())
        return
    low, high = not_below_zero(rate.ci95) or (rate.mean, rate.mean)
    bar = [[rate.mean - low], [high - rate.mean]]
    axes.errorbar(rate.mean, place, xerr=bar, fmt=look.marker, color=look.colour, capsize=4)


def variant_figure(results: Results, presentation: type[Presentation], name: str) -> Figure:
    """One variant: its ceilings, output per second, CPU by role, GPU; or why there is none."""
    variant = results.variants[name]
    title = f"{results.suite}: {name}"
    figure, (above, served, cpu, gpu) = page(results, title, 2, 2, (13, 8.8))
    draw_ceilings(above, presentation.ceilings(variant), results.unit)
    above.set_title("The ceilings above it", fontsize=10)
    if variant.rows:
        draw_served(served, results, name)
        draw_cpu(cpu, variant.rows, results)
        draw_gpu(gpu, variant.rows, results)
    else:
        for axes in (served, cpu, gpu):
            note(axes, f"not measured: {failure_text(variant.error or 'no result')}")
    return figure
