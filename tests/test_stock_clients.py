"""Stock clients, installed into environments of their own, against the servers: they are no
dependencies of ours.

    python -m pytest -m slow -s tests/test_stock_clients.py
"""

import json
import os
import subprocess
import sys
import sysconfig
import time
from concurrent.futures import ThreadPoolExecutor
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
SECONDS, CONCURRENCY, PROMPT_TOKENS, OUTPUT_TOKENS = 20, 4, 64, 16
TO_START_S = 70  # guidellm takes ten by itself


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
    """Both at once, with as many connections each: the baseline answers them in turn, and what
    else the machine does slows down both alike. Ours are the answers of guidellm's own window.
    """
    with (
        running_server("llm_model_benchmarking.server_baseline", *TINY, "--ignore-eos") as server,
        load_process() as run_load,
        ThreadPoolExecutor(1) as beside,
    ):
        reported = beside.submit(report_of_guidellm, guidellm, server, tmp_path)
        ours = run_load(chats(f"{server.url}/v1/chat/completions"))
        theirs = reported.result()
    assert set(ours.outcome) == {"ok"}
    totals = theirs["metrics"]["request_totals"]
    assert totals["successful"] > 0 == totals["errored"]
    monotonic = time.monotonic() - time.time()
    began, ended = (theirs[moment] + monotonic for moment in ("start_time", "end_time"))
    assert ours.opened < began < ended < ours.closed, "guidellm took too long to start"
    tokens = OUTPUT_TOKENS * sum(began < moment <= ended for moment in ours.ended)
    our_rate = tokens / (ended - began)
    their_rate = theirs["metrics"]["output_tokens_per_second"]["total"]["mean"]
    print(f"guidellm {their_rate:.1f}, ours {our_rate:.1f} output tokens/s")
    assert their_rate == pytest.approx(our_rate, rel=0.1)


def chats(url: str) -> Job:
    """Our load: chats as long as guidellm's, with the format around them."""
    tokenizer = build_tokenizer(VOCABULARY, CONTEXT)
    around = len(chat_ids(tokenizer, [{"role": "user", "content": ""}]))
    prompts = prompts_of(tokenizer, PROMPT_TOKENS + around, CONCURRENCY, seed=1)
    return Job(
        url=url,
        bodies=[request_body(chat, OUTPUT_TOKENS) for chat in prompts],
        concurrency=CONCURRENCY,
        duration_s=TO_START_S + SECONDS,
        check=ChatCheck([[0]] * len(prompts), OUTPUT_TOKENS),
        carries_output=carries_token,
    )


def report_of_guidellm(guidellm: Path, server: Server, folder: Path) -> dict:
    """What it says of a load like ours; without a hub."""
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
    return benchmark
