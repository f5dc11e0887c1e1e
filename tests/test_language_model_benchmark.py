"""The language model benchmark: what is correct, how windows are summed up, a whole small run."""

import json
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from harness.load.connection import Answer
from harness.load.job import Job
from harness.load.outputs import output_moments
from harness.measure.window import OfferedLoad, Record, Window
from harness.results.percentiles import lacked_by_bootstrap, widened
from harness.suite import read_results
from llm_model_benchmarking import suite as language_model_suite
from llm_model_benchmarking.checks import ChatCheck, agreement, carries_token, tokens_told
from llm_model_benchmarking.suite import (
    WINDOW_S,
    LanguageModelSuite,
    break_even_requests,
    request_body,
    sample_answer,
    sentence,
    served_share_percent,
)
from tests.builders import load_result, variant, window

SCRIPT = Path(__file__).parent.parent / "llm_model_benchmarking" / "benchmark.py"
SETUP_METRICS = {
    "load_s": 2.0,
    "model_bytes": 3000,
    "weight_bytes_per_token": 1000,
    "cache_bytes_per_token": 10,
}


def stream(
    ids: list[int], reason: str | None = "length", done: bool = True, counted: int | None = None
) -> bytes:
    choices = [
        [{"delta": {"content": "x"}, "finish_reason": None, "token_ids": [id_]}] for id_ in ids
    ]
    choices += [[{"delta": {}, "finish_reason": reason}]]
    events = [json.dumps({"choices": choice, "usage": None}) for choice in choices]
    usage = {"completion_tokens": len(ids) if counted is None else counted}
    events.append(json.dumps({"choices": [], "usage": usage}))
    return "".join(f"data: {event}\n\n" for event in events + ["[DONE]"] * done).encode()


def chunk(ids: list[int], reason: str | None = None, so_far: int = 0, content: str = "") -> bytes:
    choice = {"delta": {"content": content}, "finish_reason": reason, "token_ids": ids or None}
    usage = {"completion_tokens": so_far} if so_far else None
    return f"data: {json.dumps({'choices': [choice], 'usage': usage})}\n\n".encode()


def suite(**changes) -> LanguageModelSuite:
    fields = {
        "bodies": [],
        "request": "",
        "output_per_request": 20,
        "check": lambda body, index: (True, 1.0),
        "sample_answer": b"",
        "chats": [],
        "prompt_tokens": 40,
        "accelerator": "cpu",
        "models": None,
        "setup_metrics": {"baseline": SETUP_METRICS, "static_kv_compile": SETUP_METRICS},
        "bandwidth_bytes_per_s": 150_000.0,
    }
    return LanguageModelSuite(**fields | changes)


def record(*seconds: float, in_process: float | None = None, **metrics: float) -> Record:
    """A server whose lone answers take so long, in one window each of its first launch."""
    made = Record("any", setup_metrics=[SETUP_METRICS | metrics] if metrics else [])
    for block, answer_s in enumerate(seconds):
        streamed = load_result(answer_s, count=4, output_gaps_s=[[]] * 4)
        made.add(OfferedLoad(1), window(streamed, block=block))
    if in_process:
        made.in_process.append((0, 0, in_process))
    return made


def test_an_answer_is_correct_if_complete_and_as_long_as_asked_whatever_its_tokens():
    check = ChatCheck([[1, 2, 3, 4]], 4)
    assert check(stream([1, 2, 3, 4]), 0) == (True, 1.0)
    assert check(stream([1, 2, 9, 4]), 0) == (True, 0.5)
    for wrong in (
        stream([1, 2, 3]),
        stream([1, 2, 3, 4], reason="stop"),
        stream([1, 2, 3, 4], reason=None),
        stream([1, 2, 3, 4], done=False),
        stream([1, 2, 3, 4], counted=5),
        b"",
        b"data: {\n\ndata: [DONE]\n\n",
        b'data: {"error": {"message": "the server failed"}}\n\n',
    ):
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
    role = '"role": "assistant"'
    with_id = f'{{"choices": [{{"delta": {{"content": "", {role}}}, "token_ids": [7]}}]}}'
    assert carries_token(with_id.encode())
    assert carries_token(b'{"choices": [{"delta": {"content": "a"}}]}')
    for event in (
        "[DONE]",
        '{"choices": []}',
        f'{{"choices": [{{"delta": {{{role}, "content": ""}}}}]}}',
        '{"choices": [{"delta": {}, "finish_reason": "length"}]}',
    ):
        assert not carries_token(event.encode())


