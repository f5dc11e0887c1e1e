"""Pictures of a result file.

    python -m harness.show.charts mnist_model_benchmarking/metrics/benchmark_results.json

Images: throughput and latency over the load for all variants, and the model alone over batch size. Tokens: one page of
metrics. Both: where the time went, capacity if it was searched, and one page per variant.
"""

import argparse
import sys
from collections import defaultdict
from pathlib import Path

from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from harness.show.breakdown_charts import anatomy_figures
from harness.show.panels import (
    COLOURS,
    MARKERS,
    beside,
    draw_cpu,
    draw_gpu,
    draw_served,
    load_of,
    note,
    page,
    plot_over_load,
)
from harness.results.file import UnusableResultsError, read
from harness.results.run import Results, TokenVariant
from llm_model_benchmarking.charts import ceilings_panel, metrics_figure


def draw(results: Results, directory: Path) -> list[Path]:
    """Write all pictures under `directory`; returns their paths."""
    if results.suite == "llm":
        pictures = {"benchmark_metrics.png": metrics_figure(results)}
    else:
        pictures = {
            "throughput/requests_per_second.png": throughput_figure(results),
            "throughput/latency.png": latency_figure(results),
        }
        if any(variant.baseline_throughput for variant in results.variants.values()):
            pictures["throughput/model_alone.png"] = model_figure(results)
    if any(variant.capacity for variant in results.variants.values()):
        pictures["latency_over_rate.png"] = capacity_figure(results)
    pictures |= anatomy_figures(results)
    for name in results.variants:
        pictures[f"utilisation/benchmark_results_{name}.png"] = variant_figure(results, name)
    return [saved(figure, directory / path) for path, figure in pictures.items()]


def saved(figure: Figure, path: Path) -> Path:
    """Write one picture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
    return path


def throughput_figure(results: Results) -> Figure:
    """Right answers per second over the load, with 95 % intervals over rounds."""
    figure, (axes,) = page(results, "Served throughput by variant", 1, 1, (9, 5.6))
    plot_over_load(axes, results, lambda level: level.requests_per_second.mean)
    for index, variant in enumerate(results.variants.values()):
        for level in variant.levels:
            if level.requests_per_second.ci95:
                low, high = level.requests_per_second.ci95
                axes.vlines(
                    beside(load_of(level), index), max(0, low), high, color=COLOURS[index % 6], alpha=0.45, linewidth=5
                )
    axes.set_ylabel("right answers per second\n(bars: 95 % interval over rounds)")
    axes.set_ylim(bottom=0)
    axes.legend()
    return figure


def latency_figure(results: Results) -> Figure:
    """Latency percentiles over the load; a percentile without enough requests behind it has no point."""
    figure, panels = page(results, "Latency of right answers by variant", 1, 3, (13, 5))
    for axes, percentile in zip(panels, ("p50", "p95", "p99"), strict=True):
        plot_over_load(axes, results, lambda level, name=percentile: level.latency_ms[name])
        measured = sum(len(variant.levels) for variant in results.variants.values())
        drawn = sum(len(line.get_xdata()) for line in axes.lines)
        axes.set_title(percentile if drawn == measured else f"{percentile} (no point: too few requests)", fontsize=10)
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.set_ylabel("milliseconds")
    if panels[0].lines:
        panels[0].legend(fontsize=8)
    return figure


def model_figure(results: Results) -> Figure:
    """The model alone: one line per precision, named after the variants that share it."""
    figure, (axes,) = page(results, "The model alone, without a server", 1, 1, (9, 5.6))
    sharing = defaultdict(list)
    for name, variant in results.variants.items():
        if variant.baseline_throughput:
            alone = variant.baseline_throughput
            sharing[tuple(alone.batch_sizes), tuple(alone.images_per_second)].append(name)
    for index, ((sizes, rates), names) in enumerate(sharing.items()):
        axes.plot(sizes, rates, marker=MARKERS[index], color=COLOURS[index], label=", ".join(names))
        axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.set_xlabel("batch size (images per forward pass)")
    axes.set_ylabel("images per second, one process")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=9)
    return figure


def capacity_figure(results: Results) -> Figure:
    """The search for capacity: every window's p99 over the rate offered, and the rate that each variant carries."""
    found = {name: variant.capacity for name, variant in results.variants.items() if variant.capacity}
    figure, (axes,) = page(results, "Capacity under a promise", 1, 1, (10, 6), load="open loop, Poisson arrivals")
    for index, (name, capacity) in enumerate(found.items()):
        style = {"color": COLOURS[index % 6], "marker": MARKERS[index % 6], "s": 45}
        for held in (True, False):
            points = [
                (window.rate, window.latency_ms["p99"])
                for window in capacity.windows
                if window.held == held and window.latency_ms["p99"] is not None
            ]
            if points:
                axes.scatter(*zip(*points, strict=True), **style, facecolors=style["color"] if held else "none")
        axes.plot([], [], color=style["color"], marker=style["marker"], linestyle="none",
                  label=f"{name}: {capacity.text}")  # fmt: skip
        if capacity.requests_per_second is not None:
            axes.axvline(capacity.requests_per_second, color=style["color"], linewidth=1, alpha=0.6)
    promise_ms = next(iter(found.values())).p99_ms
    axes.axhline(promise_ms, color="#D55E00", linestyle="--", linewidth=1, label=f"the promise: {promise_ms:g} ms")
    axes.set(xscale="log", yscale="log")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter("{x:g}")
        axis.set_tick_params(which="minor", labelsize=7)
    axes.set_xlabel("requests per second offered\n(filled: the window held; hollow: too slow, or a request failed)")
    axes.set_ylabel("p99 of the latency in milliseconds, one point per window")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=9)
    return figure


def variant_figure(results: Results, name: str) -> Figure:
    """One variant: model and server throughput, CPU by role, GPU or a note that there is none."""
    variant = results.variants[name]
    figure, (alone, served, cpu, gpu) = page(results, f"{results.suite}: {name}", 2, 2, (12, 8.5))
    if isinstance(variant, TokenVariant):
        ceilings_panel(alone, variant)
    else:
        draw_model(alone, results, name)
    if variant.levels:
        draw_served(served, results, name)
        draw_cpu(cpu, variant.levels, results)
        draw_gpu(gpu, variant.levels, results)
    else:
        for axes in (served, cpu, gpu):
            note(axes, f"not measured: {(variant.error or 'no result').splitlines()[0][:90]}")
    return figure


def draw_model(axes: Axes, results: Results, name: str) -> None:
    alone = results.variants[name].baseline_throughput
    if alone is None:
        note(axes, "the model alone was not measured")
        return
    positions = range(len(alone.batch_sizes))
    bars = axes.bar(positions, alone.images_per_second, color="#999999", width=0.6)
    axes.bar_label(bars, fmt="{:,.0f}", fontsize=9)
    axes.set_xticks(positions, [str(size) for size in alone.batch_sizes])
    axes.set_xlabel("batch size (images per forward pass)")
    axes.set_ylabel("images per second")
    axes.set_title("The model alone, without a server", fontsize=10)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m harness.show.charts", description="Draw the charts of a result file.")
    parser.add_argument("results", type=Path, help="a benchmark_results.json; the charts go beside it")
    path = parser.parse_args().results
    try:
        for picture in draw(read(path), path.parent):
            print(f"wrote {picture}")
    except UnusableResultsError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
