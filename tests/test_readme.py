"""README.md says what the published files say, and its file list is true; tables, also of odd runs,
there and on the console.
"""

import re
from dataclasses import replace
from io import StringIO
from pathlib import Path

from rich.console import Console

from harness.judge.comparison import compared_rows
from harness.readme import filled
from harness.results.run import Comparison, Results, Verdict
from harness.show.columns import rate_text
from harness.show.console import LOG_WIDTH, comparison_table, print_results
from harness.show.readme_tables import tables
from tests.builders import explained_row, failed_variant, results, row, variant, verdict
from tests.numbers.suite import SUITE

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
CHARTS = Path("numbers/metrics/published/here")


def test_every_table_is_what_the_published_files_say():
    assert "<!-- results " in README
    assert filled(README, ROOT) == README


def test_every_file_and_picture_it_names_exists():
    layout = README.split("## What is where")[1]
    names = re.findall(r"\b[a-z_]+\.py\b", layout)
    assert names
    for name in names:
        assert list(ROOT.glob(f"*/**/{name}")), name
    for picture in re.findall(r"\]\((\S+\.png)\)", README):
        assert (ROOT / picture).exists(), picture


def test_a_table_names_the_machine_the_software_and_the_commit():
    text = tables(results(notes=["NOT REAL"]), SUITE, CHARTS)
    for words in ("a processor, 2 cores, no GPU (avx2)", "Python 3.11.7", "litserve 0.2.19"):
        assert words in text
    assert "2026-01-01, commit 01234567; a number, 3 epochs with windows of 3 s; NOT REAL." in text
    machine = results().machine | {"git_dirty": True}
    del machine["instruction_sets"]
    older = tables(results(machine=machine), SUITE, CHARTS)
    assert "no GPU; Python" in older
    assert "(with uncommitted changes)" in older


def test_a_full_run_has_a_table_advice_reasons_verdicts_noise_floor_and_pictures():
    slow_row, quick_row = (
        replace(explained_row(predict=spent_ms), warnings=[]) for spent_ms in (4.0, 1.0)
    )
    run = results(
        {"steady": variant(slow_row), "quick": variant(quick_row, builds_on="steady")},
        verdicts=[verdict("quick", "4", 30.0)],
        noise_floor_percent={"1": 1.5, "4": None},
        advice=["quick beats steady at 4"],
    )
    text = tables(run, SUITE, CHARTS)
    parts = (
        "| variant | concurrency or offered rate | numbers/s | even |",
        "No row carries a warning.",
        "- steady: counts",
        "- quick beats steady at 4",
        "<details><summary>Why",
        "- quick against steady at 4 (faster by 30 %): saved 3.0 ms of predict",
        "</details>",
        "| quick against steady | 4 | faster by 30 % |",
        "Noise floor (A/A control against the baseline): 1.5 % at 1.",
        f"({CHARTS}/throughput/requests_per_second.png)",
        f"({CHARTS}/breakdown/request.png)",
    )
    places = [text.index(part) for part in parts]
    assert places == sorted(places)


def test_tables_with_a_failed_variant_say_first_that_it_failed_and_why():
    run = results()
    text = tables(replace(run, variants=run.variants | {"broken": failed_variant()}), SUITE, CHARTS)
    first = text.strip().splitlines()[0]
    assert first.startswith("- **broken failed: it ended with 1 before it was ready")
    assert "no model" in first
    assert "| steady | 1 |" in text
    assert "| broken" not in text


def test_tables_of_a_run_in_which_nothing_was_measured_have_neither_rows_nor_pictures():
    text = tables(results({"steady": failed_variant(None)}), SUITE, CHARTS)
    assert "steady failed" in text
    assert "|" not in text
    assert ".png" not in text


def test_without_verdicts_there_is_no_verdict_table():
    text = tables(results(), SUITE, CHARTS)
    assert "verdict" not in text
    assert "Noise floor" not in text
    assert "details" not in text


def test_rows_in_doubt_are_marked_and_counted():
    doubtful = replace(row(), warnings=["unstable"]), replace(row(concurrency=8), warnings=[])
    text = tables(results({"steady": variant(*doubtful)}), SUITE, CHARTS)
    assert "| steady (!) | 1 |" in text
    assert "| steady | 8 |" in text
    assert "(!) 1 of 2 rows carry a warning" in text


def test_the_folders_own_pictures_are_linked():
    class WithPage(SUITE):
        @staticmethod
        def charts(_results):
            return {"own_page.png": None}

    assert f"![Own page]({CHARTS}/own_page.png)" in tables(results(), WithPage, CHARTS)


def printed(run: Results) -> str:
    """What the console says of a run."""
    console = Console(width=LOG_WIDTH, file=StringIO())
    print_results(run, SUITE, console)
    return console.file.getvalue()


def test_the_console_says_table_verdicts_advice_noise_floor_and_every_doubt():
    wrong = Comparison(None, None, 0, "not counted", "not counted: 3 wrong answers")
    text = printed(
        results(
            {
                "steady": variant(replace(row(), warnings=["unstable [a]"])),
                "broken": failed_variant(),
            },
            notes=["NOT REAL"],
            verdicts=[verdict("quick", "1", 30.0), Verdict("quick", "steady", "8", wrong)],
            noise_floor_percent={"1": 0.0, "8": None},
            advice=["quick beats steady at 1"],
        )
    )
    for line in (
        "NOT REAL",
        "steady: counts",
        "quick against steady at 1: faster by 30 %",
        "quick against steady at 8: not counted: 3 wrong answers",
        "quick beats steady at 1",
        "noise floor (A/A control against the baseline): 0.0 % at 1",
        "! steady at 1: unstable [a]",
    ):
        assert f"{line}\n" in text


def test_the_console_says_why_there_are_no_verdicts():
    assert "no verdicts: they need two epochs of the baseline and another variant" in printed(
        results()
    )


def test_the_comparison_of_two_files_shows_both_rates_and_a_dash_for_a_variant_that_fails_now():
    old = results()
    new = replace(
        old, variants={"steady": replace(failed_variant(None), rows=old.variants["steady"].rows)}
    )
    table = comparison_table(compared_rows(old, new, 0.0), old, new)
    assert table.title.startswith(
        "numbers, numbers/s: 2026-01-01T00:00:00+00:00 (01234567) against"
    )
    columns = [list(column.cells) for column in table.columns]
    assert columns[2:4] == [["–", rate_text(new.variants["steady"].rows[0].output_per_second)]] * 2
    assert columns[4][0].startswith("fails now")