def test_usage_may_come_with_every_chunk_and_the_last_one_holds():
    chunks = [chunk([1], so_far=1), chunk([2], so_far=2), chunk([], "length", so_far=2)]
    body = b"".join(chunks) + b"data: [DONE]\n\n"
    assert ChatCheck([[1, 2]], 2)(body, 0) == (True, 1.0)
    assert not ChatCheck([[1, 2, 3]], 3)(body, 0)[0]
    assert tokens_told(body) == 2


@pytest.mark.parametrize("event", [b"ping", b"[1]", b'{"choices": 5}', b"5", b"[" * 5000])
def test_an_event_that_is_no_chunk_is_a_wrong_answer_and_no_token(event):
    assert not carries_token(event)
    body = b"data: %b\n\n" % event + stream([1, 2])
    assert ChatCheck([[1, 2]], 2)(body, 0)[0] == (event == b'{"choices": 5}')


@pytest.mark.parametrize("ids", [True, False])
def test_tokens_of_one_chunk_share_the_time_since_the_one_before(ids):
    """Two tokens every 50 ms are 25 ms apart, whether their ids tell it or the usage at the end."""
    body, arrivals = b"", []
    for at in range(4):
        body += chunk([7, 8] if ids else [], content=" two words")
        arrivals.append((len(body), 1 + 0.05 * at))
    body += chunk([], "length", so_far=8) + b"data: [DONE]\n\n"
    arrivals.append((len(body), 2.0))
    job = Job(url="", bodies=[], carries_output=carries_token, outputs_told=tokens_told)
    answer = Answer(2.0, 0.0, 0.0, "ok", 200, 0, body, arrivals)
    moments = output_moments(job, answer)
    assert moments == pytest.approx([1, 1, 1.025, 1.05, 1.075, 1.1, 1.125, 1.15])
    cut = answer._replace(body=body[: arrivals[1][0]], arrivals=arrivals[:2])
    assert len(output_moments(job, cut)) == (4 if ids else 2)  # what nobody told is not known


def test_the_sample_answer_is_as_long_as_the_answers():
    assert sample_answer(3).count(b"token_ids") == 3
    assert sample_answer(3).endswith(b"data: [DONE]\n\n")


def test_a_request_asks_for_a_greedy_answer_of_exact_length():
    asked = json.loads(request_body([{"role": "user", "content": "x"}], 5))
    assert (asked["temperature"], asked["max_tokens"], asked["stream"]) == (0, 5, True)


def test_ttft_and_itl_are_those_of_correct_answers():
    streamed = load_result(
        count=3,
        failures=1,
        quality=[0.0, 1.0, None],
        first_output_s=[9.0, 0.1, None],
        output_gaps_s=[[9.0], [0.02, 0.04], []],
    )
    row = suite().row([window(streamed)])
    assert row.time_to_first_token_ms["mean"] == pytest.approx(100)
    assert row.inter_token_latency_ms["mean"] == pytest.approx(30)
    assert row.inter_token_latency_ms["p99"] is None  # two gaps back no percentile
    assert row.token_agreement == 0.5


def test_ttft_and_itl_have_intervals_from_the_second_block_on():
    def streamed(block: int, first_s: float, gap_s: float) -> Window:
        answers = {"first_output_s": [first_s] * 20, "output_gaps_s": [[gap_s, gap_s]] * 20}
        return window(load_result(count=20, **answers), block=block)

    one, two = streamed(0, 0.1, 0.02), streamed(1, 0.3, 0.04)
    assert set(suite().row([one, two]).time_to_first_token_ci95_ms.values()) == {None}
    own = suite().with_intervals(suite().row([one]), [one])
    assert set(own.time_to_first_token_ci95_ms.values()) == {None}
    assert set(own.inter_token_latency_ci95_ms.values()) == {None}
    own = suite().with_intervals(suite().row([one, two]), [one, two])
    few = lacked_by_bootstrap(2)
    expected = widened(200, 100, 300, few)
    assert own.time_to_first_token_ci95_ms["mean"] == pytest.approx(expected)
    expected = widened(own.inter_token_latency_ms["p50"], 20, 40, few)
    assert own.inter_token_latency_ci95_ms["p50"] == pytest.approx(expected)
    assert own.time_to_first_token_ci95_ms["p99"] is None


