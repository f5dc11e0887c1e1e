"""Pictures of a result file.

    python -m harness.charts mnist_model_benchmarking/metrics/benchmark_results.json

Throughput and latency over the load for all variants, the model alone over batch size, and one page per variant.
"""

import argparse
import sys
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from harness.result_file import UnusableResultsError, read
from harness.results import Level, Results

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9")  # Okabe and Ito, for every eye
ROLE_COLOURS = {"http": "#0072B2", "queue": "#56B4E9", "workers": "#009E73", "client": "#E69F00"}
ROLE_LABELS = {
    "http": "server: HTTP process", "queue": "server: queue manager", "workers": "server: workers",
    "client": "client (load generator)",
}  # fmt: skip
MARKERS = "osD^vP"
GIB = 2**30


def draw(results: Results, directory: Path) -> list[Path]:
    """Write all pictures under `directory`; returns their paths."""
    pictures = {
        "throughput/requests_per_second.png": throughput_figure(results),
        "throughput/latency.png": latency_figure(results),
    }
    if any(variant.baseline_throughput for variant in results.variants.values()):
        pictures["throughput/model_alone.png"] = model_figure(results)
    for name in results.variants:
        pictures[f"utilisation/benchmark_results_{name}.png"] = variant_figure(results, name)
    return [saved(figure, directory / path) for path, figure in pictures.items()]


def saved(figure: Figure, path: Path) -> Path:
    """Write one picture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
    return path


def page(results: Results, title: str, rows: int, columns: int, size: tuple[float, float]) -> tuple[Figure, list[Axes]]:
    """An empty page with a title and, under it, the machine that was measured."""
    figure, axes = pyplot.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False)
    machine = results.machine
    where = f"{machine['cpu']}, {machine['usable_cores']} cores, {', '.join(machine['gpus']) or 'no GPU'}"
    figure.suptitle(f"{title}\n", fontsize=13)
    figure.text(
        0.5, 0.945 if rows > 1 else 0.925, f"{where}  ·  {load_kind(results)}", ha="center", fontsize=9, color="#555555"
    )
    return figure, list(axes.flat)


def load_kind(results: Results) -> str:
    """How requests were sent, and how often all was repeated."""
    kind = "open loop, Poisson arrivals" if results.settings.get("rate") else "closed loop"
    images = results.settings.get("images_per_request")
    carried = f", {images} image(s) per request" if images else ""
    return f"{kind}{carried}, {results.settings['rounds']} round(s)"


def load_of(level: Level) -> float:
    """Where a row lies on the load axis."""
    return level.concurrency if level.rate is None else level.rate


def beside(load: float, index: int) -> float:
    """Where the mark of the variant of this index stands: beside the others', so that none hides another."""
    return load * 2 ** (0.06 * (index - 2))


def load_axis(axes: Axes, results: Results) -> None:
    """Label the load axis and mark exactly the loads that were measured."""
    loads = sorted({load_of(level) for variant in results.variants.values() for level in variant.levels})
    axes.set_xscale("log", base=2)
    axes.set_xticks(loads, [f"{load:g}" for load in loads])
    axes.minorticks_off()
    axes.set_xlabel(
        "requests per second offered" if results.settings.get("rate") else "concurrency (requests in flight)"
    )
    axes.grid(alpha=0.3)


def plot_over_load(axes: Axes, results: Results, value: Callable[[Level], float | None]) -> None:
    """One line per variant, with a marker where the value is known."""
    for index, (name, variant) in enumerate(results.variants.items()):
        points = [(beside(load_of(level), index), value(level)) for level in variant.levels]
        points = [(x, y) for x, y in points if y is not None]
        if points:
            axes.plot(*zip(*points, strict=True), marker=MARKERS[index % 6], color=COLOURS[index % 6], label=name)
    load_axis(axes, results)


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


def variant_figure(results: Results, name: str) -> Figure:
    """One variant: model and server throughput, CPU by role, GPU or a note that there is none."""
    variant = results.variants[name]
    figure, (alone, served, cpu, gpu) = page(results, f"{results.suite}: {name}", 2, 2, (12, 8.5))
    draw_model(alone, results, name)
    if variant.levels:
        draw_served(served, results, name)
        draw_cpu(cpu, variant.levels, results)
        draw_gpu(gpu, variant.levels, results)
    else:
        for axes in (served, cpu, gpu):
            note(axes, f"not measured: {(variant.error or 'no result').splitlines()[0][:90]}")
    return figure


