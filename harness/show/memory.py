"""What each variant's processes hold, beside its speed: a picture, and a table for the README."""

from collections.abc import Iterator, Mapping

import pandas
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from harness.results.schema import Results, RoleMemory
from harness.show.columns import number
from harness.show.panels import (
    GREY,
    ROLE_STYLES,
    legend_below,
    number_text,
    page,
    styles,
)

MEMORY_PATH = "utilisation/memory.png"
MB = 1e6
SHARED = "its part of pages shared, with other servers too"
HEADINGS = (
    *("workers", "private MB, all workers", "private MB, one worker"),
    *(
        "whole server MB, with its part of pages shared, with other servers too",
        "GPU MB",
        "best {unit}/s",
    ),
)


def has_memory(results: Results) -> bool:
    """Whether the memory of any variant was measured."""
    return any(variant.memory for variant in results.variants.values())


def memory_lines(results: Results) -> Iterator[str]:
    """The lines of a table in Markdown; none where nothing was measured."""
    if not has_memory(results):
        return
    headings = [heading.format(unit=results.unit) for heading in HEADINGS]
    yield f"| variant | {' | '.join(headings)} |"
    yield f"|---|{'--:|' * len(headings)}"
    for name, variant in results.variants.items():
        if variant.memory and (workers := variant.memory.get("workers")):
            cells = [
                str(workers.processes),
                number(workers.private_bytes / MB, ",.0f"),
                number(workers.private_bytes / MB / workers.processes, ",.0f"),
                number(sum(parts_mb(variant.memory).values()), ",.0f"),
                number(gpu_mb(variant.memory), ",.0f"),
                number_text(variant.best.output_per_second.mean) if variant.best else "–",
            ]
            yield f"| {name} | {' | '.join(cells)} |"


def parts_mb(memory: Mapping[str, RoleMemory]) -> dict[str, float]:
    """What the roles hold for themselves, and their part of what is shared, megabytes."""
    parts = {ROLE_STYLES[role][0]: each.private_bytes / MB for role, each in memory.items()}
    shared = [
        (each.proportional_bytes or each.private_bytes) - each.private_bytes
        for each in memory.values()
    ]
    return parts | {SHARED: sum(shared) / MB}


def gpu_mb(memory: Mapping[str, RoleMemory]) -> float | None:
    """GPU memory of all processes, megabytes; None if unknown."""
    held = [each.gpu_bytes for each in memory.values()]
    return None if None in held else sum(held) / MB


def memory_figure(results: Results) -> Figure:
    """Memory by role, the best output per second beside it, and the GPU's where it is known."""
    known = {name: each for name, each in results.variants.items() if each.memory}
    on_gpu = {name: gpu_mb(each.memory) for name, each in known.items()}
    speeds = {name: v.best.output_per_second.mean for name, v in known.items() if v.best}
    panels = {"GPU memory, MB": {name: mb for name, mb in on_gpu.items() if mb is not None}}
    panels = {f"best {results.unit}/s": speeds} | {k: v for k, v in panels.items() if v}
    title, size = "Memory after all loads were served", (13, 2.6 + 0.5 * len(known))
    figure, (held, *others) = page(results, title, 1, 1 + len(panels), size)
    draw_parts(held, {name: parts_mb(each.memory) for name, each in known.items()})
    looks = styles(results.variants)
    for axes, (label, values) in zip(others, panels.items(), strict=True):
        bars = axes.barh(
            list(values), list(values.values()), color=[looks[n].colour for n in values]
        )
        axes.bar_label(bars, [number_text(value) for value in values.values()], padding=2)
        axes.invert_yaxis()
        axes.margins(x=0.2)
        axes.set_xlabel(label)
    legend_below(figure, held)
    return figure


def draw_parts(axes: Axes, parts: Mapping[str, Mapping[str, float]]) -> None:
    """A bar per variant, stacked, its sum beside it."""
    table = pandas.DataFrame(parts).T
    colours = dict(ROLE_STYLES.values()) | {SHARED: GREY}
    table.plot.barh(
        ax=axes, stacked=True, color=[colours[part] for part in table], legend=False, width=0.8
    )
    for place, total in enumerate(table.sum(axis=1)):
        axes.text(total, place, f" {total:,.0f}", va="center", fontsize=9)
    axes.invert_yaxis()
    axes.margins(x=0.15)
    axes.set_xlabel("MB: private to a process by role, and shared")
