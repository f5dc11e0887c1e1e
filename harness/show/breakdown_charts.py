"""Pictures of why: where a request's time went, what a change saved and cost, the ceilings, the batches formed."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from harness.judge.bottlenecks import difference_ms, ladder, name_of, pairs, parts_ms
from harness.show.panels import note, page
from harness.results.run import Results
from harness.results.rows import Level

PART_COLOURS = {
    "floor": "#999999", "arriving": "#F0E442", "queue": "#E69F00", "returning": "#D55E00", "waiting": "#E69F00",
    "decode": "#56B4E9", "collate": "#CC79A7", "predict": "#0072B2", "encode": "#009E73",
    "tokenise": "#56B4E9", "prefill": "#CC79A7", "decode_steps": "#0072B2", "send": "#009E73", "unexplained": "#000000",
}  # fmt: skip
SAVED, COST, WHOLE = "#009E73", "#D55E00", "#555555"


def anatomy_figures(results: Results) -> dict[str, Figure]:
    """The pictures there is something to show on, by path."""
    levels = [level for variant in results.variants.values() for level in variant.levels]
    found: dict[str, Figure] = {}
    if any(parts_ms(level) for level in levels):
        found["anatomy/stages.png"] = stages_figure(results)
    if pairs(results):
        found["anatomy/differences.png"] = differences_figure(results)
    if any(len(ladder(results, name)) > 1 for name in results.variants):
        found["anatomy/ladder.png"] = ladder_figure(results)
    if any(len(level.batch_sizes) > 1 for level in levels):
        found["anatomy/batch_sizes.png"] = batches_figure(results)
    return found


def columns(results: Results, title: str, panels: int, size: tuple[float, float]) -> tuple[Figure, list[Axes]]:
    """A page of so many panels, two in a row; those left over stay empty."""
    wide = min(2, panels)
    tall = -(-panels // wide)
    figure, axes = page(results, title, tall, wide, (size[0] * wide, 1 + size[1] * tall))
    for spare in axes[panels:]:
        spare.axis("off")
    return figure, axes


def stages_figure(results: Results) -> Figure:
    """A panel per load: one bar per variant, as long as its mean latency."""
    loads = list(dict.fromkeys(level.name for variant in results.variants.values() for level in variant.levels))
    figure, panels = columns(results, "Where the time of a mean request went", len(loads), (7.5, 4))
    seen: dict[str, None] = {}
    for axes, load in zip(panels, loads, strict=False):
        rows = {
            name: parts_ms(level)
            for name, variant in results.variants.items()
            for level in variant.levels
            if level.name == load
        }
        seen |= dict.fromkeys(part for parts in rows.values() for part in parts)
        stack(axes, rows)
        axes.set_title(f"requests in flight: {load}" if load.isdigit() else f"offered: {load}", fontsize=10)
    handles = [figure_handle(panels[0], part) for part in seen]
    figure.legend(handles=handles, loc="outside lower center", ncols=5, fontsize=9)
    return figure


def figure_handle(axes: Axes, part: str) -> object:
    """A legend's entry for one part, whether or not the first panel has it."""
    return axes.bar([0], [0], color=PART_COLOURS[part], label=name_of(part))


def stack(axes: Axes, rows: dict[str, dict[str, float]]) -> None:
    """Horizontal bars of parts laid end to end, the first row on top; what is below zero is laid to the left."""
    for index, parts in enumerate(rows.values()):
        right = left = 0.0
        for part, spent in parts.items():
            axes.barh(index, spent, 0.65, right if spent >= 0 else left, color=PART_COLOURS[part])
            right, left = right + max(0.0, spent), left + min(0.0, spent)
        text = f" {sum(parts.values()):,.1f} ms" if parts else " where its time went is not known"
        axes.text(right, index, text, va="center", fontsize=9)
    axes.set_yticks(range(len(rows)), list(rows))
    axes.invert_yaxis()
    axes.set_xlim(right=1.2 * axes.get_xlim()[1])
    axes.set_xlabel("milliseconds")
    axes.grid(axis="x", alpha=0.3)


