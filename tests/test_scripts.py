"""Every script can be asked for help, from any folder, and the list of variants is the list of server files."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import llm_model_benchmarking.benchmark
import mnist_model_benchmarking.benchmark

ROOT = Path(__file__).parent.parent
SUITES = (mnist_model_benchmarking.benchmark, llm_model_benchmarking.benchmark)
SCRIPTS = sorted(path for suite in SUITES for path in Path(suite.__file__).parent.glob("*.py")
                 if "__main__" in path.read_text())  # fmt: skip
MODULES = [
    "harness.load.job",
    "harness.compare",
    "harness.show.charts",
    "harness.readme",
    "mnist_model_benchmarking.server_baseline",
]


def helped(command: list, folder: Path) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, *command, "--help"], cwd=folder, capture_output=True, text=True)


def test_help_by_path_from_another_folder_and_as_a_module(tmp_path):
    commands = [[script] for script in SCRIPTS] + [["-m", module] for module in MODULES]
    with ThreadPoolExecutor(2) as pool:
        shown = list(pool.map(lambda command: helped(command, tmp_path), commands))
    for command, result in zip(commands, shown, strict=True):
        assert result.returncode == 0, (command, result.stderr)
        assert "usage:" in result.stdout, command
    assert len(SCRIPTS) >= 13
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suite", SUITES)
def test_variants_are_the_server_files_in_an_order_that_builds_up(suite):
    files = {path.stem.removeprefix("server_") for path in Path(suite.__file__).parent.glob("server_*.py")}
    names = [variant.name for variant in suite.VARIANTS]
    assert set(names) == files
    for variant in suite.VARIANTS[1:]:
        assert names.index(variant.builds_on) < names.index(variant.name)


COMMON = [["--variants", "nonsense"], ["--concurrency", "0"], ["--rounds", "-1"], ["--output-dir", "/proc/nothing"],
          ["--url", "http://127.0.0.1:9"]]  # fmt: skip


@pytest.mark.parametrize(("suite", "arguments"), [
    *((suite, arguments) for suite in SUITES for arguments in COMMON),
    (mnist_model_benchmarking.benchmark, ["--mnist", "nowhere"]),
    (llm_model_benchmarking.benchmark, ["--model", "random:huge"]),
    (llm_model_benchmarking.benchmark, ["--model", "random:tiny", "--prompt-tokens", "5"]),
])  # fmt: skip
def test_bad_options_are_refused_with_a_sentence_not_a_traceback(suite, arguments, tmp_path, monkeypatch, capsys):
    place = [] if "--output-dir" in arguments else ["--output-dir", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["benchmark.py", *arguments, *place])
    with pytest.raises(SystemExit) as ended:
        suite.main()
    said = ended.value.code if isinstance(ended.value.code, str) else capsys.readouterr().err
    assert ended.value.code not in (0, None)
    assert len(said.strip().splitlines()[-1]) > 20
    assert not list(tmp_path.iterdir())
