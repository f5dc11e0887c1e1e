"""What the language model benchmark measures and shows: variants, requests, columns, ceilings."""

import argparse
import contextlib
import json
import math
import statistics
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from operator import attrgetter
from typing import Any

from matplotlib.figure import Figure

from harness.load.latency import latency_ms
from harness.measure.window import Record, Window, known, mean
from harness.process.cores import usable_cores
from harness.process.launch import model_info
from harness.process.module_process import LastingProcess
from harness.results.percentiles import latency_ci95_ms
from harness.results.schema import Results, VariantResult
from harness.show.columns import CORRECT, CPU, LOAD, latency_text, rate_text, share
from harness.show.presentation import Ceiling, Column
from harness.suite import CannotMeasureError, Suite, Variant
from llm_model_benchmarking.checks import ChatCheck, agreement, carries_token, tokens_told
from llm_model_benchmarking.rows import TokenRow, TokenVariant

VARIANTS = [
    Variant("baseline", None),
    Variant("static_kv_compile", "baseline"),
    Variant("fused_decoding", "static_kv_compile"),
    Variant("continuous_batching", "fused_decoding"),
    Variant("quantised_8bit", "baseline"),
]
COLUMNS = [
    LOAD,
    Column("output tokens/s [95 %]", lambda row: rate_text(row.output_per_second)),
    Column("TTFT ms [95 %]", lambda row: latency_text("mean", *row.own.ttft)),
    Column("ITL p50 ms [95 %]", lambda row: latency_text("p50", *row.own.itl)),
    Column("ITL p95 ms [95 %]", lambda row: latency_text("p95", *row.own.itl)),
    CORRECT,
    Column("token agreement", lambda row: share(row.own.token_agreement)),
    CPU,
]
STAGE_NAMES = {
    "decode": "tokenise",
    "first_output": "prefill",
    "next_outputs": "decode_steps",
    "encode": "send",
}
REFERENCE = "llm_model_benchmarking.reference"
FLOAT32_CHATS = 1  # each costs every variant an answer
CHATS = 4  # nothing is cached between requests, and each costs the baseline an answer beforehand
LEAST_CONTEXT = 512  # tokens
WINDOW_S = 2.0  # at least: longer ones are hardly steadier, a machine's speed wanders meanwhile
EXTRA_MINUTES = 1.1  # on two cores: 18 minutes of three epochs became 21, one of one 2.5
EPOCH_MINUTES = 6.0  # launches take two or three of them, a block of each load two
LONE = "1"  # the load at which one stream has the server for itself
RANDOM_WEIGHTS = "RANDOM WEIGHTS: the speed of this shape is real, its text is noise"


