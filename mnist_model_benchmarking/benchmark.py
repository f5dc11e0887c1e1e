"""Measure every MNIST server under concurrent load: launch, load, check, compare, draw.

python mnist_model_benchmarking/benchmark.py             # under ten minutes; --quick: a first look
python mnist_model_benchmarking/benchmark.py --mnist data --variants baseline,batching
"""

import argparse
import sys
from pathlib import Path

from harness.cli import benchmark, benchmark_parser, count, parsed
from harness.sweep import Sweep, sweep
from mnist_model_benchmarking.limits import MAX_IMAGES
from mnist_model_benchmarking.suite import MnistSuite, suite

QUICK_VARIANTS = [  # a first look: with all seven, launches alone take more than a minute
    "baseline",
    "batching",
    "batching_workers",
    "parallel_decoding",
    "half_precision",
]


def parser() -> argparse.ArgumentParser:
    """The options that all benchmark scripts share, and those about images."""
    swept = "image-size", "images-per-request"
    output_dir = Path(__file__).parent / "metrics"
    first_line = __doc__.partition("\n")[0]
    options = benchmark_parser(
        MnistSuite,
        first_line,
        output_dir,
        concurrency=[1, 8, 32, 64],
        minutes=8.0,
        quick={"variants": QUICK_VARIANTS, "concurrency": [1, 64], "minutes": 1.25},
        precise_minutes=30.0,
    )
    options.presets["sweep"] = {"concurrency": [32], "minutes": 3.0, "epochs": 2}
    add = options.add_argument
    add(
        "--images-per-request",
        type=count,
        default=1,
        metavar="N",
        help=f"images that one request carries, {MAX_IMAGES} at most (default: %(default)s)",
    )
    add(
        "--image-size",
        type=count,
        default=28,
        metavar="PIXELS",
        help="side of the images that are sent (default: %(default)s)",
    )
    add(
        "--sweep",
        nargs=2,
        action=Sweep,
        const=swept,
        metavar=("SETTING", "N,N"),
        help=f"a run per value of {' or '.join(swept)}: from where on a variant pays",
    )
    add(
        "--mnist",
        type=Path,
        metavar="DIR",
        help="send the real MNIST test images in DIR/MNIST/raw instead",
    )
    return options


def main() -> None:
    options = parsed(parser())
    sys.exit(sweep(suite, options) if options.sweep else benchmark(lambda: suite(options), options))


if __name__ == "__main__":
    main()
