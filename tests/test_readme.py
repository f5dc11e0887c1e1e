"""README.md says what the published files say, and its file list is true; tables, also of odd runs,
there and on the console.
"""

import errno
import json
import os
import re
import sys
from argparse import Namespace
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

import harness.cli
import harness.readme
from harness.judge.comparison import compared_rows
from harness.measure.utilisation import RoleMemory
from harness.readme import filled
from harness.results.file import UnusableResultsError
from harness.results.schema import Best, Comparison, Results, Verdict, WindowRecord
from harness.show.columns import MATRIX_LEGEND, matrix, rate_text
from harness.show.console import (
    LOG_WIDTH,
    aa_control,
    comparison_table,
    matrix_table,
    print_results,
    print_verdicts,
    verdict_lines,
)
from harness.show.memory import memory_lines
from harness.show.readme_tables import tables
from tests.builders import (
    BREAKDOWN,
    comparison,
    explained_row,
    failed_variant,
    judged_results,
    rate,
    results,
    row,
    variant,
    verdict,
    window_record,
    windows_of,
)
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


def test_a_readme_that_cannot_be_written_stays_whole_and_is_said_in_a_sentence(
    tmp_path, monkeypatch
):
    def full(*_) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    old = "<!-- records r.json -->\n<!-- end of records -->\n"
    (tmp_path / "README.md").write_text(old)
    (tmp_path / "r.json").write_text('{"note": "n", "rows": [{"a": 1}]}')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["readme"])
    monkeypatch.setattr(os, "fchmod", full)
    with pytest.raises(SystemExit, match="No space left on device"):
        harness.readme.main()
    assert (tmp_path / "README.md").read_text() == old
    assert sorted(path.name for path in tmp_path.iterdir()) == ["README.md", "r.json"]


def compared_runs() -> Results:
    """A run of four variants, judged: the last two are the same, and faster than the others."""
    rates = {"steady": 400.0, "slow": 50.0, "quick": 600.0, "as_quick": 601.0}
    return judged_results(rates, noise=0.005, blocks=10, control="steady")


def test_a_table_names_the_machine_the_software_the_commit_and_the_time():
    windows = windows_of({"steady": 100.0})
    text = tables(results(notes=["NOT REAL"], windows=windows), SUITE, CHARTS)
    for words in ("a processor, 2 cores, no GPU (avx2)", "Python 3.11.7", "litserve 0.2.19"):
        assert words in text
    assert "2026-01-01, commit 01234567; a number, 3 epochs, 8 minutes; NOT REAL." in text
    machine = results().machine | {"git_dirty": True}
    del machine["instruction_sets"]
    older = tables(results(machine=machine), SUITE, CHARTS)
    assert "no GPU; Python" in older
    assert "(with uncommitted changes)" in older


def test_a_full_run_has_a_matrix_advice_and_a_picture_and_the_rest_is_folded():
    slow_row, quick_row = (
        replace(explained_row(predict=spent_ms), warnings=[]) for spent_ms in (4.0, 1.0)
    )
    run = results(
        {"steady": variant(slow_row), "quick": variant(quick_row, builds_on="steady")},
        verdicts=[verdict("quick", "4", 30.0)],
        aa_control={"4": comparison(-1.5, "same")},
        best={"4": Best("quick", [])},
        advice=["quick beats steady at 4"],
        windows=explained_windows(),
    )
    text = tables(run, SUITE, CHARTS)
    parts = (
        "Measured on a processor",
        "| numbers/s at concurrency | steady | quick |",
        f"({MATRIX_LEGEND})",
        "- quick beats steady at 4",
        f"({CHARTS}/throughput/requests_per_second.png)",
        "<details><summary>Every row",
        "| variant | concurrency or offered rate | numbers/s | even |",
        "No row carries a warning.",
        "- steady: counts",
        "</details>",
        "<details><summary>Why",
        "- quick against steady at 4 (faster by 30 %): saved 3.0 ms of predict",
        f"({CHARTS}/breakdown/request.png)",
        "<details><summary>All verdicts",
        "| quick against steady | 4 | faster by 30 % |",
        "A/A control against the baseline: -1.5 % [-4.5, +1.5] at 4.",
    )
    places = [text.index(part) for part in parts]
    assert places == sorted(places)
    assert text.count("<details>") == text.count("</details>") == 3
    assert text.rstrip().endswith("</details>")


