"""Every script can be asked for help, from any folder, and the list of variants is the list of server files."""

import subprocess
import sys
from pathlib import Path

import pytest

from mnist_model_benchmarking.benchmark import VARIANTS

ROOT = Path(__file__).parent.parent
SCRIPTS = sorted(path for path in (ROOT / "mnist_model_benchmarking").glob("*.py")
                 if "__main__" in path.read_text())  # fmt: skip
MODULES = ["harness.load", "harness.charts"]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_help_by_path_from_another_folder(script, tmp_path):
    shown = subprocess.run([sys.executable, script, "--help"], cwd=tmp_path, capture_output=True, text=True)
    assert shown.returncode == 0, shown.stderr
    assert "usage:" in shown.stdout
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("module", [*MODULES, "mnist_model_benchmarking.server_baseline"])
def test_help_as_a_module(module):
    shown = subprocess.run([sys.executable, "-m", module, "--help"], capture_output=True, text=True)
    assert shown.returncode == 0, shown.stderr


def test_variants_are_the_server_files_in_an_order_that_builds_up():
    files = {path.stem.removeprefix("server_") for path in (ROOT / "mnist_model_benchmarking").glob("server_*.py")}
    names = [variant.name for variant in VARIANTS]
    assert set(names) == files
    for variant in VARIANTS[1:]:
        assert names.index(variant.builds_on) < names.index(variant.name)


@pytest.mark.parametrize("arguments", [
    ["--variants", "nonsense"], ["--concurrency", "0"], ["--rounds", "-1"], ["--mnist", "nowhere"],
    ["--output-dir", "/proc/nothing"], ["--url", "http://127.0.0.1:9"],
])  # fmt: skip
def test_bad_options_are_refused_with_a_sentence_not_a_traceback(arguments):
    script = ROOT / "mnist_model_benchmarking" / "benchmark.py"
    refused = subprocess.run([sys.executable, script, *arguments], capture_output=True, text=True, timeout=120)
    assert refused.returncode in (1, 2)
    assert refused.stderr.strip()
    assert "Traceback" not in refused.stderr
