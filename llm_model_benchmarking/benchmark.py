"""Measure every language model server under concurrent chats: time to first token, gaps, tokens per second, fidelity.

python llm_model_benchmarking/benchmark.py               # under thirteen minutes; --quick for a first look
python llm_model_benchmarking/benchmark.py --model ./my-model --variants baseline,static_kv_compile --output-tokens 64
"""

import argparse
import json
import math
import statistics
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.load.events import events
from harness.process.launch import model_info
from harness.results.summary import Measurement, Record, in_process_rate, output_rate, quality
from harness.measure.machine import usable_cores
from harness.process.module_process import ModuleProcess
from harness.cli import benchmark_parser, count, parsed
from harness.show.console import benchmark
from harness.results.run import TokenVariant
from harness.results.rows import TokenLevel, latency_ms
from harness.judge.statistics import mean
from harness.suite import CannotMeasureError, Suite, Variant

VARIANTS = [
    Variant("baseline", None),
    Variant("static_kv_compile", "baseline"),
    Variant("quantised_8bit", "baseline"),
]
CONCURRENCY, QUICK_CONCURRENCY = [1, 4], [1]
CHATS = 4  # nothing is cached between requests, and every one of them costs the baseline an answer beforehand
LEAST_CONTEXT = 512
ALONE = "1"  # the load at which one stream has the server for itself


class ChatCheck:
    """Judges a streamed answer: right if complete and as long as asked; its quality is how far it is as `expected`."""

    def __init__(self, expected: list[list[int]], tokens: int) -> None:
        self.expected, self.tokens = expected, tokens

    def __call__(self, body: bytes, index: int) -> tuple[bool, float | None]:
        *chunks, last = [payload for _, payload in events(body, [(len(body), 0.0)])] or [b""]
        try:
            chunks = [json.loads(chunk) for chunk in chunks]
            choices = [choice for chunk in chunks for choice in chunk["choices"]]
            usage = next(chunk["usage"] for chunk in chunks if chunk.get("usage"))
            reason = next(choice["finish_reason"] for choice in choices if choice["finish_reason"])
        except (ValueError, KeyError, TypeError, StopIteration):
            return False, None
        right = last == b"[DONE]" and usage["completion_tokens"] == self.tokens and reason == "length"
        ids = [id_ for choice in choices for id_ in choice.get("token_ids") or []]
        return right, agreement(ids, self.expected[index]) if ids else None


def agreement(ids: list[int], expected: list[int]) -> float:
    """Share of `expected` that `ids` follow before the first difference."""
    same = [mine == theirs for mine, theirs in zip(ids, expected, strict=False)]
    return (same.index(False) if False in same else len(same)) / len(expected)


def carries_token(event: bytes) -> bool:
    """Whether a server-sent event brings a token, if only a part of a character."""
    if event == b"[DONE]":
        return False
    choices = json.loads(event).get("choices")
    return bool(choices) and bool(choices[0].get("token_ids") or choices[0].get("delta", {}).get("content"))


@dataclass
class LlmSuite(Suite):
    """Chats of equal length sent to servers of a language model.

    Attributes:
        chats: the messages of each request.
        prompt_tokens, output_tokens: the length of every prompt and every answer.
        accelerator: where the models run.
        models: llm_model_benchmarking.reference in its process: the variants, loaded once and kept for the whole run.
        figures: by variant, what its process measured in setup.
        kl: by variant, divergence from the baseline.
        bandwidth: bytes per second that the device reads.
    """

    chats: list[list[dict[str, str]]] = field(kw_only=True)
    prompt_tokens: int = field(kw_only=True)
    output_tokens: int = field(kw_only=True)
    accelerator: str = field(kw_only=True)
    models: ModuleProcess = field(kw_only=True)
    figures: dict[str, dict[str, float]] = field(kw_only=True)
    kl: dict[str, float] = field(default_factory=dict)
    bandwidth: float | None = None

    def prepare(self, _: list[str]) -> None:
        self.bandwidth = self.models("memory_bandwidth")

    def close(self) -> None:
        self.models.close()

    def in_process(self, variant: str) -> float:
        if variant not in self.figures:  # its server has compiled by now, and this process finds it in the cache
            self.figures[variant] = self.models("set_up", variant, self.server_flags, self.accelerator)
        if variant not in self.kl:
            self.kl[variant] = self.models("kl_divergence", variant)
        return self.models("requests_per_second", variant, self.chats, self.output_tokens)

    def level(self, common: dict[str, Any], measured: list[Measurement]) -> TokenLevel:
        loads = [measurement.load for measurement in measured]
        first = [seconds for load in loads for seconds in load.of_right(load.first_s) if seconds is not None]
        gaps = [seconds for load in loads for each in load.of_right(load.gaps_s) for seconds in each]
        return TokenLevel(
            **common,
            output_tokens_per_second=output_rate(measured, self.output_tokens),
            time_to_first_token_ms=latency_ms(first),
            inter_token_latency_ms=latency_ms(gaps),
            token_agreement=quality(measured),
        )

    def variant(
        self, name: str, common: dict[str, Any], levels: list[TokenLevel], records: dict[str, list[Record]]
    ) -> TokenVariant:
        served = next((level.output for level in levels if level.name == ALONE), None)
        bytes_per_token = self.bytes_per_token(name)
        ceiling = self.bandwidth / bytes_per_token if self.bandwidth and bytes_per_token else None
        told = [figures for record in records[name] for figures in record.figures if figures]
        compiling = [figures["compile_s"] for figures in told if "compile_s" in figures]
        return TokenVariant(
            **common,
            avg_tokens_per_sec=served.mean if served else None,
            std_dev=statistics.stdev(served.rounds) if served and len(served.rounds) > 1 else None,
            theoretical_max_tokens_per_sec=ceiling,
            efficiency_percent=100 * served.mean / ceiling if served and ceiling else None,
            memory_bandwidth_bytes_per_s=self.bandwidth,
            bytes_per_token=bytes_per_token,
            in_process_tokens_per_second=in_process_rate(records[name], self.output_tokens),
            served_share_percent=served_share_percent(records[name]),
            model_bytes=int(told[0]["model_bytes"]) if told else None,
            load_s=mean([figures["load_s"] for figures in told]),
            compile_s=compiling[0] if compiling else None,
            compile_cached_s=mean(compiling[1:]),
            compile_earned_back_requests=earned_back(compiling, records[name], records.get("baseline", [])),
            kl_divergence=self.kl.get(name),
            generation=levels,
        )

    def bytes_per_token(self, name: str) -> int | None:
        """Weights and, at half of the answer, keys and values that a decoding step has to read."""
        if name not in self.figures:
            return None
        context = self.prompt_tokens + self.output_tokens / 2
        figures = self.figures[name]
        return int(figures["weight_bytes_per_token"] + context * figures["cache_bytes_per_token"])


