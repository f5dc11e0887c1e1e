"""What pages of all suites are made of: the page with its machine, lines over the load, CPU, GPU, or a note."""

from collections.abc import Callable

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from harness.results.run import Results
from harness.results.rows import Level

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9")  # Okabe and Ito, for every eye
ROLE_COLOURS = {"http": "#0072B2", "queue": "#56B4E9", "workers": "#009E73", "client": "#E69F00"}
ROLE_LABELS = {
    "http": "server: HTTP process", "queue": "server: queue manager", "workers": "server: workers",
    "client": "client (load generator)",
}  # fmt: skip
MARKERS = "osD^vP"
UNITS = {"mnist": "images", "llm": "output tokens"}
GIB = 2**30
MACHINE_INCHES = 0.43  # below the top of the page: the line that names the machine


def page(
    results: Results, title: str, rows: int, columns: int, size: tuple[float, float], load: str | None = None
) -> tuple[Figure, list[Axes]]:
    """An empty page with a title and, under it, the machine that was measured and how: `load`, or what rows say."""
    figure, axes = pyplot.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False)
    machine = results.machine
    where = f"{machine['cpu']}, {machine['usable_cores']} cores, {', '.join(machine['gpus']) or 'no GPU'}"
    figure.suptitle(f"{title}\n", fontsize=13)
    under = f"{where}  ·  {load or load_kind(results)}"
    figure.text(0.5, 1 - MACHINE_INCHES / size[1], under, ha="center", fontsize=9, color="#555555")
    return figure, list(axes.flat)


def load_kind(results: Results) -> str:
    """How requests were sent, and how often all was repeated."""
    kind = "open loop, Poisson arrivals" if results.settings.get("rate") else "closed loop"
    settings = results.settings
    if results.suite == "llm":
        carried = f"{settings.get('prompt_tokens')} tokens in, {settings.get('output_tokens')} out"
        carried += ", RANDOM WEIGHTS" if settings.get("weights") == "random" else ""
    else:
        size = settings.get("image_size")
        of = f" of {size} x {size} pixels" if size else ""
        carried = f"{settings.get('images_per_request', 1)} image(s){of} per request"
    return f"{kind}, {carried}, {settings['rounds']} round(s)"


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


def note(axes: Axes, text: str) -> None:
    """A panel without a picture says why."""
    axes.axis("off")
    axes.text(0.5, 0.5, text, ha="center", va="center", wrap=True, color="#555555")


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
        axes.annotate(
            f"{value:,.{0 if value >= 100 else 1}f}",
            (load, value),
            textcoords="offset points",
            xytext=(8, -12),
            fontsize=9,
        )
    load_axis(axes, results)
    axes.margins(x=0.13)
    axes.set_ylim(bottom=0)
    axes.set_ylabel(f"{UNITS[results.suite]} per second, right answers")
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
        energy_j = level.gpu_energy_j_per_request
        words += [f"{energy_j:.3g} J/request"] if energy_j is not None else []
        height = 0 if level.gpu_percent is None else level.gpu_percent
        axes.annotate("\n".join(words), (position, height), ha="center", va="bottom", fontsize=9)
    axes.set_xticks(positions, [f"{load_of(level):g}" for level in levels])
    axes.set_xlabel(
        "requests per second offered" if results.settings.get("rate") else "concurrency (requests in flight)"
    )
    axes.set_ylim(0, 120)
    axes.set_ylabel("percent of time with any kernel running")
    axes.set_title("GPU activity (not how full it was), memory in use, power", fontsize=10)
