"""One setting at several values, each a run of its own: from which value on does a variant pay?"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from harness.judge.bottlenecks import best_level, limit
from harness.show.charts import saved
from harness.show.panels import COLOURS, MARKERS, page
from harness.show.console import LOG_WIDTH, benchmark
from harness.results.file import read
from harness.results.run import Results, Verdict
from harness.suite import Suite


def sweep(suite: Callable[[argparse.Namespace], Suite], options: argparse.Namespace) -> int:
    """Run the benchmark with `options.sweep`, (setting, values); each value gets a folder. Returns the exit code."""
    setting, values = options.sweep
    worst, found = 0, {}
    for value in values:
        here = argparse.Namespace(**vars(options) | {
            "sweep": None, setting.replace("-", "_"): value, "output_dir": options.output_dir / f"{setting}-{value}",
        })  # fmt: skip
        path = here.output_dir / "benchmark_results.json"
        path.unlink(missing_ok=True)  # an earlier sweep's is not this one's
        code = benchmark(lambda here=here: suite(here), here)
        worst = max(worst, code)
        if path.exists():
            found[value] = read(path)
        if code > 1:  # refused or stopped: what follows would be no different, or is not wanted any more
            break
    if found:
        conclude(setting, found, options.output_dir)
    return worst


def conclude(setting: str, found: dict[int, Results], directory: Path) -> None:
    """Say and draw what the values did to the verdicts."""
    console = Console(width=None if sys.stdout.isatty() else LOG_WIDTH)
    console.print(table(setting, found))
    for value, results in found.items():
        for name in results.variants:
            if sentence := limit(results, name):
                console.print(f"{setting} {value}: {sentence}", markup=False)
    console.print(f"wrote {saved(figure(setting, found), directory / f'sweep_{setting}.png')}")


def steps(results: Results) -> dict[str, Verdict]:
    """By variant, its verdict at the highest load: against the one it builds on, or else the baseline."""
    found = {}
    for verdict in results.verdicts:  # in order of the loads: the last one stays
        below = results.variants[verdict.variant].builds_on
        if verdict.against == below or below not in results.variants:
            found[verdict.variant] = verdict
    return found


def table(setting: str, found: dict[int, Results]) -> Table:
    """A row per value and variant: what it produced at best, and its verdict against the one it builds on."""
    shown = Table(title=f"{setting}: what each variant adds, at the highest load")
    for heading in (setting, "variant", "produced/s at best", "verdict"):
        shown.add_column(heading, justify="right" if heading.endswith("best") else "left", overflow="fold")
    for value, results in found.items():
        told = steps(results)
        for name, variant in results.variants.items():
            best = best_level(variant)
            produced = f"{best.output.mean:,.0f}" if best else "–"
            verdict = f"{told[name].text}, against {told[name].against}" if name in told else ""
            shown.add_row(str(value), name, produced, verdict)
        shown.add_section()
    return shown


def figure(setting: str, found: dict[int, Results]) -> Figure:
    """What every variant produced, and its gain over the one it builds on, over the values."""
    first = next(iter(found.values()))
    load = f"{setting} {', '.join(map(str, found))}, {first.settings['rounds']} round(s) each"
    drawn, (produced, gain) = page(first, f"From which {setting} on does a variant pay?", 1, 2, (15, 5.6), load)
    for index, name in enumerate(first.variants):
        style = {"color": COLOURS[index % 6], "marker": MARKERS[index % 6], "label": name}
        points = [(value, best.output.mean) for value, best in bests(found, name)]
        if points:
            produced.plot(*zip(*points, strict=True), **style)
        draw_gain(gain, [(value, steps(results).get(name)) for value, results in found.items()], index, style)
    produced.set_ylim(bottom=0)
    produced.yaxis.set_major_formatter("{x:,g}")
    produced.set_ylabel("images per second at the best load, right answers")
    gain.axhline(0, color="#555555", linewidth=1)
    gain.set_ylabel(
        "percent faster than the one it builds on, or else the baseline\n(bars: 95 % interval, highest load)"
    )
    for axes in (produced, gain):
        axes.set_xscale("log", base=2)
        axes.set_xticks(list(found), [str(value) for value in found])
        axes.minorticks_off()
        axes.set_xlabel(setting)
        axes.grid(alpha=0.3)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize=9)
    return drawn


def bests(found: dict[int, Results], name: str) -> list:
    """(value, best level) wherever the variant was measured."""
    levels = [(value, best_level(results.variants[name])) for value, results in found.items()
              if name in results.variants]  # fmt: skip
    return [(value, level) for value, level in levels if level]


def draw_gain(axes: Axes, verdicts: list[tuple[int, Verdict | None]], index: int, style: dict[str, str]) -> None:
    """The verdicts of one variant as points with intervals, beside those of the others."""
    told = [(value * 2 ** (0.04 * (index - 2)), verdict) for value, verdict in verdicts if verdict and verdict.ci95]
    if told:
        places, percents = [place for place, _ in told], [verdict.percent for _, verdict in told]
        below = [verdict.percent - verdict.ci95[0] for _, verdict in told]
        above = [verdict.ci95[1] - verdict.percent for _, verdict in told]
        axes.errorbar(places, percents, [below, above], capsize=4, **style)