def explained_windows() -> list[WindowRecord]:
    """Windows of which "quick" spends three milliseconds less in predict."""
    return [
        window_record(name, 100.0, load="4", block=block, breakdown_ms=BREAKDOWN | parts)
        for block in range(4)
        for name, parts in {
            "steady": {},
            "quick": {"predict": BREAKDOWN["predict"] - 3 + 0.01 * block},
        }.items()
    ]


def test_the_matrix_marks_the_fastest_and_what_is_the_same_and_says_how_well_each_is_known():
    run = compared_runs()
    assert run.best == {"1": Best("as_quick", ["quick"])}
    text = tables(run, SUITE, CHARTS)
    assert "| numbers/s at concurrency | steady | slow | quick | as_quick |" in text
    assert "| 1 | 400 ±4% | 50.0 ±4% | 600 ±4% = | **601 ±4%** |" in text


def test_the_matrix_says_no_resolution_where_there_is_none_and_a_dash_where_nothing_is():
    alone = rate(1234.0, resolution_percent=None)
    many = row(concurrency=8, output_per_second=alone)
    run = results({"steady": variant(row(), many), "quick": variant(row(), builds_on="steady")})
    lines = list(matrix(run, "**{}**".format))
    assert [line[0] for line in lines] == ["1", "8"]
    assert lines[1] == ("8", "1,234", "–")


def test_the_matrix_of_an_open_loop_is_about_the_offered_rate():
    offered = replace(row(), concurrency=None, offered_rate=100.0)
    settings = {"epochs": 1, "rate": [100.0]}
    text = tables(results({"steady": variant(offered)}, settings=settings), SUITE, CHARTS)
    assert "| numbers/s at offered rate | steady |" in text
    assert "| 100/s | " in text


def test_tables_with_a_failed_variant_say_first_that_it_failed_and_why():
    run = results()
    text = tables(replace(run, variants=run.variants | {"broken": failed_variant()}), SUITE, CHARTS)
    first = text.strip().splitlines()[0]
    assert first.startswith("- **broken failed: it ended with 1 before it was ready")
    assert "no model" in first
    assert "| steady | 1 |" in text
    assert "| numbers/s at concurrency | steady | broken |" in text
    (line,) = (line for line in text.splitlines() if line.startswith("| 1 | "))
    assert line.endswith("| – |")
    assert "| broken | 1" not in text


def test_tables_of_a_run_in_which_nothing_was_measured_have_neither_rows_nor_pictures():
    text = tables(results({"steady": failed_variant(None)}), SUITE, CHARTS)
    assert "steady failed" in text
    assert "|" not in text
    assert ".png" not in text


def test_without_verdicts_there_is_no_verdict_table():
    text = tables(results(), SUITE, CHARTS)
    assert "verdict" not in text
    assert "A/A control" not in text
    assert text.count("<details>") == 1  # every row


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


def test_the_console_says_matrix_advice_rows_verdicts_control_and_every_doubt():
    wrong = Comparison(None, None, None, None, "not counted", "not counted: 3 wrong answers")
    text = printed(
        results(
            {
                "steady": variant(replace(row(), warnings=["coarse [a]"])),
                "broken": failed_variant(),
            },
            notes=["NOT REAL"],
            verdicts=[verdict("quick", "1", 30.0), Verdict("quick", "steady", "8", wrong)],
            aa_control={"1": comparison(0.5, "same"), "8": wrong},
            advice=["quick beats steady at 1"],
        )
    )
    lines = (
        MATRIX_LEGEND,
        "quick beats steady at 1",
        "NOT REAL",
        "steady: counts",
        "quick against steady at 1: faster by 30 %",
        "quick against steady at 8: not counted: 3 wrong answers",
        "A/A control against the baseline: +0.5 % [-2.5, +3.5] at 1",
        "! steady at 1: coarse [a]",
    )
    places = [text.index(f"{line}\n") for line in lines]
    assert places == sorted(places)
    assert places[1] < text.index("numbers: 95 % intervals") < places[2]


