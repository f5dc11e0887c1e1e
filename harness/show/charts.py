"""All pictures of a run: throughput, latency, capacity, breakdowns, a page per variant."""

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from harness.results.schema import Results, VariantResult
from harness.show.breakdown_charts import breakdown_figures, draw_ceilings
from harness.show.panels import (
    INTERVALS,
    LIMIT,
    Style,
    all_rows,
    draw_cpu,
    draw_gpu,
    draw_served,
    failure_text,
    legend_below,
    note,
    page,
    plain_log,
    plot_over_load,
    styles,
)
from harness.show.presentation import Presentation

THROUGHPUT_PATH = "throughput/requests_per_second.png"
PERCENTILES = "p50", "p95", "p99"


def draw(results: Results, presentation: type[Presentation], directory: Path) -> list[Path]:
    """Write all pictures under `directory`; returns their paths."""
    figures = {
        THROUGHPUT_PATH: throughput_figure(results),
        "throughput/latency.png": latency_figure(results),
    }
    if any(variant.capacity for variant in results.variants.values()):
        figures["latency_over_rate.png"] = capacity_figure(results)
    figures |= breakdown_figures(results, presentation)
    for name in results.variants:
        path = f"utilisation/benchmark_results_{name}.png"
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
    axes.set_ylim(bottom=0)
    legend_below(figure, axes)
    return figure


def latency_figure(results: Results) -> Figure:
    """Latency percentiles over the load; without enough requests behind it, one has no point."""
    title = "Latency of correct answers by variant"
    figure, panels = page(results, title, 1, len(PERCENTILES), (13, 5.2))
    for axes, percentile in zip(panels, PERCENTILES, strict=True):
        values = [row.latency_ms[percentile] for row in all_rows(results)]
        plot_over_load(axes, results, lambda row, name=percentile: row.latency_ms[name])
        lacking = " (points are missing: too few requests)" if None in values else ""
        axes.set_title(f"{percentile}{lacking}", fontsize=10)
        if axes.lines:
            axes.set_yscale("log")
            plain_log(axes.yaxis)
        axes.set_ylabel("milliseconds")
    legend_below(figure, panels[0])
    return figure


def capacity_figure(results: Results) -> Figure:
    """The search for capacity: each window's p99 over its offered rate, and the capacity."""
    searched = {name: each for name, each in results.variants.items() if each.capacity}
    sent = f"open loop, Poisson arrivals, {results.request}"
    figure, (axes,) = page(results, "Capacity under an SLO", 1, 1, (10, 6.4), sent)
    looks = styles(results.variants)
    for name, variant in searched.items():
        draw_search(axes, name, variant, looks[name])
    slo_ms = next(iter(searched.values())).capacity.slo_p99_ms
    axes.axhline(slo_ms, color=LIMIT, linestyle="--", linewidth=1, label=f"SLO: {slo_ms:g} ms")
    axes.set(xscale="log", yscale="log")
    plain_log(axes.xaxis)
    plain_log(axes.yaxis)
    axes.set_xlabel(
        "offered rate (requests/s)\n(filled: the window kept the SLO; hollow: it did not)"
    )
    axes.set_ylabel("p99 of the latency in milliseconds, one point per window")
    axes.grid(alpha=0.3)
    legend_below(figure, axes, columns=2)
    return figure


def draw_search(axes: Axes, name: str, variant: VariantResult, look: Style) -> None:
    """The windows of one search, and a line at the highest rate that held."""
    capacity, (colour, marker) = variant.capacity, look
    for held, fill in ((True, colour), (False, "none")):
        points = [
            (window.offered_rate, window.latency_ms["p99"])
            for window in capacity.windows
            if window.held == held and window.latency_ms["p99"] is not None
        ]
        rates, latencies = zip(*points, strict=True) if points else ((), ())
        axes.scatter(rates, latencies, s=45, marker=marker, edgecolors=colour, facecolors=fill)
    label = f"{name}: {capacity.text}"
    axes.plot([], [], color=colour, marker=marker, linestyle="none", label=label)
    if capacity.requests_per_second is not None:
        axes.axvline(capacity.requests_per_second, color=colour, linewidth=1, alpha=0.6)


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
