"""Stock clients, installed into environments of their own, against the servers: they are no
dependencies of ours.

    python -m pytest -m slow -s tests/test_stock_clients.py
"""

import json
import os
import statistics
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from harness.load.job import Job
from harness.load.runner import load_process
from harness.process.launch import Server, running_server
from llm_model_benchmarking.checks import ChatCheck, carries_token
from llm_model_benchmarking.prompts import chat_ids, prompts_of
from llm_model_benchmarking.suite import VARIANTS, request_body
from llm_model_benchmarking.tokenizer import build_tokenizer

SCRIPT = Path(__file__).parent / "stock_clients.py"
TINY = ("--model", "random:tiny", "--max-context", "256", "--accelerator", "cpu")
VOCABULARY, CONTEXT = 49152, 256
PAIRS, SECONDS, CONCURRENCY, PROMPT_TOKENS, OUTPUT_TOKENS = 3, 20, 4, 64, 32


def installed(place: Path, *packages: str, borrowed: bool = False) -> Path:
    """The programs of a new environment with these packages, and with ours if `borrowed`; skips
    where they cannot be installed.
    """
    subprocess.run([sys.executable, "-m", "venv", place], check=True)
    if borrowed:
        site = place / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}"
        borrowing = site / "site-packages" / "borrowed.pth"
        borrowing.write_text(sysconfig.get_paths()["purelib"])
    command = [place / "bin" / "python", "-m", "pip", "install", "--quiet", *packages]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"{', '.join(packages)} cannot be installed: {done.stderr[-500:]}")
    return place / "bin"


@pytest.fixture(scope="module")
def python(tmp_path_factory) -> Path:
    """Python of an environment that has the clients."""
    packages = ("openai", "langchain-openai", "litellm")
    return installed(tmp_path_factory.mktemp("clients"), *packages) / "python"


@pytest.mark.slow
@pytest.mark.parametrize("variant", [variant.name for variant in VARIANTS])
def test_stock_clients_run_unchanged_eight_at_once(python, variant):
    """In float32: who else is in a batch shall not decide which token is the likeliest."""
    flags = (*TINY, "--dtype", "float32")
    with running_server(f"llm_model_benchmarking.server_{variant}", *flags) as server:
        done = subprocess.run(
            [python, "-P", SCRIPT, server.url], capture_output=True, text=True, timeout=300
        )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "8 clients got the same answer" in done.stdout


@pytest.fixture(scope="module")
def guidellm(tmp_path_factory) -> Path:
    """The program; torch and transformers, gigabytes, are ours."""
    place = tmp_path_factory.mktemp("guidellm")
    return installed(place, "guidellm", borrowed=True) / "guidellm"


@pytest.mark.slow
def test_guidellm_measures_as_many_tokens_per_second_as_we_do(guidellm, tmp_path):
    """The median of ratios: each of its runs lies between two of ours."""
    ratios = []
    with (
        running_server("llm_model_benchmarking.server_baseline", *TINY, "--ignore-eos") as server,
        load_process() as run_load,
    ):
        job = chats(f"{server.url}/v1/chat/completions")
        ours = [run_load(job)]
        for pair in range(PAIRS):
            theirs = measured_by_guidellm(guidellm, server, tmp_path)
            ours.append(run_load(job))
            rates = [load.requests_per_second * OUTPUT_TOKENS for load in ours[-2:]]
            ratios.append(theirs / statistics.mean(rates))
            print(f"{pair + 1}: guidellm {theirs:.1f}, ours {rates} tokens/s: {ratios[-1]:.3f}")
    assert all(set(load.outcome) == {"ok"} for load in ours)
    assert statistics.median(ratios) == pytest.approx(1, abs=0.1)


def chats(url: str) -> Job:
    """Our load: chats as long as guidellm's, with the format around them."""
    tokenizer = build_tokenizer(VOCABULARY, CONTEXT)
    around = len(chat_ids(tokenizer, [{"role": "user", "content": ""}]))
    prompts = prompts_of(tokenizer, PROMPT_TOKENS + around, CONCURRENCY, seed=1)
    return Job(
        url=url,
        bodies=[request_body(chat, OUTPUT_TOKENS) for chat in prompts],
        concurrency=CONCURRENCY,
        duration_s=SECONDS,
        check=ChatCheck([[0]] * len(prompts), OUTPUT_TOKENS),
        carries_output=carries_token,
    )


def measured_by_guidellm(guidellm: Path, server: Server, folder: Path) -> float:
    """Output tokens/s that it reports of a load like ours, without a hub; no request may fail."""
    build_tokenizer(VOCABULARY, CONTEXT).save_pretrained(folder / "tokenizer")
    report, greedy = folder / "report.json", "extras.body.temperature=0"
    sizes = f"prompt_tokens={PROMPT_TOKENS},output_tokens={OUTPUT_TOKENS}"
    options = {
        "--backend": f"openai_http,target={server.url},model={folder / 'tokenizer'},{greedy}",
        "--data": f"synthetic_text,{sizes}",
        "--profile": f"concurrent,streams={CONCURRENCY}",
        "--constraint": f"max_duration,seconds={SECONDS}",
        "--output": f"json,path={report}",
    }
    words = [word for flag, value in options.items() for word in (flag, f"kind={value}")]
    command = [guidellm, "run", *words, "--disable-console-interactive"]
    offline = os.environ | {"HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=offline, timeout=300)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    (benchmark,) = json.loads(report.read_text())["benchmarks"]
    totals = benchmark["metrics"]["request_totals"]
    assert totals["successful"] > 0 == totals["errored"]
    return benchmark["metrics"]["output_tokens_per_second"]["total"]["mean"]
