"""One setting at several values, each a run of its own: from which value on does a variant pay?"""

import argparse
import contextlib
from collections.abc import Callable
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.table import Table

from harness.cli import FAILED, REFUSED, benchmark, listed, refused
from harness.judge.bottlenecks import limit
from harness.judge.capacity import is_capacity
from harness.results.schema import Results, Verdict
from harness.run import FILE_NAME
from harness.show.charts import saved
from harness.show.columns import number
from harness.show.console import make_console
from harness.show.panels import (
    Point,
    draw_points,
    epochs,
    legend_below,
    log_axis,
    note,
    page,
    styles,
)
from harness.suite import Suite, read_results

ByValue = dict[int, Results]


class Sweep(argparse.Action):
    """--sweep SETTING N,N: one of `const` and its values, as (setting, values)."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        options: argparse.Namespace,
        words: list[str],
        _: str | None = None,
    ) -> None:
        setting, values = words
        if setting not in self.const:
            parser.error(f"--sweep: no such setting: {setting}; there are {', '.join(self.const)}")
        try:
            options.sweep = (setting, listed(int)(values))
        except argparse.ArgumentTypeError as error:
            parser.error(f"--sweep: {error}; values are listed as in 1,8,64")


def sweep(suite: Callable[[argparse.Namespace], Suite], options: argparse.Namespace) -> int:
    """Run the benchmark with `options.sweep`, (setting, values); each value gets a folder.

    Returns the exit code: the highest of all runs.
    """
    setting, values = options.sweep
    worst, by_value = 0, {}
    for value in values:
        here = options_at(options, setting, value)
        path = here.output_dir / FILE_NAME
        with contextlib.suppress(OSError):  # the run itself says why nothing can be written there
            path.unlink()  # an earlier sweep's is not this one's
        code = benchmark(lambda here=here: suite(here), here)
        worst = max(worst, code)
        if code != REFUSED and path.exists():
            by_value[value] = read_results(path)
        if (
            code > FAILED
        ):  # refused or interrupted: the next would be too, or is not wanted any more
            break
    if by_value:
        try:
            conclude(setting, by_value, options.output_dir)
        except OSError as error:
            return max(worst, refused(str(error), FAILED))
    return worst


def options_at(options: argparse.Namespace, setting: str, value: int) -> argparse.Namespace:
    """The options of the run at one value."""
    folder = options.output_dir / f"{setting}-{value}"
    changed = {"sweep": None, setting.replace("-", "_"): value, "output_dir": folder}
    return argparse.Namespace(**vars(options) | changed)


def conclude(setting: str, by_value: ByValue, directory: Path) -> None:
    """Print and draw what the values did to the verdicts."""
    console = make_console()
    console.print(sweep_table(setting, by_value))
    for value, results in by_value.items():
        for name in results.variants:
            if sentence := limit(results, name):
                console.print(f"{setting} {value}: {sentence}", markup=False)
    picture = saved(sweep_figure(setting, by_value), directory / f"sweep_{setting}.png")
    console.print(f"wrote {picture}")


def gains(results: Results) -> dict[str, Verdict]:
    """By variant, its verdict at the highest load: against the one it builds on, or else the
    baseline.
    """
    last = {}
    for verdict in results.verdicts:  # in order of the loads: the last one stays
        under = results.variants[verdict.variant].builds_on
        usual = verdict.against == under or under not in results.variants
        if usual and not is_capacity(verdict.load):
            last[verdict.variant] = verdict
    return last


def sweep_table(setting: str, by_value: ByValue) -> Table:
    """A row per value and variant: its best output per second, its verdict at the highest load."""
    first = next(iter(by_value.values()))
    table = Table(title=f"{setting}: what each variant adds, at the highest load")
    for heading in (setting, "variant", f"{first.unit}/s at best", "verdict"):
        justify = "right" if heading.endswith("best") else "left"
        table.add_column(heading, justify=justify, overflow="fold")
    for value, results in by_value.items():
        verdicts = gains(results)
        for name, variant in results.variants.items():
            best = variant.best
            output = number(best and best.output_per_second.mean, ",.0f")
            verdict = verdicts.get(name)
            text = f"{verdict.comparison.text}, against {verdict.against}" if verdict else ""
            table.add_row(str(value), name, output, text)
        table.add_section()
    return table


def sweep_figure(setting: str, by_value: ByValue) -> Figure:
    """Output of every variant, and its gain over the one it builds on, over the values."""
    first = next(iter(by_value.values()))
    sent = f"{setting} {', '.join(map(str, by_value))}, {epochs(first)} each"
    title = f"From which {setting} on does a variant pay?"
    figure, (output, gain) = page(first, title, 1, 2, (15, 6), sent)
    draw_over_values(output, best_points(by_value), setting, by_value)
    output.set_ylim(bottom=0)
    output.yaxis.set_major_formatter("{x:,g}")
    output.set_ylabel(f"{first.unit}/s at the best load, correct answers only")
    draw_over_values(gain, gain_points(by_value), setting, by_value)
    gain.axhline(0, color="#555555", linewidth=1)
    gain.set_ylabel(
        "percent faster than the one it builds on, or else the baseline\n"
        "(bars: 95 % interval, highest load)"
    )
    legend_below(figure, output)
    return figure


def draw_over_values(axes: Axes, points: list[Point], setting: str, by_value: ByValue) -> None:
    """A line per variant over the values of the setting."""
    if not points:
        note(axes, "nothing to show: no correct answers, or no verdicts")
        return
    draw_points(
        axes, points, styles(dict.fromkeys(n for r in by_value.values() for n in r.variants))
    )
    log_axis(axes, by_value, setting)


def best_points(by_value: ByValue) -> list[Point]:
    """What each variant produced at the load that suited it best."""
    return [
        Point(name, value, variant.best.output_per_second.mean)
        for value, results in by_value.items()
        for name, variant in results.variants.items()
        if variant.best
    ]


def gain_points(by_value: ByValue) -> list[Point]:
    """What each variant gained at the highest load, percent."""
    return [
        Point(name, value, verdict.comparison.percent, verdict.comparison.ci95)
        for value, results in by_value.items()
        for name, verdict in gains(results).items()
        if verdict.comparison.ci95
    ]