@dataclass(kw_only=True)
class LanguageModelSuite(Suite):
    """Chats of equal length sent to servers of a language model.

    Attributes:
        chats: the messages of each request.
        prompt_tokens: the length of every prompt.
        accelerator: where the models run.
        models: llm_model_benchmarking.reference in its process: the variants, loaded once and kept
            for the whole run.
        setup_metrics: by variant, what its setup measured there.
        float32_chats: those asked of every variant with float32 weights, too.
        kl_divergences: by variant, from the baseline.
        float32_agreements: by variant, with the baseline's answers.
        bandwidth_bytes_per_s: what the device reads from its memory.
    """

    name = "language model"
    package = "llm_model_benchmarking"
    variants = VARIANTS
    unit = "output tokens"
    path = "/v1/chat/completions"
    own_row, own_variant = TokenRow, TokenVariant
    columns = COLUMNS
    stage_names = STAGE_NAMES

    chats: list[list[dict[str, str]]]
    prompt_tokens: int
    accelerator: str
    models: LastingProcess
    setup_metrics: dict[str, dict[str, float]]
    float32_chats: list[list[dict[str, str]]] = field(default_factory=list)
    kl_divergences: dict[str, float] = field(default_factory=dict)
    float32_agreements: dict[str, float] = field(default_factory=dict)
    bandwidth_bytes_per_s: float | None = None

    def prepare(self, variants: list[str]) -> None:
        """Bandwidth, and every model: servers have compiled by now, this finds it in the cache."""
        self.bandwidth_bytes_per_s = self.models("memory_bandwidth")
        for variant in variants:
            self.compare(variant)
        if self.float32_chats:
            self.compare_in_float32(variants)

    def compare_in_float32(self, variants: list[str]) -> None:
        """Ask the variants with float32 weights, one loaded at a time, in a process of their own:
        what they hold and have compiled goes with it.
        """
        asked, expected = (self.float32_chats, self.output_per_request), []
        with reference_process() as models:
            models.tell("load_with", in_float32(self.server_flags), self.accelerator)
            for variant in dict.fromkeys([VARIANTS[0].name, *variants]):
                answers = models("answers", variant, *asked)
                models("forget", variant)
                expected = expected or answers
                self.float32_agreements[variant] = mean(map(agreement, answers, expected))

    def close(self) -> None:
        self.models.close()

    def compare(self, variant: str) -> None:
        """Load a variant, if it is not yet, and compare it with the baseline."""
        if variant not in self.setup_metrics:
            self.setup_metrics[variant] = self.models("set_up", variant)
        if variant not in self.kl_divergences:
            self.kl_divergences[variant] = self.models("kl_divergence", variant)

    def in_process(self, variant: str) -> float:
        self.compare(variant)
        return self.models("requests_per_second", variant, self.chats, self.output_per_request)

    def row(self, windows: list[Window]) -> TokenRow:
        ttft_ms = latency_ms([each for window in windows for each in window.first_output_s])
        itl_ms = latency_ms([each for window in windows for each in window.output_gaps_s])
        return TokenRow(
            time_to_first_token_ms=ttft_ms,
            time_to_first_token_ci95_ms=dict.fromkeys(ttft_ms),
            inter_token_latency_ms=itl_ms,
            inter_token_latency_ci95_ms=dict.fromkeys(itl_ms),
            token_agreement=mean(known(each for window in windows for each in window.load.quality)),
        )

    def with_intervals(self, own: TokenRow, windows: list[Window]) -> TokenRow:
        ttft, itl = (
            latency_ci95_ms((each.epoch, each.block, seconds_of(each)) for each in windows)
            for seconds_of in (attrgetter("first_output_s"), attrgetter("output_gaps_s"))
        )
        return replace(own, time_to_first_token_ci95_ms=ttft, inter_token_latency_ci95_ms=itl)

    def variant(self, name: str, records: Mapping[str, list[Record]]) -> TokenVariant:
        mine, baseline = records[name], records.get(VARIANTS[0].name, [])
        served = [
            self.output_per_request * rate
            for record in mine
            for rate in lone_rates(record).values()
        ]
        average, bytes_per_token = mean(served), self.bytes_per_token(name)
        bandwidth, decoding = self.bandwidth_bytes_per_s, mean(decode_rates(mine))
        most = bandwidth / bytes_per_token if bandwidth and bytes_per_token else None
        metrics = [each for record in mine for each in record.setup_metrics if each]
        compiling_s = [each["compile_s"] for each in metrics if "compile_s" in each]
        return TokenVariant(
            avg_tokens_per_sec=average,
            decode_tokens_per_sec=decoding,
            std_dev=statistics.stdev(served) if len(served) > 1 else None,
            theoretical_max_tokens_per_sec=most,
            efficiency_percent=100 * decoding / most if decoding and most else None,
            memory_bandwidth_bytes_per_s=bandwidth,
            bytes_per_token=bytes_per_token,
            served_share_percent=served_share_percent(mine),
            model_bytes=next(
                (int(each["model_bytes"]) for each in metrics if "model_bytes" in each), None
            ),
            load_s=next(iter(known(each.get("load_s") for each in metrics)), None),
            compile_s=compiling_s[0] if compiling_s else None,
            compile_cached_s=mean(compiling_s[1:]),
            break_even_requests=break_even_requests(compiling_s, mine, baseline),
            kl_divergence=self.kl_divergences.get(name),
            float32_token_agreement=self.float32_agreements.get(name),
        )

    def bytes_per_token(self, name: str) -> int | None:
        """Weights and, at half of the answer, keys and values that a decoding step has to read."""
        metrics = self.setup_metrics.get(name)
        if metrics is None:
            return None
        context = self.prompt_tokens + self.output_per_request / 2
        cache_bytes = context * metrics["cache_bytes_per_token"]
        return int(metrics["weight_bytes_per_token"] + cache_bytes)

    @staticmethod
    def ceilings(variant: VariantResult) -> list[Ceiling]:
        own, in_process = variant.own, variant.in_process_per_second
        if own.avg_tokens_per_sec is None:
            return []
        rates = {
            "memory bandwidth, one stream": own.theoretical_max_tokens_per_sec,
            "without a server": in_process,
            "decoding steps alone, served": own.decode_tokens_per_sec,
            f"served at concurrency {LONE}": own.avg_tokens_per_sec,
        }
        return [Ceiling(name, rate) for name, rate in rates.items() if rate is not None]

    @staticmethod
    def sentences(results: Results) -> list[str]:
        said = {name: sentence(variant) for name, variant in results.variants.items()}
        return [f"{name}: {text}" for name, text in said.items() if text]

    @staticmethod
    def charts(results: Results) -> dict[str, Figure]:
        from llm_model_benchmarking.charts import charts  # slow: only what draws loads it

        return charts(results)


