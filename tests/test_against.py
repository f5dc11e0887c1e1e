"""--against: another revision's servers beside today's, its worktree, verdicts, exit codes."""

import contextlib
import io
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import pytest
import requests
from rich.console import Console

import harness.cli
from harness.cli import benchmark, concluded, parsed
from harness.judge.advice import since_revision
from harness.judge.comparison import IMPROVED, UNKNOWN, refuse_incomparable, summary
from harness.judge.judgement import judged
from harness.judge.revisions import revision_rows
from harness.measure.stats import refuse_other_stats
from harness.process.groups import signals_as_interrupt
from harness.process.launch import ServerFailedError, running_server
from harness.process.revision import NoRevisionError, Revision, checked_out
from harness.readme import published
from harness.results.file import UnusableResultsError, save
from harness.results.schema import Comparison, Results, Verdict
from harness.run import run
from harness.show.charts import draw
from harness.suite import CannotMeasureError, read_results
from mnist_model_benchmarking.benchmark import parser
from tests import test_language_model_benchmark as language_model
from tests import test_mnist_benchmark as mnist
from tests.builders import (
    failed_variant,
    load_result,
    rate,
    results,
    row,
    variant,
    windows_of,
)
from tests.numbers.suite import SUITE, suite
from tests.test_runs import options

ROOT = Path(__file__).parent.parent
STEADY = "tests.numbers.server_steady"


def git(place: Path, *words: str) -> str:
    command = ["git", "-c", "user.name=a", "-c", "user.email=a@b", *words]
    return subprocess.run(command, cwd=place, capture_output=True, text=True, check=True).stdout


@pytest.fixture
def repository(tmp_path) -> Path:
    """A checkout of its own, with two commits."""
    place = tmp_path / "repository"
    place.mkdir()
    git(place, "init", "--quiet")
    for number in ("1", "2"):
        (place / "number").write_text(number)
        git(place, "add", "number")
        git(place, "commit", "--quiet", "--message", number)
    return place


@contextlib.contextmanager
def altered(**changes: tuple[str, str]):
    """HEAD in a worktree of its own, in which server scripts say something else."""
    with checked_out("HEAD") as revision:
        for script, (old, new) in changes.items():
            alter(revision, f"tests/numbers/server_{script}.py", old, new)
        yield revision


def alter(revision: Revision, path: str, old: str, new: str) -> None:
    file = revision.root / path
    text = file.read_text()
    assert text.count(old) == 1
    file.write_text(text.replace(old, new))


def test_a_revision_is_checked_out_beside_uncommitted_changes_and_gone_afterwards(repository):
    (repository / "number").write_text("3")
    before = git(repository, "worktree", "list")
    with checked_out("HEAD~1", repository) as revision:
        assert (revision.root / "number").read_text() == "1"
        assert git(repository, "rev-parse", "HEAD~1").startswith(revision.commit)
        assert git(repository, "worktree", "list") != before
    assert not revision.root.parent.exists()
    assert git(repository, "worktree", "list") == before
    assert (repository / "number").read_text() == "3"


@pytest.mark.parametrize("kind", [RuntimeError, KeyboardInterrupt])
def test_the_worktree_is_removed_whatever_happens(repository, kind):
    before = git(repository, "worktree", "list")
    with pytest.raises(kind), checked_out("HEAD", repository) as revision:
        raise kind
    assert not revision.root.parent.exists()
    assert git(repository, "worktree", "list") == before


KILLED = """
import sys, time
from pathlib import Path
from harness.process.revision import checked_out
with checked_out("HEAD", Path(sys.argv[1])) as revision:
    print(revision.root, flush=True)
    time.sleep(60)
"""


def test_a_killed_run_leaves_no_files_and_the_next_one_tidies_gits_list(repository):
    before = git(repository, "worktree", "list")
    command = [sys.executable, "-c", KILLED, repository]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)}
    ) as process:
        root = Path(process.stdout.readline().strip())
        assert root.is_dir()
        process.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 20
    while root.parent.exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    with checked_out("HEAD", repository):
        pass
    assert git(repository, "worktree", "list") == before


