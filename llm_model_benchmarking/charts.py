"""The pictures of a language model's results: speed against its ceilings, waiting, memory, fidelity, starting up."""

from collections.abc import Callable

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from harness.show.panels import COLOURS, note, page
from harness.results.run import Results, TokenVariant
from harness.results.rows import TokenLevel

WIDTH = 0.8  # of all bars of one variant


def metrics_figure(results: Results) -> Figure:
    """benchmark_metrics.png: six panels, variants side by side, one bar per load."""
    figure, (speed, first, gap, memory, fidelity, start) = page(results, "Language model servers", 2, 3, (16, 9.5))
    variants = results.variants
    draw_speed(speed, variants)
    draw_levels(first, variants, lambda level: level.time_to_first_token_ms["mean"])
    label(first, "Time to first token, mean (queue included)", "milliseconds")
    draw_gaps(gap, variants)
    draw_memory(memory, variants)
    draw_fidelity(fidelity, variants)
    draw_start(start, variants)
    return figure


def label(axes: Axes, title: str, unit: str) -> None:
    """Title and unit of a panel whose bars start at zero, with room for a legend."""
    axes.set_title(title, fontsize=10)
    axes.set_ylabel(unit)
    axes.set_ylim(0, axes.get_ylim()[1] * 1.25)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=8, loc="upper left", ncols=2)


def loads_of(variants: dict[str, TokenVariant]) -> list[str]:
    """Names of the loads that were measured, in order."""
    return list(dict.fromkeys(level.name for variant in variants.values() for level in variant.levels))


def draw_levels(
    axes: Axes, variants: dict[str, TokenVariant], value: Callable[[TokenLevel], float | None]
) -> dict[tuple[str, str], tuple[float, TokenLevel]]:
    """A bar per variant and load; returns where each stands."""
    loads, places = loads_of(variants), {}
    for at, (name, variant) in enumerate(variants.items()):
        for level in variant.levels:
            width = WIDTH / len(loads)
            places[name, level.name] = (at + (loads.index(level.name) - (len(loads) - 1) / 2) * width, level)
    for index, load in enumerate(loads):
        bars = [(x, value(level)) for (_, name), (x, level) in places.items() if name == load]
        bars = [(x, height) for x, height in bars if height is not None]
        if bars:
            drawn = axes.bar(*zip(*bars, strict=True), WIDTH / len(loads) * 0.92, color=COLOURS[index % 6],
                             label=f"{load} in flight" if load.isdigit() else f"{load} offered")  # fmt: skip
            axes.bar_label(drawn, fmt=figure_text, fontsize=8)
    axes.set_xticks(range(len(variants)), list(variants))
    return places