SUITE = LanguageModelSuite


def served_share_percent(records: list[Record]) -> float | None:
    """What is left of the in-process rate when served, mean over the epochs that measured both."""
    shares = []
    for record in records:
        rates = lone_rates(record)
        for epoch, served in rates.items():
            if alone := mean(rate for at, _, rate in record.in_process if at == epoch):
                shares.append(100 * served / alone)
    return mean(shares)


def lone_rates(record: Record) -> dict[int, float]:
    """Requests/s, one at a time, by epoch."""
    epochs = dict.fromkeys(window.epoch for window in record.at(LONE))
    return {
        epoch: mean(w.load.requests_per_second for w in record.at(LONE) if w.epoch == epoch)
        for epoch in epochs
    }


def decode_rates(records: list[Record]) -> list[float]:
    """Tokens per second of the decoding steps of one stream, of each launch that told any."""
    gaps_s: dict[tuple[int, int], list[float]] = {}
    for at, record in enumerate(records):
        for window in record.at(LONE):
            gaps_s.setdefault((at, window.epoch), []).extend(window.output_gaps_s)
    return [1 / gap_s for gap_s in map(mean, gaps_s.values()) if gap_s]


def break_even_requests(
    compiling_s: list[float], mine: list[Record], baseline: list[Record]
) -> int | None:
    """Requests, one at a time, after which the seconds of the first compilation are saved."""
    own_s, baseline_s = map(lone_latency_s, (mine, baseline))
    if not compiling_s or own_s is None or baseline_s is None or baseline_s <= own_s:
        return None
    return math.ceil(compiling_s[0] / (baseline_s - own_s))


def lone_latency_s(records: list[Record]) -> float | None:
    """Mean latency of a request that has the server for itself."""
    windows = [window for record in records for window in record.at(LONE)]
    return mean(seconds for window in windows for seconds in window.load.correct_latency_s)


def sentence(variant: VariantResult) -> str:
    """Ceilings, memory, fidelity and compiling of one variant; empty if nothing is known."""
    own, parts = variant.own, []
    if own.efficiency_percent is not None:
        most = own.theoretical_max_tokens_per_sec
        share_of_most = f"{own.efficiency_percent:.0f} % of the {most:.0f} decoding steps/s"
        parts.append(f"{share_of_most} that memory bandwidth allows one stream")
    if own.served_share_percent is not None:
        parts.append(f"{own.served_share_percent:.0f} % of the same model without a server")
    if own.model_bytes is not None:
        parts.append(f"{own.model_bytes / 1e6:.0f} MB of weights")
    if own.kl_divergence is not None and variant.server.get("variant") != VARIANTS[0].name:
        parts.append(f"{own.kl_divergence:.2g} nats from the baseline's distribution")
        if own.float32_token_agreement is not None:
            percent = f"{100 * own.float32_token_agreement:.0f} %"
            parts.append(f"in float32 {percent} of its greedy tokens are the baseline's")
    if own.compile_s is not None:
        requests = own.break_even_requests
        after = "no break-even" if requests is None else f"break-even after {requests:,} requests"
        parts.append(f"{own.compile_s:.0f} s to compile and warm up, {after}")
    return ", ".join(parts)


