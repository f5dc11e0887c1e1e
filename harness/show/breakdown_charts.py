"""Pictures of why: the breakdown of a request, what a change saved and cost, ceilings, batches."""

from itertools import pairwise

import pandas
import seaborn
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from harness.judge.bottlenecks import Step, difference_ms, part_name, steps
from harness.results.breakdown import (
    INGRESS,
    OUTSIDE_WORKER,
    QUEUE_WAIT,
    RESPONSE_PATH,
    UNEXPLAINED,
)
from harness.results.rows import Row
from harness.results.schema import NoOpServer, Results
from harness.show.panels import all_rows, load_text, note, number_text, page, plain_log
from harness.show.presentation import Ceiling, Presentation

REQUEST_PATH = "breakdown/request.png"
CEILING_NOISE = 0.1  # of a rate that is the mean of a few short windows
OUTSIDE_COLOURS = {  # warm; the stages in the worker are cold
    INGRESS: "#F0E442",
    QUEUE_WAIT: "#E69F00",
    RESPONSE_PATH: "#D55E00",
    UNEXPLAINED: "#000000",
}
SAVED, COST, NEITHER, WHOLE = "#009E73", "#D55E00", "#AAAAAA", "#555555"
NO_OP_LABEL = "LitServe's own cost: a lone request to the no-op server"


def breakdown_figures(results: Results, presentation: type[Presentation]) -> dict[str, Figure]:
    """The pictures there is something to show on, by path."""
    figures: dict[str, Figure] = {}
    if has_breakdown(results):
        figures[REQUEST_PATH] = request_figure(results)
    if steps(results):
        figures["breakdown/differences.png"] = differences_figure(results)
    if ceilings := known_ceilings(results, presentation):
        figures["breakdown/ceilings.png"] = ceilings_figure(results, ceilings)
    if any(len(row.batch_sizes) > 1 for row in all_rows(results)):
        figures["breakdown/batch_sizes.png"] = batches_figure(results)
    return figures


def has_breakdown(results: Results) -> bool:
    """Whether any row tells where the time of a request went."""
    return any(row.breakdown_ms for row in all_rows(results))


def grid(
    results: Results, title: str, panels: int, size: tuple[float, float]
) -> tuple[Figure, list[Axes]]:
    """A page of so many panels of a size in inches, two in a row; those left over stay empty."""
    wide = min(2, panels)
    tall = -(-panels // wide)
    figure, axes = page(results, title, tall, wide, (size[0] * wide, 1.2 + size[1] * tall))
    for spare in axes[panels:]:
        spare.axis("off")
    return figure, axes[:panels]


def request_figure(results: Results) -> Figure:
    """A panel per load: one bar per variant, as long as its mean latency, laid out part by part."""
    size = 7.5, 1.6 + 0.48 * len(results.variants)
    title = "Breakdown of a mean request"
    figure, panels = grid(results, title, len(results.loads), size)
    colours = part_colours(results)
    for axes, load in zip(panels, results.loads, strict=True):
        rows = {
            name: row
            for name, variant in results.variants.items()
            for row in variant.rows
            if row.load.name == load
        }
        draw_breakdowns(axes, {name: row.breakdown_ms or {} for name, row in rows.items()}, colours)
        draw_no_op_costs(axes, [results.variants[name].no_op_server for name in rows])
        axes.set_title(load_text(load), fontsize=10)
    handles: list = [Patch(color=colour, label=part_name(part)) for part, colour in colours.items()]
    if any(variant.no_op_server for variant in results.variants.values()):
        handles.append(Line2D([], [], color="black", marker="d", ls="none", label=NO_OP_LABEL))
    figure.legend(handles=handles, loc="outside lower center", ncols=5, fontsize=9)
    return figure


def part_colours(results: Results) -> dict[str, object]:
    """A colour for every part that occurs, in the order of a request's way."""
    parts = dict.fromkeys(part for row in all_rows(results) for part in row.breakdown_ms or {})
    stages = [part for part in parts if part not in OUTSIDE_WORKER]
    cold = dict(zip(stages, seaborn.color_palette("crest", len(stages)), strict=True))
    return {part: (OUTSIDE_COLOURS | cold)[part] for part in parts}


def draw_breakdowns(
    axes: Axes, breakdowns: dict[str, dict[str, float]], colours: dict[str, object]
) -> None:
    """Horizontal bars of parts laid end to end, the first on top; what is below zero goes left."""
    table = pandas.DataFrame.from_dict(breakdowns, orient="index", columns=list(colours))
    table.plot.barh(ax=axes, stacked=True, width=0.65, color=list(colours.values()), legend=False)
    for index, parts in enumerate(breakdowns.values()):
        end = sum(max(0.0, spent) for spent in parts.values())
        text = f" {sum(parts.values()):,.1f} ms" if parts else " no breakdown: it has no /stats"
        axes.text(end, index, text, va="center", fontsize=9)
    axes.invert_yaxis()
    axes.set_xlim(right=1.2 * axes.get_xlim()[1])
    axes.set_xlabel("milliseconds")
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)


def draw_no_op_costs(axes: Axes, servers: list[NoOpServer | None]) -> None:
    """A mark on each variant's bar, where LitServe's own cost for a lone request ends."""
    for index, server in enumerate(servers):
        if server:
            cost_ms = server.ingress_ms + server.queue_wait_ms + server.response_path_ms
            axes.plot(cost_ms, index, "d", color="black", markeredgecolor="white", markersize=7)