def figure_text(value: float) -> str:
    """A number with as many digits as matter."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def draw_speed(axes: Axes, variants: dict[str, TokenVariant]) -> None:
    """Served tokens per second with intervals, beside the model without a server; the ceiling is told, not drawn."""
    for x, level in draw_levels(axes, variants, lambda level: level.output.mean).values():
        if level.output.ci95:
            axes.vlines(x + 0.12, max(0, level.output.ci95[0]), level.output.ci95[1], color="black", linewidth=1.5)
    known = [
        (at, variant.in_process_tokens_per_second.mean)
        for at, variant in enumerate(variants.values())
        if variant.in_process_tokens_per_second
    ]
    for index, (at, value) in enumerate(known):
        text = "" if index else "one stream without a server"
        axes.hlines(value, at - 0.45, at + 0.45, "#D55E00", "--", linewidth=1.3, label=text)
    told = [
        name
        if variant.theoretical_max_tokens_per_sec is None
        else f"{name}\n(bandwidth: {figure_text(variant.theoretical_max_tokens_per_sec)})"
        for name, variant in variants.items()
    ]
    axes.set_xticks(range(len(variants)), told)
    label(axes, "Output tokens per second, and what memory bandwidth allows one stream", "tokens per second")


def draw_gaps(axes: Axes, variants: dict[str, TokenVariant]) -> None:
    """Median gap as bars, p95 and p99 as marks."""
    places = draw_levels(axes, variants, lambda level: level.inter_token_latency_ms["p50"])
    for percentile, marker in (("p95", "_"), ("p99", "x")):
        points = [(x, level.inter_token_latency_ms[percentile]) for x, level in places.values()]
        points = [(x, y) for x, y in points if y is not None]
        if points:
            axes.plot(*zip(*points, strict=True), marker, color="black", markersize=9, label=percentile)
    label(axes, "Gap between tokens (bars: median)", "milliseconds")


def draw_memory(axes: Axes, variants: dict[str, TokenVariant]) -> None:
    """Weights beside all that the server's processes hold, and on the GPU if there is one."""
    rows = {
        "weights": [variant.model_bytes for variant in variants.values()],
        "server processes": [most(level.server_memory_bytes for level in v.levels) for v in variants.values()],
        "GPU memory in use": [most(level.gpu_memory_bytes for level in v.levels) for v in variants.values()],
    }
    rows = {text: values for text, values in rows.items() if any(value is not None for value in values)}
    for index, (text, values) in enumerate(rows.items()):
        width = WIDTH / len(rows)
        bars = [
            (at + (index - (len(rows) - 1) / 2) * width, value / 1e6) for at, value in enumerate(values)
            if value is not None
        ]  # fmt: skip
        drawn = axes.bar(*zip(*bars, strict=True), width * 0.92, color=COLOURS[index + 2], label=text)
        axes.bar_label(drawn, fmt="{:,.0f}", fontsize=8)
    axes.set_xticks(range(len(variants)), list(variants))
    label(axes, "Memory", "megabytes")


def most(values: object) -> float | None:
    """The largest of the values that are known."""
    return max((value for value in values if value is not None), default=None)


def draw_fidelity(axes: Axes, variants: dict[str, TokenVariant]) -> None:
    """Tokens that follow the baseline's greedy answer, and how far the distributions are from its own."""
    draw_levels(axes, variants, lambda level: None if level.token_agreement is None else 100 * level.token_agreement)
    told = [
        name if variant.kl_divergence is None else f"{name}\nKL {variant.kl_divergence:.2g} nats"
        for name, variant in variants.items()
    ]
    axes.set_xticks(range(len(variants)), told)
    label(axes, "Fidelity: tokens as the baseline's greedy answer, until the first that differs", "percent of tokens")


def draw_start(axes: Axes, variants: dict[str, TokenVariant]) -> None:
    """From launch to ready, and what of it is compiling."""
    rows = {
        "launch to ready, mean": [variant.startup_s for variant in variants.values()],
        "compile, first launch": [variant.compile_s for variant in variants.values()],
        "compile, cached": [variant.compile_cached_s for variant in variants.values()],
    }
    for index, (text, values) in enumerate(rows.items()):
        bars = [(at + (index - 1) * WIDTH / 3, value) for at, value in enumerate(values) if value is not None]
        if bars:
            drawn = axes.bar(*zip(*bars, strict=True), WIDTH / 3 * 0.92, color=COLOURS[index + 3], label=text)
            axes.bar_label(drawn, fmt="{:.0f}", fontsize=8)
    axes.set_xticks(range(len(variants)), list(variants))
    axes.set_xlim(-0.5, len(variants) - 0.5)
    label(axes, "Starting up", "seconds")


def ceilings_panel(axes: Axes, variant: TokenVariant) -> None:
    """One stream: what bandwidth allows, the model in process, the model served."""
    rows = {
        "memory bandwidth\nallows": variant.theoretical_max_tokens_per_sec,
        "without a server": getattr(variant.in_process_tokens_per_second, "mean", None),
        "served": variant.avg_tokens_per_sec,
    }
    known = {text: value for text, value in rows.items() if value is not None}
    if not known:
        note(axes, "no single stream was measured")
        return
    axes.bar_label(axes.bar(list(known), list(known.values()), 0.6, color="#999999"), fmt="{:.1f}", fontsize=9)
    axes.set_ylabel("tokens per second")
    axes.set_title("One stream and its ceilings", fontsize=10)