def test_what_cannot_be_checked_out_is_refused_with_one_sentence(repository, tmp_path, monkeypatch):
    git(tmp_path, "clone", "--quiet", "--depth", "1", f"file://{repository}", "shallow")
    for name, place, words in (
        ("nonsense", repository, "no such revision: nonsense"),
        ("--help", repository, "no such revision: --help"),
        ("HEAD~1", tmp_path / "shallow", "only its last commits: git fetch --unshallow"),
        ("HEAD", tmp_path, "--against needs a git checkout"),
    ):
        with pytest.raises(NoRevisionError, match=words) as refused, checked_out(name, place):
            pass
        assert "\n" not in str(refused.value)
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(NoRevisionError, match="--against needs git"), checked_out("HEAD"):
        pass


def test_the_server_of_a_revision_runs_its_code_and_keeps_what_it_compiles(monkeypatch):
    """Although this checkout is installed, is the working directory, and is on PYTHONPATH."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "/tmp/today")
    told = 'return {"n": number + 1, "cache": __import__("os").environ["TORCHINDUCTOR_CACHE_DIR"]}'
    with altered(steady=('return {"n": number}', told)) as revision:
        variant_told = '"variant": variant_of(api)', '"variant": "of the revision"'
        alter(revision, "harness/serving/serve.py", *variant_told)
        with running_server(STEADY, "--accelerator", "cpu", root=revision.root) as server:
            said = requests.post(f"{server.url}/predict", json={"n": 1}, timeout=5).json()
            assert said == {"n": 2, "cache": str(revision.root / ".compiled" / STEADY)}
            assert server.info["variant"] == "of the revision"
            refuse_other_stats(server.stats())
    with running_server(STEADY, "--accelerator", "cpu") as server:
        said = requests.post(f"{server.url}/predict", json={"n": 1}, timeout=5).json()
        assert said == {"n": 1}
        assert server.info["variant"] == "steady"


def test_a_server_without_a_run_id_in_stats_is_refused_with_one_sentence():
    with checked_out("HEAD") as revision:
        run_id = '{"run_id": run_id} | totals_of', "totals_of"
        alter(revision, "harness/serving/serve.py", *run_id)
        with (
            running_server(STEADY, "--accelerator", "cpu", root=revision.root) as server,
            pytest.raises(ServerFailedError, match="tells no run id in /stats"),
        ):
            server.stats()


STATS = {
    "run_id": "7",
    "http": [{"pid": 1, "requests": 0, "ingress_s": 0.0, "after_ingress_s": 0.0}],
    "workers": [
        {
            "pid": 2,
            "requests": 0,
            "batches": 0,
            "busy_s": {"predict": 0.0},
            "spent_s": {"queue_wait": 0.0, "predict": 0.0},
            "setup_metrics": {},
            "batch_sizes": {"1": 3},
        }
    ],
}


def test_stats_in_another_format_are_refused_with_what_is_lacking():
    refuse_other_stats(STATS)
    worker = STATS["workers"][0]
    for stats, words in (
        (STATS | {"workers": []}, "workers: List should have at least 1 item"),
        ({"workers": STATS["workers"]}, "http: Field required"),
        (STATS | {"workers": [worker | {"spent_s": {}}]}, r"spent_s\.queue_wait: Field required"),
        (STATS | {"workers": [worker | {"busy_s": 3}]}, r"workers\.0\.busy_s: .* valid dictionary"),
    ):
        with pytest.raises(ServerFailedError, match=words):
            refuse_other_stats(stats)


NAMES = "paced", "steady", "slowed"


@pytest.fixture(scope="module")
def against_head(tmp_path_factory) -> tuple[Results, str, Path]:
    """A run against a revision whose paced server is slower, whose steady server tells other
    /stats, and which has no slowed server.
    """
    folder, log = tmp_path_factory.mktemp("against"), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, altered(paced=("0.02", "0.1")) as revision:
        patch.chdir(ROOT)
        (revision.root / "tests/numbers/server_slowed.py").unlink()
        steady = "from harness.serving import counters\ncounters.QUEUE_WAIT = 'waited'\n\n\nclass S"
        alter(revision, "tests/numbers/server_steady.py", "class S", steady)
        wanted = options(folder, variants=list(NAMES), concurrency=[1], minutes=0.1, against="HEAD")
        console = Console(file=log, width=200)
        made = run(suite(*NAMES), wanted, console, replace(revision, name="HEAD"))
    return made, log.getvalue(), folder


def test_every_block_holds_both_revisions_and_each_variant_meets_itself_only(against_head):
    made, _, _ = against_head
    servers = {window.server for window in made.windows}
    assert servers == {"paced", "A/A control", "paced@HEAD", "steady", "slowed"}
    blocks = {}
    for window in made.windows:
        blocks.setdefault(window.block, set()).add(window.server)
    assert all(each == servers for each in blocks.values())
    assert made.builds_on == {
        "paced": "paced@HEAD",
        "paced@HEAD": None,
        "steady": "steady@HEAD",
        "steady@HEAD": None,
        "slowed": None,
    }
    compared = {(each.variant, each.against) for each in made.verdicts}
    assert compared == {("paced", "paced@HEAD"), ("steady", "steady@HEAD")}
    assert made.verdicts[0].comparison.verdict == "faster"
    assert set(made.aa_control) == {"1"}


def test_the_revision_and_what_is_new_are_said_before_and_after(against_head):
    made, log, _ = against_head
    lines = (
        f"this code against HEAD, commit {made.against_commit}, in the same blocks",
        "slowed is new: HEAD has no server_slowed.py",
    )
    for line in lines:
        assert line in made.notes
        assert f"{line}\n" in log
    assert made.settings["against"] == "HEAD"
    assert git(ROOT, "rev-parse", "HEAD").startswith(made.against_commit)
    assert made.advice[0].startswith("paced: faster by ")
    assert made.advice[1:] == ["steady: undecided at 1"]


def test_nothing_is_measured_without_a_server_of_another_revision(against_head):
    made, _, _ = against_head
    assert made.variants["paced"].in_process_per_second == 1000
    assert made.variants["paced@HEAD"].in_process_per_second is None
    assert made.variants["paced@HEAD"].no_op_server == made.variants["paced"].no_op_server
    assert made.variants["paced@HEAD"].rows[0].breakdown_ms.keys() == (
        made.variants["paced"].rows[0].breakdown_ms.keys()
    )


def test_a_revision_whose_stats_are_not_understood_leaves_its_variant_inconclusive(against_head):
    made, log, _ = against_head
    reason = "its /stats is not what this code measures with: workers.0.spent_s.queue_wait"
    assert made.variants["steady@HEAD"].error.startswith(reason)
    assert f"steady@HEAD failed: {reason}" in log
    pairs = revision_rows(made, 10.0)
    assert [(pair.variant, pair.load, pair.outcome) for pair in pairs] == [
        ("paced", "1", IMPROVED),
        ("steady", "all", UNKNOWN),
    ]
    assert summary(pairs) == UNKNOWN


def test_the_raw_windows_of_both_revisions_give_the_same_verdicts_again(against_head, tmp_path):
    made, _, folder = against_head
    save(made, folder / "benchmark_results.json")
    saved = read_results(folder / "benchmark_results.json")
    assert saved == made
    assert judged(replace(saved, verdicts=[], advice=[], aa_control={})) == made
    names = {path.relative_to(tmp_path).as_posix() for path in draw(made, SUITE, tmp_path)}
    assert "utilisation/benchmark_results_paced@HEAD.png" in names


def test_a_revision_without_the_folder_or_any_of_its_servers_is_refused(tmp_path):
    (tmp_path / "old/harness").mkdir(parents=True)
    old = Revision("v1", "0123abc", tmp_path / "old")
    wanted = options(tmp_path, variants=["paced", "slowed"], against="v1")
    with pytest.raises(CannotMeasureError, match="v1 has no tests/numbers/ to measure against"):
        run(suite(*NAMES), wanted, Console(file=io.StringIO()), old)
    (old.root / "tests/numbers").mkdir(parents=True)
    with pytest.raises(CannotMeasureError, match=r"no server_paced\.py, server_slowed\.py"):
        run(suite(*NAMES), wanted, Console(file=io.StringIO()), old)


def judged_against(rates: dict[str, float], name: str = "main", **noise) -> Results:
    """A run against another revision, judged; `rates` by variant, x@main before or after x."""
    made = {
        each: variant(
            row(requests_per_second=rate(reached), output_per_second=rate(reached)),
            builds_on=f"{each}@{name}" if f"{each}@{name}" in rates else None,
        )
        for each, reached in rates.items()
    }
    settings = {"against": name, "threshold": 10.0, "rate": None, "minutes": 8.0, "epochs": 3}
    windows = windows_of(rates, **noise)
    return judged(results(made, windows=windows, settings=settings, against_commit="89abcde"))


def code_and_text(made: Results, threshold: float = 10.0) -> tuple[int, str]:
    console = Console(file=io.StringIO(), width=160)
    return concluded(made, threshold, console), console.file.getvalue()


def test_the_exit_code_says_no_regression_a_regression_or_not_known_well_enough():
    same = {"steady": 100.0, "steady@main": 100.0}
    code, text = code_and_text(judged_against(same, noise=0.01))
    assert (code, "not slower by 10 %" in text, "no regression" in text) == (0, True, True)
    assert "numbers, numbers/s: 01234567 against main (89abcde)" in text
    slower = judged_against({"steady": 70.0, "steady@main": 100.0}, noise=0.01)
    code, text = code_and_text(slower)
    assert (code, " slower by " in text) == (1, True)
    assert code_and_text(slower, threshold=40.0)[0] == 0
    assert code_and_text(judged_against({"steady": 150.0, "steady@main": 100.0}))[0] == 0
    code, text = code_and_text(judged_against(same, noise=0.4))
    assert (code, "inconclusive: between -" in text) == (3, True)


def test_a_server_that_fails_now_is_a_regression_unless_it_failed_before():
    whole = judged_against({"steady": 100.0, "steady@main": 100.0}, noise=0.01)
    broken = failed_variant("steady@main")

    def outcome(changes: dict) -> tuple[int, str]:
        return code_and_text(judged(replace(whole, variants=whole.variants | changes)))

    code, text = outcome({"steady": broken})
    assert (code, "fails now: it ended with 1" in text) == (1, True)
    code, text = outcome({"steady@main": replace(broken, builds_on=None)})
    assert (code, "the other revision's fails: it ended with 1" in text) == (3, True)
    assert outcome({"steady": broken, "steady@main": replace(broken, builds_on=None)})[0] == 3
    new = {"new": variant()}
    assert outcome(new)[0] == 0
    assert outcome({"new": replace(broken, builds_on=None)})[0] == 1


def test_more_failed_requests_are_a_regression_however_fast_they_come():
    made = judged_against({"steady": 100.0, "steady@main": 100.0}, noise=0.01)
    failing = replace(made.variants["steady"], rows=[row(load_result(failures=60))])
    code, text = code_and_text(replace(made, variants=made.variants | {"steady": failing}))
    assert (code, "60 of 300 requests fail now" in text) == (1, True)


def test_a_row_without_a_verdict_is_inconclusive():
    made = judged_against({"steady": 100.0, "steady@main": 100.0}, noise=0.01)
    wrong = Comparison(None, None, None, None, "not counted", "not counted: 3 wrong answers")
    made = replace(made, verdicts=[Verdict("steady", "steady@main", "1", wrong)])
    code, text = code_and_text(made)
    assert (code, "not counted: 3 wrong answers" in text) == (3, True)


def test_one_sentence_per_variant_says_what_is_certain_first():
    words = {"1": "same", "8": "same", "32": "undecided", "64": "slower", "128": "not counted"}
    made = [
        Verdict(
            name, f"{name}@main", load, Comparison(None, None, None, None, word, f"{word} by x")
        )
        for name, loads in (("steady", words), ("paced", ["8"]))
        for load, word in words.items()
        if load in loads
    ]
    assert since_revision(made) == [
        "steady: slower by x at 64; same within 5 % at 1, 8; undecided at 32; "
        "not counted for wrong answers at 128",
        "paced: same within 5 % at 8",
    ]


def test_with_a_slash_in_the_revisions_name_every_picture_has_a_name(tmp_path):
    made = judged_against({"steady": 100.0, "steady@origin/main": 100.0}, name="origin/main")
    names = {path.relative_to(tmp_path).as_posix() for path in draw(made, SUITE, tmp_path)}
    assert "utilisation/benchmark_results_steady@origin-main.png" in names


def test_the_folders_know_nothing_of_another_revision_but_what_its_servers_told():
    assert mnist.suite(models_alone={"baseline": mnist.ALONE}).variant(
        "baseline@main", {"baseline@main": []}
    ) == mnist.ImageVariant(baseline_throughput=None)
    told = language_model.record(0.25, compile_s=30.0)
    del told.setup_metrics[0]["load_s"], told.setup_metrics[0]["model_bytes"]
    records = {"baseline": [language_model.record(2.0)], "static_kv_compile@main": [told]}
    own = language_model.suite().variant("static_kv_compile@main", records)
    assert own.avg_tokens_per_sec == pytest.approx(80.0)
    assert (own.load_s, own.model_bytes, own.kl_divergence, own.bytes_per_token) == (None,) * 4
    assert own.break_even_requests == 18


@pytest.mark.parametrize(
    ("words", "other"),
    [(["--url", "http://127.0.0.1:9"], "--url"), (["--sweep", "image-size", "28,256"], "--sweep")],
)
def test_what_does_not_go_together_with_another_revision_is_refused(words, other, capsys):
    with pytest.raises(SystemExit) as ended:
        parsed(parser(), ["--against", "HEAD", *words])
    assert ended.value.code == 2
    assert f"argument --against: not allowed with argument {other}" in capsys.readouterr().err


@pytest.fixture
def own_worktrees(tmp_path, monkeypatch):
    """A function that lists git's worktrees of this test: others may be at work in the checkout."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return lambda: [
        line for line in git(ROOT, "worktree", "list").splitlines() if str(tmp_path) in line
    ]


