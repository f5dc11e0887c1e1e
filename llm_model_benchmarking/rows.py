"""What language models add to rows and variants: TTFT, ITL, fidelity, ceilings, compiling."""

from pydantic.dataclasses import dataclass

from harness.results.rows import FINITE

Latencies = tuple[dict[str, float | None], dict[str, tuple[float, float] | None]]


@dataclass(frozen=True, config=FINITE)
class TokenRow:
    """What is added to a variant under one offered load; times are of correct answers.

    Attributes:
        time_to_first_token_ms: TTFT, from the intended send to the first token, queue wait and
            prefill included, of answers that ended once the queue was full (LoadResult.full_since);
            mean and percentiles, a percentile is None if too few back it.
        time_to_first_token_ci95_ms: their 95 % intervals, approximate (bootstrap over epochs, then
            blocks: harness.results.percentiles); None where the value is, without a second block,
            and as long as the run goes on.
        inter_token_latency_ms: ITL, from one token of an answer to the next; likewise.
        inter_token_latency_ci95_ms: likewise.
        token_agreement: share of tokens equal to the baseline model's greedy answer before the
            first that differs, mean over answers; None if no answer told its tokens' ids.
    """

    time_to_first_token_ms: dict[str, float | None]
    time_to_first_token_ci95_ms: dict[str, tuple[float, float] | None]
    inter_token_latency_ms: dict[str, float | None]
    inter_token_latency_ci95_ms: dict[str, tuple[float, float] | None]
    token_agreement: float | None

    @property
    def ttft(self) -> Latencies:
        """TTFT and its intervals."""
        return self.time_to_first_token_ms, self.time_to_first_token_ci95_ms

    @property
    def itl(self) -> Latencies:
        """ITL and its intervals."""
        return self.inter_token_latency_ms, self.inter_token_latency_ci95_ms


@dataclass(frozen=True, config=FINITE, kw_only=True)
class TokenVariant:
    """What is added to a variant; rates and shares of it are those of one request at a time.

    Attributes:
        avg_tokens_per_sec, std_dev: served output tokens per second at concurrency 1, prefill and
            serving included, mean and standard deviation over launches.
        decode_tokens_per_sec: one over the mean inter-token latency at concurrency 1, mean over
            launches: the decoding steps alone, without the prefill.
        theoretical_max_tokens_per_sec: memory_bandwidth_bytes_per_s over bytes_per_token: decoding
            steps per second that no single stream can pass. A step for several streams reads the
            weights once for all of them, so their tokens together can.
        efficiency_percent: decode_tokens_per_sec as a share of that.
        memory_bandwidth_bytes_per_s: bytes that a product of a large matrix with a vector reads per
            second on this device, the best of several in the same run, of the model's own type,
            float16 and float32.
        bytes_per_token: weights and key-value cache that one decoding step of one stream has to
            read.
        served_share_percent: served rate over the in-process rate of the same epoch, mean over
            epochs; 100 would be serving for nothing.
        model_bytes: weights and buffers in the memory of the worker.
        load_s: reading the weights, in the first launch of the run, beside which no other server
            starts.
        compile_s: likewise, with an empty compiler cache; None if nothing is compiled.
        compile_cached_s: later launches, mean; two servers start at a time.
        break_even_requests: requests, one at a time, after which the faster answers have made up
            for compile_s; None if never.
        kl_divergence: mean Kullback-Leibler divergence, in nats, of the next-token distribution
            from the baseline's.
        float32_token_agreement: token agreement (see TokenRow) of the model with float32 weights
            with the baseline's greedy answers with float32 weights, asked without a server: what
            differs in a shorter type only is rounding. None where nobody asked (--quick).
    """

    avg_tokens_per_sec: float | None
    std_dev: float | None
    theoretical_max_tokens_per_sec: float | None
    efficiency_percent: float | None
    memory_bandwidth_bytes_per_s: float | None
    bytes_per_token: int | None
    served_share_percent: float | None
    model_bytes: int | None
    load_s: float | None
    compile_s: float | None
    compile_cached_s: float | None
    break_even_requests: int | None
    kl_divergence: float | None
    decode_tokens_per_sec: float | None = None
    float32_token_agreement: float | None = None
