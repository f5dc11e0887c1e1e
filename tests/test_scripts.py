"""Every script can be asked for help, from any folder; the variants are the server files."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import llm_model_benchmarking.benchmark
import mnist_model_benchmarking.benchmark
from llm_model_benchmarking.suite import SUITE as LLM
from mnist_model_benchmarking.suite import SUITE as MNIST

ROOT = Path(__file__).parent.parent
SCRIPTS = sorted(
    path
    for suite in (MNIST, LLM)
    for path in (ROOT / suite.package).glob("*.py")
    if '__name__ == "__main__"' in path.read_text()
)
MODULES = [
    "harness.load",
    "harness.compare",
    "harness.charts",
    "harness.readme",
    "mnist_model_benchmarking.server_baseline",
]
MNIST_MAIN = mnist_model_benchmarking.benchmark.main
LLM_MAIN = llm_model_benchmarking.benchmark.main
COMMON = [
    ["--variants", "nonsense"],
    ["--concurrency", "0"],
    ["--epochs", "-1"],
    ["--output-dir", "/proc/nothing"],
    ["--url", "http://127.0.0.1:9"],
]


def helped(command: list, folder: Path) -> subprocess.CompletedProcess:
    """What a script says when asked for help in that folder."""
    return subprocess.run(
        [sys.executable, *command, "--help"], cwd=folder, capture_output=True, text=True
    )


def test_help_by_path_from_another_folder_and_as_a_module(tmp_path):
    commands = [[script] for script in SCRIPTS] + [["-m", module] for module in MODULES]
    with ThreadPoolExecutor(2) as pool:
        shown = list(pool.map(lambda command: helped(command, tmp_path), commands))
    for command, result in zip(commands, shown, strict=True):
        assert result.returncode == 0, (command, result.stderr)
        assert "usage:" in result.stdout, command
    assert len(SCRIPTS) >= 13
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
        (LLM_MAIN, ["--model", "random:huge"]),
        (LLM_MAIN, ["--model", "random:tiny", "--prompt-tokens", "5"]),
        (LLM_MAIN, ["--model", "random:tiny", "--output-tokens", "100000"]),
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
