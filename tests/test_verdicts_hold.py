"""No false winners and no blind eye, through the whole path: servers launched, loaded, compared.

python -m pytest -m slow -s tests/test_verdicts_hold.py       # about eight minutes
"""

import pytest
from rich.console import Console

from harness.measure.epochs import Campaign, run
from harness.results.run import Results
from harness.suite import Variant
from tests.test_campaign import Numbers, in_the_projects_root, options, suite  # noqa: F401 - the fixture

LEVELS = [1, 2, 4, 8]
ROUNDS = 5


def compared(tmp_path, monkeypatch, script: str, copies: int, levels: list[int]) -> Results:
    """A run in which the paced baseline meets so many copies of another server."""
    names = [f"{script}_{number}" for number in range(copies)]
    numbers: Numbers = suite("paced")
    numbers.variants += [Variant(name, "paced") for name in names]
    own = Campaign.script_of
    monkeypatch.setattr(Campaign, "script_of", lambda self, name: script if name in names else own(self, name))
    wanted = options(tmp_path, variants=["paced", *names], concurrency=levels, rounds=ROUNDS, duration=1.0, warmup=0.2)
    return run(numbers, wanted, Console())


def told(results: Results) -> list[str]:
    for verdict in results.verdicts:
        print(f"{verdict.variant} at {verdict.level}: {verdict.text}")
    print("noise floor:", {level: round(floor, 2) for level, floor in results.noise_floor_percent.items()})
    return [verdict.verdict for verdict in results.verdicts]


@pytest.mark.slow
def test_of_twenty_comparisons_of_equals_at_most_one_names_a_winner(tmp_path, monkeypatch):
    found = told(compared(tmp_path, monkeypatch, "paced", copies=5, levels=LEVELS))
    assert len(found) == 20
    assert sum(verdict in ("faster", "slower") for verdict in found) <= 1


@pytest.mark.slow
def test_a_loss_of_fifteen_percent_is_seen_in_nine_of_ten_comparisons(tmp_path, monkeypatch):
    found = told(compared(tmp_path, monkeypatch, "slowed", copies=5, levels=LEVELS[:2]))
    assert len(found) == 10
    assert found.count("slower") >= 9