def test_what_was_measured_is_saved_and_printed_though_its_drawing_is_interrupted(
    tmp_path, monkeypatch
):
    def interrupted(*_) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(harness.cli, "draw", interrupted)
    console = Console(file=StringIO())
    with pytest.raises(KeyboardInterrupt):
        harness.cli.shown(compared_runs(), SUITE, Namespace(output_dir=tmp_path), console)
    assert "best for" in console.file.getvalue()
    assert (tmp_path / harness.cli.FILE_NAME).exists()


def test_the_console_shows_the_matrix_with_every_variant_and_its_marks():
    run = compared_runs()
    console = Console(width=LOG_WIDTH, file=StringIO(), force_terminal=True)
    console.print(matrix_table(run))
    shown = console.file.getvalue()
    assert "400 ±4%" in shown
    assert "600 ±4% =" in shown
    assert re.search(r"\x1b\[1m601 ±4%", shown)  # bold
    headings = [column.header for column in matrix_table(run).columns]
    assert headings == ["concurrency", "steady", "slow", "quick", "as quick"]


def test_judging_a_file_again_prints_best_advice_verdicts_and_control():
    console = Console(width=LOG_WIDTH, file=StringIO())
    run = compared_runs()
    print_verdicts(run, console)
    text = console.file.getvalue()
    for line in [MATRIX_LEGEND, *run.advice, *aa_control(run), *verdict_lines(run)]:
        assert f"{line}\n" in text
    assert len(run.verdicts) == 3
    assert len(aa_control(run)) == 1


def test_the_console_says_why_there_are_no_verdicts():
    assert "no verdicts: they need measurements of the baseline and another variant" in printed(
        results()
    )


def test_the_comparison_of_two_files_shows_both_rates_and_a_dash_for_a_variant_that_fails_now():
    old = judged_results({"steady": 100.0, "gone": 50.0})
    rows = old.variants["steady"].rows
    partly = {"steady": replace(failed_variant(None), rows=rows)}
    new = replace(old, variants=partly)
    table = comparison_table(compared_rows(old, new, 10.0), old, new)
    assert table.title.startswith(
        "numbers, numbers/s: 2026-01-01T00:00:00+00:00 (01234567) against"
    )
    columns = [list(column.cells) for column in table.columns]
    rate_before, gone = rate_text(rows[0].output_per_second), "50.0 [48.1, 52.0]"
    assert columns[2:4] == [["–", rate_before, gone], ["–", rate_before, "–"]]
    assert columns[1] == ["all", "1", "1"]
    assert columns[4][0].startswith("fails now: it ended with 1")
    assert columns[4][2] == "was not measured now"
    assert [row.style for row in table.rows] == ["red", None, "red"]


def test_records_become_a_table_under_their_note(tmp_path):
    rows = [{"kind": "a", "kept_bytes": 1234567}, {"kind": "b", "kept_bytes": 8}]
    (tmp_path / "records.json").write_text(json.dumps({"note": "Made here", "rows": rows}))
    text = filled("<!-- records records.json -->\nold\n<!-- end of records -->\n", tmp_path)
    assert text.splitlines()[1:-1] == [
        *("", "Made here.", "", "| kind | kept bytes |", "|--:|--:|"),
        *("| a | 1,234,567 |", "| b | 8 |", ""),
    ]
    with pytest.raises(UnusableResultsError, match="holds no records"):
        filled("<!-- records other.json -->\n<!-- end of records -->", tmp_path)


def test_memory_is_a_table_where_it_was_measured_and_nothing_elsewhere():
    workers = RoleMemory(2, 60_000_000, 200_000_000, 100_000_000, None)
    http = RoleMemory(1, 10_000_000, 50_000_000, 30_000_000, None)
    known = variant(memory={"http": http, "workers": workers})
    assert list(memory_lines(results())) == []
    lines = list(memory_lines(results({"steady": known, "other": variant()})))
    assert len(lines) == 3
    assert lines[2].startswith("| steady | 2 | 60 | 30 | 130 | – | ")
    assert lines[2] in tables(results({"steady": known}), SUITE, CHARTS)


def test_where_the_kernel_tells_no_shares_the_private_memory_is_the_whole():
    memory = {"workers": RoleMemory(2, 60_000_000, 200_000_000, None, 5_000_000)}
    assert (
        "| 2 | 60 | 30 | 60 | 5 |" in list(memory_lines(results({"a": variant(memory=memory)})))[2]
    )