def suite(options: argparse.Namespace) -> LanguageModelSuite:
    """The suite made ready for a run, the baseline loaded; sets `model` and `weights` in options.

    Raises OSError if there is no such model, CannotMeasureError if it cannot be asked for prompts
    and answers of that length.
    """
    with contextlib.ExitStack() as closing:
        models = closing.enter_context(reference_process())
        choose_model(models, options)
        ready = suite_with(models, options)
        closing.pop_all()  # from here on, the suite's own close() ends the process
    return ready


def reference_process() -> LastingProcess:
    """A process for models without a server, with as many threads as a server's worker has."""
    return LastingProcess(REFERENCE, {"OMP_NUM_THREADS": str(usable_cores())})


def choose_model(models: LastingProcess, options: argparse.Namespace) -> None:
    """Settle on the model asked for, that of the server at --url, or the default one."""
    serving = model_info(options.url.rstrip("/")).get("model") if options.url else None
    options.model = models("model_name", options.model or serving)
    options.weights = "random" if options.model.startswith("random:") else "pretrained"
    if options.weights == "random":
        print(f"{options.model}: {RANDOM_WEIGHTS}", file=sys.stderr)


def suite_with(models: LastingProcess, options: argparse.Namespace) -> LanguageModelSuite:
    """What to send and how to judge it: the baseline's greedy answers are the measure."""
    tokens, flags = options.output_tokens, server_flags(options)
    try:
        models.tell("load_with", flags, options.accelerator)
        metrics = models("set_up", "baseline")
        chats = models("chats", options.prompt_tokens, CHATS, options.seed)
    except ValueError as error:
        raise CannotMeasureError(str(error)) from error
    return LanguageModelSuite(
        bodies=[request_body(chat, tokens) for chat in chats],
        request=f"{options.prompt_tokens} tokens in, {tokens} out",
        output_per_request=tokens,
        check=ChatCheck(models("answers", VARIANTS[0].name, chats, tokens), tokens),
        sample_answer=sample_answer(tokens),
        server_flags=flags,
        carries_output=carries_token,
        outputs_told=tokens_told,
        min_requests=2,
        notes=(RANDOM_WEIGHTS,) if options.weights == "random" else (),
        window_s=WINDOW_S,
        extra_minutes=EXTRA_MINUTES,
        epoch_minutes=EPOCH_MINUTES,
        chats=chats,
        prompt_tokens=options.prompt_tokens,
        accelerator=options.accelerator,
        models=models,
        setup_metrics={"baseline": metrics},
        float32_chats=[] if options.quick else chats[:FLOAT32_CHATS],
    )


def server_flags(options: argparse.Namespace) -> tuple[str, ...]:
    """What every server script is started with, besides the shared flags."""
    context = max(LEAST_CONTEXT, options.prompt_tokens + options.output_tokens)
    flags = {"--model": options.model, "--dtype": options.dtype, "--max-context": str(context)}
    return *(part for flag in flags.items() for part in flag), "--ignore-eos"


def in_float32(flags: tuple[str, ...]) -> tuple[str, ...]:
    """The same flags, but for the type of the weights."""
    at = flags.index("--dtype") + 1
    return *flags[:at], "float32", *flags[at + 1 :]


def request_body(chat: list[dict[str, str]], tokens: int) -> bytes:
    """The JSON document that asks for a greedy answer of so many tokens."""
    request: dict[str, Any] = {
        "messages": chat,
        "max_tokens": tokens,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
        "return_token_ids": True,
    }
    return json.dumps(request).encode()


def sample_answer(tokens: int) -> bytes:
    """A stream as the servers send it."""
    choice = {"index": 0, "delta": {"content": " word"}, "finish_reason": None, "token_ids": [7]}
    head = {"id": "chatcmpl-0", "created": 0, "model": "m", "object": "chat.completion.chunk"}
    token = json.dumps(head | {"choices": [choice]})
    return "".join(f"data: {event}\n\n" for event in [token] * tokens + ["[DONE]"]).encode()
