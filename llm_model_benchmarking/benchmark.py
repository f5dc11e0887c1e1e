"""Measure every language model server under concurrent chats: TTFT, ITL, tokens/s, agreement.

python llm_model_benchmarking/benchmark.py               # about twenty minutes; or --quick
python llm_model_benchmarking/benchmark.py --model ./my-model --variants baseline,static_kv_compile
"""

import argparse
import sys
from pathlib import Path

from harness.cli import benchmark, benchmark_parser, count, parsed
from llm_model_benchmarking.suite import LanguageModelSuite, suite

QUICK_VARIANTS = ["baseline", "fused_decoding"]  # a first look: what is fast alone, soon compiled


def parser() -> argparse.ArgumentParser:
    """The options that all benchmark scripts share, and those about language models."""
    output_dir = Path(__file__).parent / "metrics"
    first_line = __doc__.partition("\n")[0]
    options = benchmark_parser(
        LanguageModelSuite,
        first_line,
        output_dir,
        concurrency=[1, 4, 16],
        minutes=18.0,
        quick={"variants": QUICK_VARIANTS, "concurrency": [1], "minutes": 1.0, "output_tokens": 16},
        precise_minutes=60.0,
    )
    options.set_defaults(timeout=120.0)
    add = options.add_argument
    add(
        "--model",
        help="hub id, folder, or random:<shape> (default: SmolLM2-135M-Instruct, else random "
        "weights)",
    )
    add(
        "--dtype",
        default="bfloat16",
        choices=("bfloat16", "float16", "float32"),
        help="of the weights (default: %(default)s)",
    )
    add(
        "--prompt-tokens",
        type=count,
        default=32,
        help="of every prompt, chat format included (default: %(default)s)",
    )
    add(
        "--output-tokens",
        type=count,
        default=32,
        help="of every answer (default: %(default)s)",
    )
    return options


def main() -> None:
    options = parsed(parser())
    sys.exit(benchmark(lambda: suite(options), options))


if __name__ == "__main__":
    main()