def ended(monkeypatch, tmp_path, made: Results | BaseException, name: str = "HEAD") -> int:
    """How the benchmark ends with these results of its run, or with what is raised there."""

    def measured(*_) -> Results:
        if isinstance(made, BaseException):
            raise made
        return made

    monkeypatch.setattr(harness.cli, "run", measured)
    words = ["--against", name, "--output-dir", str(tmp_path), "--threshold", "15"]
    return benchmark(lambda: suite("steady"), parsed(parser(), words))


def test_the_benchmark_ends_with_the_exit_code_and_leaves_no_worktree(
    monkeypatch, tmp_path, capsys, own_worktrees
):
    slower = judged_against({"steady": 70.0, "steady@main": 100.0}, noise=0.01)
    assert ended(monkeypatch, tmp_path, slower) == 1
    assert capsys.readouterr().out.endswith("regression\n")
    assert ended(monkeypatch, tmp_path, replace(slower, complete=False)) == 130
    assert ended(monkeypatch, tmp_path, KeyboardInterrupt()) == 130
    capsys.readouterr()
    assert ended(monkeypatch, tmp_path, slower, "nonsense") == 2
    assert capsys.readouterr().err == "no such revision: nonsense\n"
    assert own_worktrees() == []


def test_sigterm_leaves_no_worktree(own_worktrees):
    with (
        contextlib.suppress(KeyboardInterrupt),
        signals_as_interrupt(),
        harness.cli.other_revision("HEAD") as revision,
    ):
        assert len(own_worktrees()) == 1
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)
        pytest.fail("nothing has ended it")
    assert not revision.root.exists()
    assert own_worktrees() == []


def test_results_against_a_revision_are_neither_compared_nor_published(tmp_path):
    made = judged_against({"steady": 100.0, "steady@main": 100.0})
    plain = replace(made, settings=made.settings | {"against": None})
    refuse_incomparable(plain, plain, across_machines=False)
    with pytest.raises(UnusableResultsError, match=r"the new run compares two revisions itself"):
        refuse_incomparable(plain, made, across_machines=False)
    save(made, tmp_path / "folder/metrics/published/here/benchmark_results.json")
    with pytest.raises(UnusableResultsError, match="no result of record"):
        published(tmp_path, "folder")
