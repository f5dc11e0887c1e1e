"""The language model benchmark: what counts as right, how fidelity and compiling are summed up, a whole small run."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from harness.results.summary import Measurement, Record
from harness.load.job import OK, Load
from harness.results.file import read
from harness.measure.utilisation import Usage
from llm_model_benchmarking.benchmark import (
    ChatCheck,
    agreement,
    carries_token,
    earned_back,
    request_body,
    sample_answer,
    served_share_percent,
)

SCRIPT = Path(__file__).parent.parent / "llm_model_benchmarking" / "benchmark.py"


def stream(ids: list[int], reason: str | None = "length", done: bool = True, counted: int | None = None) -> bytes:
    choices = [[{"delta": {"content": "x"}, "finish_reason": None, "token_ids": [id_]}] for id_ in ids]
    choices += [[{"delta": {}, "finish_reason": reason}]]
    events = [json.dumps({"choices": choice, "usage": None}) for choice in choices]
    events.append(json.dumps({"choices": [], "usage": {"completion_tokens": len(ids) if counted is None else counted}}))
    return "".join(f"data: {event}\n\n" for event in events + (["[DONE]"] if done else [])).encode()


def test_an_answer_is_right_if_complete_and_as_long_as_asked_whatever_its_tokens():
    check = ChatCheck([[1, 2, 3, 4]], 4)
    assert check(stream([1, 2, 3, 4]), 0) == (True, 1.0)
    assert check(stream([1, 2, 9, 4]), 0) == (True, 0.5)
    for wrong in (stream([1, 2, 3]), stream([1, 2, 3, 4], reason="stop"), stream([1, 2, 3, 4], done=False),
                  stream([1, 2, 3, 4], reason=None), stream([1, 2, 3, 4], counted=5), b"",
                  b"data: {\n\ndata: [DONE]\n\n",
                  b'data: {"error": {"message": "the server failed"}}\n\n'):  # fmt: skip
        assert not check(wrong, 0)[0], wrong


def test_a_server_that_tells_no_ids_has_no_known_agreement():
    body = stream([1, 2]).replace(b"token_ids", b"others")
    assert ChatCheck([[1, 2]], 2)(body, 0) == (True, None)


def test_agreement_ends_at_the_first_difference():
    assert agreement([5, 6, 7], [5, 6, 7]) == 1
    assert agreement([5, 0, 7], [5, 6, 7]) == pytest.approx(1 / 3)
    assert agreement([5], [5, 6]) == 0.5
    assert agreement([9, 6], [5, 6]) == 0


def test_only_events_with_a_token_are_timed():
    assert carries_token(b'{"choices": [{"delta": {"content": "", "role": "assistant"}, "token_ids": [7]}]}')
    assert carries_token(b'{"choices": [{"delta": {"content": "a"}}]}')
    for event in (b"[DONE]", b'{"choices": []}', b'{"choices": [{"delta": {"role": "assistant", "content": ""}}]}',
                  b'{"choices": [{"delta": {}, "finish_reason": "length"}]}'):  # fmt: skip
        assert not carries_token(event)
    assert sample_answer(3).count(b"token_ids") == 3


def test_a_request_asks_for_a_greedy_answer_of_exact_length():
    asked = json.loads(request_body([{"role": "user", "content": "x"}], 5))
    assert (asked["temperature"], asked["max_tokens"], asked["stream"]) == (0, 5, True)


def record(seconds: float, in_process: float | None = None) -> Record:
    load = Load(0.0, 4 * seconds, [seconds * at for at in range(1, 5)], [seconds] * 4, [seconds] * 4, [OK] * 4,
                [None] * 4, right_in_window=4, client_cpu_s=0.0)  # fmt: skip
    found = Record()
    found.measurements["1"].append((0, Measurement(load, Usage(*[None] * 9), None, None, None)))
    if in_process:
        found.in_process[0] = in_process
    return found


def test_compiling_is_earned_back_by_the_seconds_each_request_saves():
    assert earned_back([30.0, 4.0], [record(0.5)], [record(2.0)]) == 20
    assert earned_back([30.0], [record(2.0)], [record(2.0)]) is None
    assert earned_back([], [record(0.5)], [record(2.0)]) is None
    assert earned_back([30.0], [record(0.5)], []) is None


def test_the_share_that_serving_leaves_is_paired_by_turn():
    assert served_share_percent([record(0.5, in_process=2.5)]) == pytest.approx(80)
    assert served_share_percent([record(0.5, in_process=2.5), record(0.5, in_process=2.0)]) == pytest.approx(90)
    assert served_share_percent([record(0.5)]) is None


def test_a_whole_run_says_what_it_ran_and_measures_every_number(tmp_path):
    done = subprocess.run(
        [sys.executable, SCRIPT, "--quick", "--model", "random:tiny", "--variants", "baseline", "--concurrency", "1,2",
         "--output-tokens", "12", "--output-dir", tmp_path], capture_output=True, text=True, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "RANDOM WEIGHTS" in done.stdout
    results = read(tmp_path / "benchmark_results.json")
    assert results.settings["weights"] == "random"
    baseline = results.variants["baseline"]
    for level in baseline.generation:
        assert level.requests["ok"] == level.requests["sent"] > 0
        assert level.token_agreement == 1
        assert level.output_tokens_per_second.mean == pytest.approx(12 * level.requests_per_second.mean)
        gaps_ms = 11 * level.inter_token_latency_ms["mean"]
        assert level.time_to_first_token_ms["mean"] + gaps_ms == pytest.approx(level.latency_ms["mean"], rel=0.2)
        assert set(level.stages_ms) == {
            "floor", "waiting", "tokenise", "prefill", "decode_steps", "send", "unexplained",
        }  # fmt: skip
    assert baseline.kl_divergence == 0
    assert 0 < baseline.efficiency_percent < 100
    assert 20 < baseline.served_share_percent < 200
    assert baseline.compile_s is None
    assert {path.name for path in tmp_path.rglob("*.png")} == {
        "benchmark_metrics.png", "benchmark_results_baseline.png", "stages.png",
    }  # fmt: skip
    assert not list(tmp_path.glob("*.py"))