def differences_figure(results: Results) -> Figure:
    """A waterfall per variant: from the mean latency of the one it builds on to its own."""
    explained = steps(results)
    title = "What each variant saved and cost in a mean request"
    figure, panels = grid(results, title, len(explained), (7.5, 4.2))
    for axes, step in zip(panels, explained, strict=True):
        draw_waterfall(axes, step)
        title = f"{step.variant} against {step.against}, {load_text(step.new.load.name)}"
        axes.set_title(title, fontsize=10)
    return figure


def draw_waterfall(axes: Axes, step: Step) -> None:
    """The old mean latency, each part's change where the last one ended, the new mean latency."""
    before, changes = sum(step.old.breakdown_ms.values()), difference_ms(step.old, step.new)
    names = [step.against, *map(part_name, changes), step.variant]
    starts = [0.0, before]
    for change in changes.values():
        starts.append(starts[-1] + change)
    after, starts[-1] = starts[-1], 0.0
    lengths = [before, *changes.values(), after]
    colours = [COST if change > 0 else SAVED for change in changes.values()]
    if UNEXPLAINED in changes:
        colours[list(changes).index(UNEXPLAINED)] = NEITHER
    colours = [WHOLE, *colours, WHOLE]
    axes.barh(range(len(names)), lengths, 0.65, starts, color=colours)
    for index, (start, length) in enumerate(zip(starts, lengths, strict=True)):
        whole = index in (0, len(names) - 1)
        text = f" {length:,.1f} ms" if whole else f" {length:+z,.1f}"
        axes.text(max(start, start + length), index, text, va="center", fontsize=8)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.2 * axes.get_xlim()[1])
    axes.set_xlabel("milliseconds (green: saved, orange: cost, grey: unexplained)")
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)


def known_ceilings(results: Results, presentation: type[Presentation]) -> dict[str, list[Ceiling]]:
    """The ceilings of each variant that has any above what it was served at."""
    ceilings = {name: presentation.ceilings(each) for name, each in results.variants.items()}
    return {name: each for name, each in ceilings.items() if len(each) > 1}


def ceilings_figure(results: Results, ceilings: dict[str, list[Ceiling]]) -> Figure:
    """A panel per variant: its ceilings, each as a share of the one above."""
    title = "The ceilings above each variant"
    figure, panels = grid(results, title, len(ceilings), (7.5, 2.6))
    for axes, (name, each) in zip(panels, ceilings.items(), strict=True):
        draw_ceilings(axes, each, results.unit)
        axes.set_title(name, fontsize=10)
    return figure


def draw_ceilings(axes: Axes, ceilings: list[Ceiling], unit: str) -> None:
    """A bar per ceiling, from the highest down; the last is what was served."""
    if len(ceilings) < 2:
        note(axes, "no ceiling above it was measured")
        return
    rates = [ceiling.per_second for ceiling in ceilings]
    if not all(rates):
        note(axes, "nothing to compare: no correct answer")
        return
    bars = axes.barh(range(len(rates)), rates, 0.65, color=WHOLE)
    bars[-1].set_color(SAVED)
    shares = ["", *(share_text(rate / above) for above, rate in pairwise(rates))]
    labels = [f" {number_text(rate)}{share}" for rate, share in zip(rates, shares, strict=True)]
    axes.bar_label(bars, labels, fontsize=8)
    axes.set_yticks(range(len(rates)), [ceiling.name for ceiling in ceilings], fontsize=8)
    axes.invert_yaxis()
    axes.set_xscale("log")  # from the model alone to what is served there may be a factor of 100
    left = min(rates) / 3
    axes.set_xlim(left, max(rates) * (max(rates) / left) ** 0.7)  # room for the labels
    plain_log(axes.xaxis)
    axes.set_xlabel(f"{unit}/s (logarithmic)")


def share_text(share: float) -> str:
    """A rate as a share of the ceiling above it, which by noise it can pass a little."""
    at = 1 <= share < 1 + CEILING_NOISE
    return " (at the one above)" if at else f" ({percent(share)} of the one above)"


def percent(share: float) -> str:
    """A share for people; a small one keeps a decimal."""
    return f"{100 * share:,.{0 if share >= 0.01 else 1}f} %"


def batches_figure(results: Results) -> Figure:
    """A panel per variant: which share of the requests was served in batches of which size."""
    highest = {name: each.rows[-1] for name, each in results.variants.items() if each.rows}
    figure, panels = grid(results, "Batches that were really formed", len(highest), (7.5, 3))
    for axes, (name, row) in zip(panels, highest.items(), strict=True):
        draw_batches(axes, row)
        axes.set_title(f"{name}, {load_text(row.load.name)}{worker_shares(row)}", fontsize=10)
    return figure


def draw_batches(axes: Axes, row: Row) -> None:
    """Percent of the requests by the size of the batch they were served in."""
    requests = sum(size * count for size, count in row.batch_sizes.items())
    if not requests:
        note(axes, "batch sizes are not known: it has no /stats")
        return
    percents = {size: 100 * size * count / requests for size, count in row.batch_sizes.items()}
    axes.bar(percents.keys(), percents.values(), 0.8, color=seaborn.color_palette("crest", 1))
    axes.set_xlim(0.4, max(8, *percents) + 0.6)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_xlabel("batch size (requests)")
    axes.set_ylabel("percent of the requests")


def worker_shares(row: Row) -> str:
    """How the requests were spread over workers, if there are several."""
    if len(row.worker_shares) < 2:
        return ""
    return f"; share per worker: {', '.join(f'{100 * share:.0f} %' for share in row.worker_shares)}"