def note(axes: Axes, text: str) -> None:
    """A panel without a picture says why."""
    axes.axis("off")
    axes.text(0.5, 0.5, text, ha="center", va="center", wrap=True, color="#555555")


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


def draw_served(axes: Axes, results: Results, name: str) -> None:
    levels = results.variants[name].levels
    loads = [load_of(level) for level in levels]
    rates = [level.output for level in levels]
    errors = [
        (0, 0) if rate.ci95 is None else (rate.mean - max(0, rate.ci95[0]), rate.ci95[1] - rate.mean) for rate in rates
    ]
    means = [rate.mean for rate in rates]
    axes.errorbar(loads, means, list(zip(*errors, strict=True)), marker="o", color=COLOURS[0], capsize=4)
    for load, value in zip(loads, means, strict=True):
        axes.annotate(f"{value:,.0f}", (load, value), textcoords="offset points", xytext=(8, -12), fontsize=9)
    load_axis(axes, results)
    axes.margins(x=0.13)
    axes.set_ylim(bottom=0)
    axes.set_ylabel("images per second, right answers")
    axes.set_title("Served over HTTP (bars: 95 % interval over rounds)", fontsize=10)


def draw_cpu(axes: Axes, levels: list[Level], results: Results) -> None:
    """Stacked bars by role, under the line of all usable cores."""
    known = [role for role in ROLE_COLOURS if all(level.cpu_percent.get(role) is not None for level in levels)]
    bottoms = [0.0] * len(levels)
    for role in known:
        heights = [level.cpu_percent[role] for level in levels]
        axes.bar(range(len(levels)), heights, 0.6, bottoms, color=ROLE_COLOURS[role], label=ROLE_LABELS[role])
        bottoms = [bottom + height for bottom, height in zip(bottoms, heights, strict=True)]
    limit = 100 * results.machine["usable_cores"]
    axes.axhline(limit, color="#D55E00", linestyle="--", linewidth=1, label="all usable cores")
    machine = [level.cpu_percent["machine"] for level in levels]
    axes.plot(range(len(levels)), machine, "k_", markersize=22, label="the whole machine")
    axes.set_xticks(range(len(levels)), [f"{load_of(level):g}" for level in levels])
    axes.set_xlabel(
        "requests per second offered" if results.settings.get("rate") else "concurrency (requests in flight)"
    )
    axes.set_ylabel("CPU, percent of one core")
    axes.set_ylim(0, 1.55 * max(limit, *bottoms))
    axes.set_title(
        "CPU by role" if "http" in known else "CPU (the server's own is unknown: not launched here)", fontsize=10
    )
    axes.legend(fontsize=8, ncols=2, loc="upper left")


def draw_gpu(axes: Axes, levels: list[Level], results: Results) -> None:
    """GPU activity, memory and power per load, or why there is nothing to see."""
    if all(level.gpu_percent is None and level.gpu_memory_bytes is None for level in levels):
        note(axes, "no GPU was found: nothing to show" if not results.machine["gpus"] else "the GPU told nothing")
        return
    positions = range(len(levels))
    told = [(position, level.gpu_percent) for position, level in enumerate(levels) if level.gpu_percent is not None]
    axes.bar([position for position, _ in told], [percent for _, percent in told], 0.6, color=COLOURS[2])
    for position, level in zip(positions, levels, strict=True):
        words = ["activity unknown"] if level.gpu_percent is None else []
        words += [f"{level.gpu_memory_bytes / GIB:.1f} GiB"] if level.gpu_memory_bytes else []
        words += [f"{level.gpu_power_w:.0f} W"] if level.gpu_power_w is not None else []
        height = 0 if level.gpu_percent is None else level.gpu_percent
        axes.annotate("\n".join(words), (position, height), ha="center", va="bottom", fontsize=9)
    axes.set_xticks(positions, [f"{load_of(level):g}" for level in levels])
    axes.set_xlabel(
        "requests per second offered" if results.settings.get("rate") else "concurrency (requests in flight)"
    )
    axes.set_ylim(0, 120)
    axes.set_ylabel("percent of time with any kernel running")
    axes.set_title("GPU activity (not how full it was), memory in use, power", fontsize=10)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m harness.charts", description="Draw the charts of a result file.")
    parser.add_argument("results", type=Path, help="a benchmark_results.json; the charts go beside it")
    path = parser.parse_args().results
    try:
        for picture in draw(read(path), path.parent):
            print(f"wrote {picture}")
    except UnusableResultsError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
