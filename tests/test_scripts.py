"""Every script can be asked for help, from any folder; the variants are the server files."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import harness.verdicts
import llm_model_benchmarking.benchmark
import mnist_model_benchmarking.benchmark
from harness.cli import parsed
from harness.results.file import save
from llm_model_benchmarking.suite import SUITE as LLM
from mnist_model_benchmarking.suite import SUITE as MNIST
from tests.builders import judged_results
from tests.servers import NOWHERE

ROOT = Path(__file__).parent.parent
SCRIPTS = sorted(
    path
    for suite in (MNIST, LLM)
    for path in (ROOT / suite.package).glob("*.py")
    if '__name__ == "__main__"' in path.read_text()
)
MODULES = [
    "harness",
    "harness.load",
    "harness.compare",
    "harness.charts",
    "harness.readme",
    "harness.verdicts",
    "mnist_model_benchmarking.server_baseline",
]
MNIST_PARSER = mnist_model_benchmarking.benchmark.parser
LLM_PARSER = llm_model_benchmarking.benchmark.parser
MNIST_MAIN = mnist_model_benchmarking.benchmark.main
LLM_MAIN = llm_model_benchmarking.benchmark.main
COMMON = [
    ["--variants", "nonsense"],
    ["--variants", ""],
    ["--concurrency", "0"],
    ["--epochs", "-1"],
    ["--minutes", "0"],
    ["--minutes", "inf"],
    ["--precision", "-3"],
    ["--precision", "nan"],
    ["--rate", "10,nan"],
    ["--output-dir", "/proc/nothing"],
    ["--url", "http://127.0.0.1:9"],
    ["--against", "nonsense"],
    ["--against", "HEAD", "--threshold", "0"],
]


# Python, as it is after the imports that take seconds, forked for each script: sys.argv, sys.path
# and __main__ are then as `python SCRIPT --help` and `python -m MODULE --help` have them.
FORKED = """
import gc, os, runpy, sys, traceback
import litserve, matplotlib.pyplot, pandas, scipy.optimize, scipy.stats, torch, transformers

def run(command):
    sys.argv = [command, "--help"]
    if command.endswith(".py"):
        sys.path[0] = os.path.dirname(command)
        runpy.run_path(command, run_name="__main__")
    else:
        sys.path[0] = os.getcwd()
        runpy.run_module(command, run_name="__main__", alter_sys=True)

gc.freeze()  # what is imported is not copied into every child
for number, command in enumerate(sys.argv[1:]):
    if child := os.fork():
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        print(code, command, flush=True)
        continue
    said = os.open(f"{number}.txt", os.O_CREAT | os.O_WRONLY)
    os.dup2(said, 1)
    os.dup2(said, 2)
    code = 1
    try:
        run(command)
    except SystemExit as ended:
        code = ended.code or 0
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    os._exit(code)  # without taking down what was imported, which takes longer than all the rest
"""


def ran_in(folder: Path, *command: str | Path) -> subprocess.CompletedProcess:
    """A Python command that has ended in that folder."""
    return subprocess.run([sys.executable, *command], cwd=folder, capture_output=True, text=True)


def test_help_by_path_from_another_folder_and_as_a_module(tmp_path):
    commands = [*map(str, SCRIPTS), *MODULES]
    ended = ran_in(tmp_path, "-c", FORKED, *commands)
    assert ended.stdout.splitlines() == [f"0 {command}" for command in commands], ended.stderr
    for number, command in enumerate(commands):
        said = tmp_path / f"{number}.txt"
        assert "usage:" in said.read_text(), command
        said.unlink()
    assert len(SCRIPTS) >= 13
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suite", [MNIST, LLM])
def test_a_benchmark_starts_by_path_from_another_folder(suite, tmp_path):
    """In a Python of its own, where its folder's files come before what is installed."""
    result = ran_in(tmp_path, ROOT / suite.package / "benchmark.py", "--help")
    assert (result.returncode, result.stdout[:6]) == (0, "usage:"), result.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suite", [MNIST, LLM])
