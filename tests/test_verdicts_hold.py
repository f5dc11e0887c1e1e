"""No false winners and no blind eye, through the whole path: servers launched, loaded, compared.

python -m pytest -m slow -s tests/test_verdicts_hold.py       # about eight minutes
"""

import pytest
from rich.console import Console

from harness import run as running
from harness.results.schema import Results
from tests.numbers.suite import suite
from tests.test_runs import _in_the_projects_root, options  # noqa: F401 - the fixture

LOADS = [1, 2, 4, 8]
EPOCHS, MINUTES = 3, 4.0


def compared(tmp_path, monkeypatch, script: str, copies: int, loads: list[int]) -> Results:
    """A run in which the paced baseline meets so many copies of another server."""
    names = [f"{script}_{number}" for number in range(copies)]
    servers = running.servers

    def with_copies(*arguments):
        specs = servers(*arguments)
        module = specs[0].module.replace("paced", script)
        return [spec._replace(module=module) if spec.name in names else spec for spec in specs]

    monkeypatch.setattr(running, "servers", with_copies)
    wanted = options(
        tmp_path,
        variants=["paced", *names],
        concurrency=loads,
        epochs=EPOCHS,
        minutes=MINUTES,
    )
    return running.run(suite("paced", *names), wanted, Console())


def words(results: Results) -> list[str]:
    """The verdicts' words; prints what they are."""
    for verdict in results.verdicts:
        print(f"{verdict.variant} at {verdict.load}: {verdict.comparison.text}")
    for load, control in results.aa_control.items():
        print(f"A/A control at {load}: {control.text}")
    return [verdict.comparison.verdict for verdict in results.verdicts]


@pytest.mark.slow
def test_of_twenty_comparisons_of_equals_at_most_one_names_a_winner(tmp_path, monkeypatch):
    verdicts = words(compared(tmp_path, monkeypatch, "paced", copies=5, loads=LOADS))
    assert len(verdicts) == 20
    assert sum(verdict in ("faster", "slower") for verdict in verdicts) <= 1


@pytest.mark.slow
def test_a_loss_of_fifteen_percent_is_seen_in_nine_of_ten_comparisons(tmp_path, monkeypatch):
    verdicts = words(compared(tmp_path, monkeypatch, "slowed", copies=5, loads=LOADS[:2]))
    assert len(verdicts) == 10
    assert verdicts.count("slower") >= 9
