"""No false winners and no blind eye, through the whole path: servers launched, loaded, judged.

python -m pytest -m slow -s tests/test_verdicts_hold.py       # an hour, in three tests
"""

import contextlib
import io
import math
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean, median

import pytest
from rich.console import Console

from harness import run as running
from harness.results.schema import Results
from tests.numbers.suite import NumbersSuite, suite
from tests.test_runs import _in_the_projects_root, options  # noqa: F401 - the fixture

COPIES = "abcd"  # with the baseline and its A/A control six servers in every run
LOADS = [2, 4]  # at which the worker always has work, so that its work is the rate
NULL_RUNS, NULL_MINUTES, NULL_LOADS = 20, 0.9, [4]  # five intervals each, a hundred in all
POWER_RUNS, POWER_MINUTES = 1, 6.0  # launches take less time than MNIST's: as many windows in it
PRECISE_RUNS, PRECISE_MINUTES = 1, 30.0

HOG = """
import random, time
while True:
    until = time.monotonic() + random.uniform(0.1, 4)
    while time.monotonic() < until:
        pass
    time.sleep(random.uniform(0.1, 4))
"""


@contextlib.contextmanager
def hog() -> Iterator[None]:
    """Another process that keeps a core busy, on and off, half of the time."""
    process = subprocess.Popen([sys.executable, "-c", HOG])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def compared(folder: Path, monkeypatch, losses: list[float], **changes) -> Results:
    """A run in which the busy baseline meets copies of itself that lose so many percent."""
    names = [f"busy_{copy}" for copy in COPIES]
    loss_of, servers = dict(zip(names, losses, strict=True)), running.servers

    def with_copies(*arguments):
        return [
            spec._replace(
                module="tests.numbers.server_busy",
                flags=(*spec.flags, "--loss", str(loss_of.get(spec.name, 0))),
            )
            for spec in servers(*arguments)
        ]

    with monkeypatch.context() as patch:
        patch.setattr(running, "servers", with_copies)
        wishes = {"variants": ["busy", *names], "concurrency": LOADS} | changes
        wanted = options(folder, **wishes)
        measured = suite("busy", *names)
        measured.window_s = NumbersSuite.window_s  # as in a run for real
        measured.epoch_minutes = NumbersSuite.epoch_minutes
        results = running.run(measured, wanted, Console(file=io.StringIO()))
    assert not any(variant.error for variant in results.variants.values())
    return results


@pytest.mark.slow
def test_of_twenty_runs_of_equals_at_most_one_names_a_winner(tmp_path, monkeypatch):
    named, inside, widths, every = 0, 0, [], 0
    for number in range(NULL_RUNS):
        disturbed = number % 2
        with hog() if disturbed else contextlib.nullcontext():
            wishes = {"epochs": 3, "minutes": NULL_MINUTES, "concurrency": NULL_LOADS}
            results = compared(tmp_path, monkeypatch, [0] * 4, seed=number, **wishes)
        verdicts = [verdict.comparison for verdict in results.verdicts]
        made = [*verdicts, *results.aa_control.values()]
        words = Counter(each.verdict for each in verdicts)
        covering = sum(each.ci95[0] <= 0 <= each.ci95[1] for each in made)
        named += bool(words["faster"] + words["slower"])
        inside, every = inside + covering, every + len(made)
        widths += [each.resolution_percent for each in made]
        print(
            f"run {number + 1}{' beside a hog' if disturbed else ''}: {dict(words)}, zero in "
            f"{covering} of {len(made)} intervals, median ± {median(widths[-len(made) :]):.1f} %",
            flush=True,
        )
    share = 100 * inside / every
    print(
        f"{named} of {NULL_RUNS} runs name a winner; {share:.1f} % of {every} intervals hold zero"
    )
    assert named <= 1
    error = 100 * math.sqrt(0.05 * 0.95 / (every / 2))  # those of one run share a baseline
    assert abs(share - 95) <= 2 * error


@pytest.mark.slow
@pytest.mark.parametrize(
    ("loss", "runs", "wishes", "least"),
    [
        (10.0, POWER_RUNS, {"epochs": 3, "minutes": POWER_MINUTES}, 0.9),
        (5.0, PRECISE_RUNS, {"precision": 3.0, "minutes": PRECISE_MINUTES}, 0.8),
    ],
)
def test_what_is_slower_is_called_so(tmp_path, monkeypatch, loss, runs, wishes, least):
    """Four servers in every run that lose as much, at two loads each."""
    called, every, measured = 0, 0, []
    for number in range(runs):
        results = compared(tmp_path, monkeypatch, [loss] * 4, seed=number, **wishes)
        made = [verdict.comparison for verdict in results.verdicts]
        words = Counter(each.verdict for each in made)
        called, every = called + words["slower"], every + len(made)
        measured += [each.percent for each in made]
        widths = [each.resolution_percent for each in made]
        print(
            f"run {number + 1}, {results.measured_s / 60:.1f} min: {dict(words)}, ± "
            f"{median(widths):.1f} % at the median, ± {max(widths):.1f} % at worst",
            flush=True,
        )
    print(f"{called} of {every} called; measured {fmean(measured):+.1f} %, set to -{loss:g} %")
    assert called >= least * every
    assert fmean(measured) == pytest.approx(-loss, abs=loss / 4)