def test_compiling_breaks_even_by_the_seconds_each_request_saves():
    assert break_even_requests([30.0, 4.0], [record(0.5)], [record(2.0)]) == 20
    assert break_even_requests([30.0], [record(2.0)], [record(2.0)]) is None
    assert break_even_requests([], [record(0.5)], [record(2.0)]) is None
    assert break_even_requests([30.0], [record(0.5)], []) is None


def test_the_share_that_serving_leaves_is_paired_by_epoch():
    assert served_share_percent([record(0.5, in_process=2.5)]) == pytest.approx(80)
    both = [record(0.5, in_process=2.5), record(0.5, in_process=2.0)]
    assert served_share_percent(both) == pytest.approx(90)
    assert served_share_percent([record(0.5)]) is None
    launches = record(0.5, 0.25, in_process=5.0)  # 3 of 5 in the mean over blocks
    launches.add(
        OfferedLoad(1), window(load_result(1.0, count=4, output_gaps_s=[[]] * 4), epoch=1, block=2)
    )
    launches.in_process += [(1, 2, 2.0), (1, 3, 3.0), (2, 4, 1000.0)]  # 1 of 2.5; nothing served
    assert served_share_percent([launches]) == pytest.approx((60 + 40) / 2)


def test_a_variant_is_summed_up_from_all_its_launches():
    compiled = [record(0.25, compile_s=30.0), record(0.5, compile_s=4.0)]
    records = {"baseline": [record(2.0)], "static_kv_compile": compiled}
    own = suite(kl_divergences={"static_kv_compile": 0.01}).variant("static_kv_compile", records)
    assert own.avg_tokens_per_sec == pytest.approx((80 + 40) / 2)
    assert own.std_dev == pytest.approx(28.284, rel=1e-3)
    assert own.bytes_per_token == 1000 + (40 + 20 / 2) * 10
    assert own.theoretical_max_tokens_per_sec == pytest.approx(100)
    assert own.efficiency_percent == own.decode_tokens_per_sec is None  # nothing was streamed
    assert (own.model_bytes, own.load_s) == (3000, 2.0)
    assert (own.compile_s, own.compile_cached_s, own.kl_divergence) == (30, 4, 0.01)
    assert own.break_even_requests == 19  # 30 s, of which a request saves 2 - 0.375


def test_efficiency_compares_decoding_steps_with_bandwidth_and_leaves_the_prefill_out():
    made = record()
    for epoch, gaps in enumerate(([0.02] * 19, [0.0125] * 19)):
        answers = {"first_output_s": [9.0] * 4, "output_gaps_s": [gaps] * 4}
        made.add(OfferedLoad(1), window(load_result(9.5, count=4, **answers), epoch=epoch))
    own = suite().variant("baseline", {"baseline": [made]})
    assert own.avg_tokens_per_sec == pytest.approx(20 / 9.5)
    assert own.decode_tokens_per_sec == pytest.approx((50 + 80) / 2)
    assert own.efficiency_percent == pytest.approx(65)


def test_in_float32_each_variant_is_loaded_asked_and_freed_beside_the_baseline(monkeypatch):
    calls = []

    class Models:
        def __enter__(self):
            return self

        def __exit__(self, *_):
            calls.append(("end",))

        def tell(self, *arguments):
            calls.append(arguments)

        def __call__(self, function, variant, *_):
            calls.append((function, variant))
            return [[1, 2, 3, 4], [5, 6, 7, 8 if variant == "baseline" else 9]]

    monkeypatch.setattr(language_model_suite, "reference_process", Models)
    made = suite(server_flags=("--dtype", "bfloat16", "--ignore-eos"), float32_chats=[[], []])
    made.compare_in_float32(["quantised_8bit"])
    assert calls == [
        ("load_with", ("--dtype", "float32", "--ignore-eos"), "cpu"),
        ("answers", "baseline"),
        ("forget", "baseline"),
        ("answers", "quantised_8bit"),
        ("forget", "quantised_8bit"),
        ("end",),
    ]
    assert made.float32_agreements == {"baseline": 1, "quantised_8bit": 0.875}


def test_its_rate_is_a_mean_over_launches_and_their_windows():
    twice = record(0.5, 0.25)
    twice.add(
        OfferedLoad(1), window(load_result(1.0, count=4, output_gaps_s=[[]] * 4), epoch=1, block=2)
    )
    own = suite().variant("baseline", {"baseline": [twice]})
    assert own.avg_tokens_per_sec == pytest.approx((20 * 3 + 20) / 2)
    assert own.std_dev == pytest.approx(28.284, rel=1e-3)


