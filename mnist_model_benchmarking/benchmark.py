"""Measure every MNIST server variant under concurrent load: launch, load, check the answers, chart, compare.

python mnist_model_benchmarking/benchmark.py             # under eight minutes; --quick for a first look
python mnist_model_benchmarking/benchmark.py --mnist data --variants baseline,batching --concurrency 1,64
"""

import argparse
import base64
import importlib
import json
import multiprocessing
import signal
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from harness.options import benchmark_parser, count, parsed
from harness.report import benchmark
from harness.results import ModelAlone
from harness.suite import Suite, Variant
from mnist_model_benchmarking.digits import sample_files

VARIANTS = [
    Variant("baseline", None),
    Variant("batching", "baseline"),
    Variant("batching_workers", "batching"),
    Variant("parallel_decoding", "batching_workers"),
    Variant("half_precision", "batching_workers"),
]
CONCURRENCY = [1, 8, 32, 64]
MNIST_TEST_FILES = ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
QUICK_CONCURRENCY = [1, 64]


class DigitCheck:
    """Judges an answer: right if every digit is what the model sees; its quality is the share of true labels."""

    def __init__(self, expected: list[list[int]], labels: list[list[int]]) -> None:
        self.expected, self.labels = expected, labels

    def __call__(self, body: bytes, index: int) -> tuple[bool, float]:
        try:
            digits = [prediction["digit"] for prediction in json.loads(body)["predictions"]]
        except (ValueError, KeyError, TypeError):
            return False, 0.0
        labels = self.labels[index]
        true = sum(digit == label for digit, label in zip(digits, labels, strict=False))
        return digits == self.expected[index], true / len(labels)


class Reference:
    """mnist_model_benchmarking.reference in a process of its own: this one stays small and never loads torch."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.pool = ProcessPoolExecutor(1, context, signal.signal, (signal.SIGINT, signal.SIG_IGN))

    def __call__(self, function: str, *arguments: Any) -> Any:
        """What the function of that name returns."""
        return self.pool.submit(call_reference, function, arguments).result()


def call_reference(function: str, arguments: tuple) -> Any:
    """Call a function of the reference module, in the process that may load it."""
    return getattr(importlib.import_module("mnist_model_benchmarking.reference"), function)(*arguments)


def grouped(values: list, size: int) -> list[list]:
    """Runs of `size` values, one starting at each run's end, around the end of the list."""
    rounds = len(values) // size or 1
    return [[values[(start * size + offset) % len(values)] for offset in range(size)] for start in range(rounds)]


def request_body(files: list[bytes]) -> bytes:
    """The JSON document that carries these image files."""
    texts = [base64.b64encode(content).decode() for content in files]
    return json.dumps({"image": texts[0]} if len(texts) == 1 else {"images": texts}).encode()


def suite(options: argparse.Namespace) -> Suite:
    """What to send and how to judge it."""
    reference = Reference()
    if options.mnist:
        samples = reference("mnist_test_files", options.mnist, options.image_size)
    else:
        samples = sample_files(size=options.image_size)
    files, labels = zip(*samples, strict=True)
    expected = reference("answers", list(files))

    def models_alone(variants: list[str]) -> dict[str, ModelAlone]:
        figures = reference("models_alone", variants, options.accelerator)
        reference.pool.shutdown()  # the last question: its memory is free for the servers
        return {name: ModelAlone(*figure) for name, figure in figures.items()}

    images = options.images_per_request
    return Suite(
        name="mnist",
        package="mnist_model_benchmarking",
        variants=VARIANTS,
        path="/predict",
        bodies=[request_body(group) for group in grouped(list(files), images)],
        check=DigitCheck(grouped(expected, images), grouped(list(labels), images)),
        images_per_request=images,
        sample_answer=json.dumps({"predictions": [{"digit": 7, "probability": 0.998739}] * images}).encode(),
        models_alone=models_alone,
    )


def parser() -> argparse.ArgumentParser:
    """The shared options and those about images."""
    names = [variant.name for variant in VARIANTS]
    options = benchmark_parser(__doc__.partition("\n")[0], names, CONCURRENCY, QUICK_CONCURRENCY,
                               Path(__file__).parent / "metrics")  # fmt: skip
    options.add_argument("--images-per-request", type=count, default=1, metavar="N",
                         help="images that one request carries, 512 at most (default: %(default)s)")  # fmt: skip
    options.add_argument("--image-size", type=count, default=28, metavar="PIXELS",
                         help="side of the images that are sent (default: %(default)s)")  # fmt: skip
    options.add_argument("--mnist", type=Path, metavar="DIR",
                         help="send the real MNIST test images in DIR/MNIST/raw instead")  # fmt: skip
    return options


def main() -> None:
    options = parsed(parser())
    if options.mnist and not all((options.mnist / "MNIST" / "raw" / name).is_file() for name in MNIST_TEST_FILES):
        sys.exit(
            f"{options.mnist}/MNIST/raw lacks {' or '.join(MNIST_TEST_FILES)}; train.py --download puts them there"
        )
    sys.exit(benchmark(lambda: suite(options), options))


if __name__ == "__main__":
    main()
