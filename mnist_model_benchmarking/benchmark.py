"""Measure every MNIST server variant under concurrent load: launch, load, check the answers, chart, compare.

python mnist_model_benchmarking/benchmark.py             # under ten minutes; --quick for a first look
python mnist_model_benchmarking/benchmark.py --mnist data --variants baseline,batching --concurrency 1,64
"""

import argparse
import base64
import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.results.summary import Measurement, Record, in_process_rate, output_rate, quality
from harness.process.module_process import ModuleProcess
from harness.cli import Sweep, benchmark_parser, count, parsed
from harness.show.console import benchmark
from harness.results.run import ImageVariant, ModelAlone
from harness.results.rows import ImageLevel
from harness.suite import Suite, Variant
from harness.sweep import sweep
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
SWEPT = ("image-size", "images-per-request")
SWEEP_CONCURRENCY, SWEEP_DURATION_S = [32], 2.0


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


@dataclass
class MnistSuite(Suite):
    """Images sent to servers of the classifier.

    Attributes:
        images_per_request: how many images each request carries.
        reference: mnist_model_benchmarking.reference in its process: this one stays small and never loads torch.
        accelerator: where the models run.
        alone: by variant, its model without a server.
    """

    images_per_request: int = field(kw_only=True)
    reference: ModuleProcess = field(kw_only=True)
    accelerator: str = field(kw_only=True)
    alone: dict[str, ModelAlone] = field(default_factory=dict)

    def prepare(self, variants: list[str]) -> None:
        figures = self.reference("models_alone", variants, self.accelerator)
        self.alone = {name: ModelAlone(*figure) for name, figure in figures.items()}

    def close(self) -> None:
        self.reference.close()

    def in_process(self, variant: str) -> float:
        images_per_second = self.reference("decode_and_model", variant, self.bodies[:64], self.accelerator)
        return images_per_second / self.images_per_request

    def level(self, common: dict[str, Any], measured: list[Measurement]) -> ImageLevel:
        images = output_rate(measured, self.images_per_request)
        return ImageLevel(**common, images_per_second=images, accuracy=quality(measured))

    def variant(
        self, name: str, common: dict[str, Any], levels: list[ImageLevel], records: dict[str, list[Record]]
    ) -> ImageVariant:
        return ImageVariant(
            **common,
            baseline_throughput=self.alone.get(name),
            decode_and_model_images_per_second=in_process_rate(records[name], self.images_per_request),
            api_benchmarks=levels,
        )


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
    reference = ModuleProcess("mnist_model_benchmarking.reference")
    if options.mnist:
        samples = reference("mnist_test_files", options.mnist, options.image_size)
    else:
        samples = sample_files(size=options.image_size)
    files, labels = zip(*samples, strict=True)
    expected = reference("answers", list(files))

    images, size = options.images_per_request, options.image_size
    return MnistSuite(
        name="mnist",
        package="mnist_model_benchmarking",
        variants=VARIANTS,
        path="/predict",
        bodies=[request_body(group) for group in grouped(list(files), images)],
        request=f"{images} image(s) of {size} x {size} pixels per request",
        check=DigitCheck(grouped(expected, images), grouped(list(labels), images)),
        sample_answer=json.dumps({"predictions": [{"digit": 7, "probability": 0.998739}] * images}).encode(),
        images_per_request=images,
        reference=reference,
        accelerator=options.accelerator,
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
    options.add_argument("--sweep", nargs=2, action=Sweep, const=SWEPT, metavar=("SETTING", "N,N"),
                         help=f"a run per value of {' or '.join(SWEPT)}: from where on a variant pays")  # fmt: skip
    options.presets["sweep"] = {"concurrency": SWEEP_CONCURRENCY, "duration": SWEEP_DURATION_S}
    options.add_argument("--mnist", type=Path, metavar="DIR",
                         help="send the real MNIST test images in DIR/MNIST/raw instead")  # fmt: skip
    return options


def main() -> None:
    options = parsed(parser())
    if options.mnist and not all((options.mnist / "MNIST" / "raw" / name).is_file() for name in MNIST_TEST_FILES):
        sys.exit(
            f"{options.mnist}/MNIST/raw lacks {' or '.join(MNIST_TEST_FILES)}; train.py --download puts them there"
        )
    sys.exit(sweep(suite, options) if options.sweep else benchmark(lambda: suite(options), options))


if __name__ == "__main__":
    main()