def test_what_needs_no_server_is_prepared_once_and_measured_again_in_every_block():
    calls = []

    def models(function, *arguments):
        calls.append((function, *arguments[:1]))
        return {"set_up": SETUP_METRICS, "requests_per_second": 2.5}.get(function, 0.0)

    made = suite(models=models, setup_metrics={"baseline": SETUP_METRICS})
    made.prepare(["baseline", "static_kv_compile"])
    assert "requests_per_second" not in {function for function, *_ in calls}
    assert made.in_process("baseline") == made.in_process("static_kv_compile") == 2.5
    assert calls.count(("memory_bandwidth",)) == 1
    assert calls.count(("set_up", "static_kv_compile")) == 1
    assert ("set_up", "baseline") not in calls  # it has answered already
    for name in ("baseline", "static_kv_compile"):
        assert calls.count(("kl_divergence", name)) == 1
        assert calls.count(("requests_per_second", name)) == 1


def test_a_variant_that_failed_before_anything_was_measured_has_only_unknowns():
    own = suite(setup_metrics={}, bandwidth_bytes_per_s=None).variant("baseline", {"baseline": []})
    assert set(asdict(own).values()) == {None}
    assert sentence(variant(own=own)) == ""
    assert LanguageModelSuite.ceilings(variant(own=own)) == []


def test_one_sentence_names_ceilings_memory_fidelity_and_the_break_even():
    records = {"baseline": [record(2.0)], "static_kv_compile": [record(0.25, compile_s=30.0)]}
    made = suite(kl_divergences={"static_kv_compile": 0.01})
    own = made.variant("static_kv_compile", records)
    known = {"decode_tokens_per_sec": 75, "efficiency_percent": 75, "float32_token_agreement": 1}
    own = replace(own, **known)
    compiled = variant(builds_on="baseline", own=own, in_process_per_second=90.0)
    said = sentence(compiled)
    assert "75 % of the 100 decoding steps/s that memory bandwidth allows one stream" in said
    assert "in float32 100 % of its greedy tokens are the baseline's" in said
    assert "0.01 nats from the baseline's distribution" in said
    assert "30 s to compile and warm up, break-even after 18 requests" in said
    slower = replace(compiled, own=replace(own, break_even_requests=None))
    assert "30 s to compile and warm up, no break-even" in sentence(slower)
    assert LanguageModelSuite.ceilings(compiled) == [
        ("memory bandwidth, one stream", 100),
        ("without a server", 90),
        ("decoding steps alone, served", 75),
        ("served at concurrency 1", 80),
    ]


def test_a_whole_run_says_what_it_ran_and_measures_every_number(tmp_path):
    flags = (
        "--force --quick --minutes 0.2 --model random:tiny --variants baseline --concurrency 1,2"
    )
    done = subprocess.run(
        [sys.executable, SCRIPT, *flags.split(), "--output-tokens", "12", "--output-dir", tmp_path],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "RANDOM WEIGHTS" in done.stdout
    results = read_results(tmp_path / "benchmark_results.json")
    assert results.settings["weights"] == "random"
    assert "RANDOM WEIGHTS" in results.notes[0]
    baseline = results.variants["baseline"]
    for row in baseline.rows:
        assert row.requests["ok"] == row.requests["sent"] > 0
        assert row.own.token_agreement == 1
        assert row.output_per_second.mean == pytest.approx(12 * row.requests_per_second.mean)
        gaps_ms = 11 * row.own.inter_token_latency_ms["mean"]
        ttft_ms = row.own.time_to_first_token_ms["mean"]
        assert ttft_ms + gaps_ms == pytest.approx(row.latency_ms["mean"], rel=0.2)
        assert list(row.breakdown_ms) == [
            "ingress",
            "queue_wait",
            "tokenise",
            "prefill",
            "decode_steps",
            "send",
            "response_path",
            "unexplained",
        ]
    assert {window.load for window in results.windows} == {"1", "2"}
    assert min(window.seconds for window in results.windows) >= WINDOW_S
    assert all(window.requests_per_second > 0 for window in results.windows)
    assert baseline.in_process_per_second > 0
    assert baseline.own.kl_divergence == 0
    assert 0 < baseline.own.efficiency_percent < 100
    assert baseline.own.served_share_percent > 0
    assert baseline.own.compile_s is None
    assert {path.name for path in tmp_path.rglob("*.png")} >= {
        "benchmark_metrics.png",
        "benchmark_results_baseline.png",
        "request.png",
        "ceilings.png",
    }
    assert not list(tmp_path.glob("*.py"))