def served_share_percent(records: list[Record]) -> float | None:
    """What is left of the in-process rate when it is served, mean over the turns that measured both."""
    shares = [
        100 * served / record.in_process[round_]
        for record in records
        for round_, served in record.rates(ALONE).items()
        if round_ in record.in_process
    ]
    return mean(shares)


def earned_back(compiling: list[float], mine: list[Record], baseline: list[Record]) -> int | None:
    """After how many requests, one at a time, the seconds of the first compilation are saved."""
    own, theirs = (
        [seconds for record in records for _, one in record.measurements[ALONE] for seconds in one.load.right_latency_s]
        for records in (mine, baseline)
    )
    if not (compiling and own and theirs) or mean(theirs) <= mean(own):
        return None
    return math.ceil(compiling[0] / (mean(theirs) - mean(own)))


def request_body(chat: list[dict[str, str]], tokens: int) -> bytes:
    """The JSON document that asks for a greedy answer of so many tokens."""
    return json.dumps({
        "messages": chat, "max_tokens": tokens, "temperature": 0, "stream": True,
        "stream_options": {"include_usage": True}, "return_token_ids": True,
    }).encode()  # fmt: skip


def sample_answer(tokens: int) -> bytes:
    """A stream as the servers send it."""
    head = '{"id": "chatcmpl-0", "created": 0, "model": "m", "object": "chat.completion.chunk", "choices": '
    token = head + '[{"index": 0, "delta": {"content": " word"}, "finish_reason": null, "token_ids": [7]}]}'
    return "".join(f"data: {event}\n\n" for event in [token] * tokens + ["[DONE]"]).encode()


def suite(options: argparse.Namespace) -> Suite:
    """What to send and how to judge it; loads the baseline, whose greedy answers are the measure of fidelity."""
    threads = {"OMP_NUM_THREADS": str(usable_cores())}  # as many as a server's worker has
    models = ModuleProcess("llm_model_benchmarking.reference", threads)
    told = model_info(options.url.rstrip("/")).get("model") if options.url else None
    options.model = models("model_name", options.model or told)
    options.weights = "random" if options.model.startswith("random:") else "pretrained"
    if options.weights == "random":
        print(f"RANDOM WEIGHTS ({options.model}): speed is that of the shape, text is noise", file=sys.stderr)
    context = max(LEAST_CONTEXT, options.prompt_tokens + options.output_tokens)
    flags = ("--model", options.model, "--dtype", options.dtype, "--max-context", str(context), "--ignore-eos")
    figures = {"baseline": models("set_up", "baseline", flags, options.accelerator)}
    try:
        chats = models("chats", options.prompt_tokens, CHATS, options.seed)
    except ValueError as error:
        raise CannotMeasureError(f"--prompt-tokens {options.prompt_tokens}: {error}") from error
    expected = models("answers", chats, options.output_tokens)
    return LlmSuite(
        name="llm",
        package="llm_model_benchmarking",
        variants=VARIANTS,
        path="/v1/chat/completions",
        bodies=[request_body(chat, options.output_tokens) for chat in chats],
        request=f"{options.prompt_tokens} tokens in, {options.output_tokens} out",
        check=ChatCheck(expected, options.output_tokens),
        sample_answer=sample_answer(options.output_tokens),
        server_flags=flags,
        carries_output=carries_token,
        min_requests=options.min_requests,
        turn_overhead_s=35,
        chats=chats,
        prompt_tokens=options.prompt_tokens,
        output_tokens=options.output_tokens,
        accelerator=options.accelerator,
        models=models,
        figures=figures,
    )


def parser() -> argparse.ArgumentParser:
    """The shared options and those about language models."""
    options = benchmark_parser(__doc__.partition("\n")[0], [variant.name for variant in VARIANTS], CONCURRENCY,
                               QUICK_CONCURRENCY, Path(__file__).parent / "metrics")  # fmt: skip
    options.set_defaults(duration=4.0, timeout=120.0, min_requests=2)
    options.presets["quick"] |= {"output_tokens": 16, "min_requests": 1}
    add = options.add_argument
    add("--model", help="hub id, folder, or random:<shape> (default: SmolLM2-135M-Instruct, else random weights)")
    add("--dtype", default="bfloat16", choices=("bfloat16", "float16", "float32"), help="(default: %(default)s)")
    add("--prompt-tokens", type=count, default=32, help="of every prompt, chat format included (default: %(default)s)")
    add("--output-tokens", type=count, default=32, help="of every answer (default: %(default)s)")
    return options


def main() -> None:
    options = parsed(parser())
    sys.exit(benchmark(lambda: suite(options), options))


if __name__ == "__main__":
    main()