def test_variants_are_the_server_files_in_an_order_that_builds_up(suite):
    files = (ROOT / suite.package).glob("server_*.py")
    names = [variant.name for variant in suite.variants]
    assert set(names) == {path.stem.removeprefix("server_") for path in files}
    for variant in suite.variants[1:]:
        assert names.index(variant.builds_on) < names.index(variant.name)


@pytest.mark.parametrize(
    ("main", "arguments"),
    [
        *((main, arguments) for main in (MNIST_MAIN, LLM_MAIN) for arguments in COMMON),
        (MNIST_MAIN, ["--mnist", "nowhere"]),
        (MNIST_MAIN, ["--sweep", "weather", "1,2"]),
        (MNIST_MAIN, ["--sweep", "image-size", "28,256", "--output-dir", "/dev/null/here"]),
        (MNIST_MAIN, ["--image-size", "100000"]),
        (MNIST_MAIN, ["--image-size", "4096", "--images-per-request", "2"]),
        (MNIST_MAIN, ["--images-per-request", "513"]),
        (LLM_MAIN, ["--model", "random:huge"]),
        (LLM_MAIN, ["--model", "random:tiny", "--prompt-tokens", "5"]),
        (LLM_MAIN, ["--model", "random:tiny", "--output-tokens", "100000"]),
        (MNIST_MAIN, ["--accelerator", NOWHERE]),
        (LLM_MAIN, ["--model", "random:tiny", "--accelerator", NOWHERE]),
    ],
)
def test_bad_options_are_refused_with_a_sentence_not_a_traceback(
    main, arguments, tmp_path, monkeypatch, capsys
):
    place = [] if "--output-dir" in arguments else ["--output-dir", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["benchmark.py", *arguments, *place])
    with pytest.raises(SystemExit) as ended:
        main()
    said = ended.value.code if isinstance(ended.value.code, str) else capsys.readouterr().err
    assert ended.value.code not in (0, None)
    assert len(said.strip().splitlines()[-1]) > 20
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("parser", "minutes", "quick", "most"),
    [(MNIST_PARSER, 8.0, 1.25, 30.0), (LLM_PARSER, 18.0, 1.0, 60.0)],
)
def test_a_run_is_as_long_as_asked_and_a_precision_has_a_cap_of_its_own(
    parser, minutes, quick, most
):
    def asked(*words: str) -> tuple[float, float | None, int]:
        options = parsed(parser(), list(words))
        return options.minutes, options.precision, options.epochs

    assert asked() == (minutes, None, 3)
    assert asked("--minutes", "20", "--epochs", "5") == (20.0, None, 5)
    assert asked("--quick") == (quick, None, 1)
    assert asked("--quick", "--minutes", "1") == (1.0, None, 1)
    assert asked("--precision", "3")[:2] == (most, 3.0)
    assert asked("--precision", "3", "--minutes", "9")[:2] == (9.0, 3.0)


def test_a_file_judged_again_says_what_its_run_said(tmp_path):
    made = judged_results({"steady": 100.0, "quick": 140.0, "slow": 60.0}, control="steady")
    path = tmp_path / "benchmark_results.json"
    save(replace(made, verdicts=[], advice=[], best={}, aa_control={}), path)
    command = [sys.executable, "-m", "harness.verdicts", path]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    lines = printed.splitlines()
    for verdict in made.verdicts:
        pair = f"{verdict.variant} against {verdict.against} at {verdict.load}"
        assert f"{pair}: {verdict.comparison.text}" in lines
    assert len(made.verdicts) == 2
    assert set(made.advice) <= set(lines)


@pytest.mark.parametrize("content", ["{}", "not JSON"])
def test_what_is_no_result_file_is_not_judged(content, tmp_path, monkeypatch):
    (tmp_path / "file.json").write_text(content)
    monkeypatch.setattr(sys, "argv", ["verdicts", str(tmp_path / "file.json")])
    with pytest.raises(SystemExit, match=r"file\.json"):
        harness.verdicts.main()