def differences_figure(results: Results) -> Figure:
    """A waterfall per variant: from the mean latency of the one it builds on to its own."""
    found = pairs(results)
    figure, panels = columns(results, "What each variant saved and cost in a mean request", len(found), (7.5, 4.2))
    for axes, (name, against, old, new) in zip(panels, found, strict=False):
        waterfall(axes, against, name, old, new)
        axes.set_title(f"{name} against {against} at {new.name}", fontsize=10)
    return figure


def waterfall(axes: Axes, against: str, name: str, old: Level, new: Level) -> None:
    """The old mean latency, each part's change where the last one ended, the new mean latency."""
    at, changes = sum(parts_ms(old).values()), difference_ms(old, new)
    labels, bars = [against, *map(name_of, changes), name], []
    bars.append(axes.barh(0, at, 0.65, color=WHOLE))
    for index, change in enumerate(changes.values(), start=1):
        bars.append(axes.barh(index, change, 0.65, at, color=COST if change > 0 else SAVED))
        at += change
    bars.append(axes.barh(len(labels) - 1, at, 0.65, color=WHOLE))
    values = [sum(parts_ms(old).values()), *changes.values(), at]
    for index, (container, value) in enumerate(zip(bars, values, strict=True)):
        whole = index in (0, len(labels) - 1)
        right = max(container[0].get_x(), container[0].get_x() + container[0].get_width())
        axes.text(right, index, f" {value:,.1f} ms" if whole else f" {value:+,.1f}", va="center", fontsize=8)
    axes.set_yticks(range(len(labels)), labels, fontsize=8)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.2 * axes.get_xlim()[1])
    axes.set_xlabel("milliseconds (green: saved, orange: cost)")
    axes.grid(axis="x", alpha=0.3)


def ladder_figure(results: Results) -> Figure:
    """A panel per variant: its ceilings, each as a share of the one above."""
    names = [name for name in results.variants if ladder(results, name)]
    figure, panels = columns(results, "The ceilings above each variant", len(names), (7.5, 2.6))
    for axes, name in zip(panels, names, strict=False):
        rungs = ladder(results, name)
        drawn = axes.barh(range(len(rungs)), [rung.per_second for rung in rungs], 0.65, color=WHOLE)
        drawn[-1].set_color(SAVED)
        for index, rung in enumerate(rungs):
            share = "" if rung.share is None else f" ({percent(rung.share)} of the one above)"
            axes.text(rung.per_second, index, f" {rung.per_second:,.0f}{share}", va="center", fontsize=8)
        axes.set_yticks(range(len(rungs)), [rung.name for rung in rungs], fontsize=8)
        axes.invert_yaxis()
        axes.set_xlim(right=axes.get_xlim()[1] * 1.35)
        axes.set_xlabel("images per second")
        axes.set_title(name, fontsize=10)
    return figure


def percent(share: float) -> str:
    """A share for people; a small one is not told as nothing."""
    return f"{100 * share:,.{0 if share >= 0.01 else 1}f} %"


def batches_figure(results: Results) -> Figure:
    """A panel per variant: how many of the requests were served in batches of which size, at the highest load."""
    highest = {name: variant.levels[-1] for name, variant in results.variants.items() if variant.levels}
    figure, panels = columns(results, "Batches that were really formed", len(highest), (7.5, 3))
    for axes, (name, level) in zip(panels, highest.items(), strict=False):
        batches(axes, level)
        axes.set_title(f"{name} at {level.name}{shares(level)}", fontsize=10)
    return figure


def batches(axes: Axes, level: Level) -> None:
    requests = sum(size * count for size, count in level.batch_sizes.items())
    if not requests:
        note(axes, "the server told nothing about its batches")
        return
    percents = {size: 100 * size * count / requests for size, count in level.batch_sizes.items()}
    axes.bar(percents.keys(), percents.values(), 0.8, color=PART_COLOURS["predict"])
    axes.set_xlim(0.4, max(8, *percents) + 0.6)
    axes.set_xlabel("batch size (requests)")
    axes.set_ylabel("percent of the requests")


def shares(level: Level) -> str:
    """How the requests were spread over workers, if there are several."""
    if len(level.worker_shares) < 2:
        return ""
    return f"; share per worker: {', '.join(f'{100 * share:.0f} %' for share in level.worker_shares)}"
