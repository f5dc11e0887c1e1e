"""Stock clients, installed into an environment of their own, against every rung: they are no
dependencies of ours.
"""

import subprocess
import sys
from pathlib import Path

import pytest

from harness.process.launch import running_server
from llm_model_benchmarking.suite import VARIANTS

CLIENTS = ("openai", "langchain-openai", "litellm")
SCRIPT = Path(__file__).parent / "stock_clients.py"


@pytest.fixture(scope="module")
def python(tmp_path_factory) -> Path:
    """Python of an environment that has the clients; skipped where they cannot be installed."""
    place = tmp_path_factory.mktemp("clients")
    subprocess.run([sys.executable, "-m", "venv", place], check=True)
    python = place / "bin" / "python"
    command = [python, "-m", "pip", "install", "--quiet", *CLIENTS]
    installed = subprocess.run(command, capture_output=True, text=True)
    if installed.returncode:
        pytest.skip(f"the clients cannot be installed: {installed.stderr[-500:]}")
    return python


@pytest.mark.slow
@pytest.mark.parametrize("variant", [variant.name for variant in VARIANTS])
def test_stock_clients_run_unchanged_eight_at_once(python, variant):
    flags = ["--model", "random:tiny", "--max-context", "256", "--accelerator", "cpu"]
    with running_server(f"llm_model_benchmarking.server_{variant}", *flags) as server:
        done = subprocess.run(
            [python, "-P", SCRIPT, server.url], capture_output=True, text=True, timeout=300
        )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "8 clients got the same answer" in done.stdout
