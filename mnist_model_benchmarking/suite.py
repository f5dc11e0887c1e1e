"""What the MNIST benchmark measures and shows: variants, requests, table columns, ceilings."""

import argparse
import base64
import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from matplotlib.figure import Figure

from harness.measure.window import Record, Window, known, mean
from harness.process.module_process import LastingProcess
from harness.results.schema import Results, VariantResult
from harness.show.columns import CORRECT, CPU, LOAD, latency_column, number, rate_text
from harness.show.presentation import Ceiling, Column, served
from harness.suite import CannotMeasureError, Suite, Variant
from mnist_model_benchmarking.checks import DigitCheck
from mnist_model_benchmarking.digits import sample_files
from mnist_model_benchmarking.limits import MAX_IMAGES, MAX_PIXELS
from mnist_model_benchmarking.rows import ImageRow, ImageVariant, ModelAlone

VARIANTS = [
    Variant("baseline", None),
    Variant("batching", "baseline"),
    Variant("batching_workers", "batching"),
    Variant("parallel_decoding", "batching_workers"),
    Variant("half_precision", "batching_workers"),
    Variant("low_memory", "batching_workers"),
    Variant("adaptive_batching", "batching"),
]
COLUMNS = [
    LOAD,
    Column("requests/s [95 %]", lambda row: rate_text(row.requests_per_second)),
    latency_column("p50"),
    latency_column("p99"),
    CORRECT,
    Column("mean batch", lambda row: number(row.mean_batch_size, ".1f")),
    CPU,
]
MNIST_TEST_FILES = "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"
IN_PROCESS_IMAGES = 64  # what one worker labels at a time, at best


@dataclass(kw_only=True)
class MnistSuite(Suite):
    """Images sent to servers of the classifier.

    Attributes:
        reference: mnist_model_benchmarking.reference in a process of its own: this one never loads
            torch.
        accelerator: where the models run.
        models_alone: by variant, its model without a server.
    """

    name = "MNIST"
    package = "mnist_model_benchmarking"
    variants = VARIANTS
    unit = "images"
    path = "/predict"
    own_row, own_variant = ImageRow, ImageVariant
    columns = COLUMNS

    reference: LastingProcess
    accelerator: str
    models_alone: dict[str, ModelAlone] = field(default_factory=dict)

    def prepare(self, variants: list[str]) -> None:
        self.models_alone = self.reference("models_alone", variants, self.accelerator)

    def close(self) -> None:
        self.reference.close()

    def in_process(self, variant: str) -> float:
        bodies = self.bodies[: max(1, IN_PROCESS_IMAGES // self.output_per_request)]
        return self.reference("decode_and_model", variant, bodies, self.accelerator)

    def row(self, windows: list[Window]) -> ImageRow:
        qualities = (quality for window in windows for quality in window.load.quality)
        return ImageRow(accuracy=mean(known(qualities)))

    def variant(self, name: str, _records: Mapping[str, list[Record]]) -> ImageVariant:
        return ImageVariant(baseline_throughput=self.models_alone.get(name))

    @staticmethod
    def ceilings(variant: VariantResult) -> list[Ceiling]:
        best, alone = variant.best, variant.own.baseline_throughput
        if best is None or variant.startup_s is None:  # another machine's server has other ceilings
            return []
        ceilings = []
        if alone:
            rate, size = max(zip(alone.images_per_second, alone.batch_sizes, strict=True))
            ceilings.append(Ceiling(f"the model alone, batches of {size}", rate))
        if in_process := variant.in_process_per_second:
            ceilings.append(Ceiling("decode + model, one core", in_process))
        if (no_op := variant.no_op_server) and best.requests_per_second.mean:
            images = best.output_per_second.mean / best.requests_per_second.mean
            rate = images * no_op.requests_per_second
            ceilings.append(Ceiling(f"no-op server at concurrency {no_op.concurrency}", rate))
        return [*ceilings, served(best)]

    @staticmethod
    def charts(results: Results) -> dict[str, Figure]:
        from mnist_model_benchmarking.charts import charts  # slow: only what draws loads it

        return charts(results)


SUITE = MnistSuite


def suite(options: argparse.Namespace) -> MnistSuite:
    """The suite made ready for a run; CannotMeasureError if --mnist names no MNIST test images, no
    server would take a request that large, or there is no such accelerator.
    """
    check_request(options.images_per_request, options.image_size)
    if options.mnist:
        check_mnist_files(options)
    with contextlib.ExitStack() as closing:
        reference = closing.enter_context(LastingProcess("mnist_model_benchmarking.reference"))
        ready = suite_with(reference, options)
        closing.pop_all()  # from here on, the suite's own close() ends the process
    return ready


def check_request(count: int, size: int) -> None:
    """CannotMeasureError if every server refuses `count` images of `size` x `size` pixels."""
    if count > MAX_IMAGES:
        raise CannotMeasureError(f"a request has {MAX_IMAGES} images at most, not {count:,}")
    if count * size**2 > MAX_PIXELS:
        raise CannotMeasureError(
            f"a request has {MAX_PIXELS:,} pixels at most, "
            f"not the {count * size**2:,} of {count} image(s) of {size} x {size}"
        )


def check_mnist_files(options: argparse.Namespace) -> None:
    """CannotMeasureError if the folder of --mnist lacks a file."""
    folder = options.mnist / "MNIST" / "raw"
    if not all((folder / name).is_file() for name in MNIST_TEST_FILES):
        raise CannotMeasureError(
            f"{folder} lacks {' or '.join(MNIST_TEST_FILES)}; train.py --download puts them there"
        )


def suite_with(reference: LastingProcess, options: argparse.Namespace) -> MnistSuite:
    """What to send and how to judge it."""
    try:
        reference("accelerator", options.accelerator)
    except ValueError as error:
        raise CannotMeasureError(str(error)) from error
    count, size = options.images_per_request, options.image_size
    if options.mnist:
        samples = reference("mnist_test_files", options.mnist, size)
    else:
        samples = sample_files(size=size)
    files, labels = map(list, zip(*samples, strict=True))
    digits = reference("answers", files)
    predictions = [{"digit": 7, "probability": 0.998739}] * count
    return MnistSuite(
        bodies=[request_body(group) for group in grouped(files, count)],
        request=f"{count} image(s) of {size} x {size} pixels per request",
        output_per_request=count,
        check=DigitCheck(grouped(digits, count), grouped(labels, count)),
        sample_answer=json.dumps({"predictions": predictions}).encode(),
        reference=reference,
        accelerator=options.accelerator,
    )


def grouped(values: list, size: int) -> list[list]:
    """Groups of `size` values, each beginning where the last ended, around the end of the list."""
    groups = len(values) // size or 1
    return [
        [values[(group * size + offset) % len(values)] for offset in range(size)]
        for group in range(groups)
    ]


def request_body(files: list[bytes]) -> bytes:
    """The JSON document that carries these image files."""
    texts = [base64.b64encode(content).decode() for content in files]
    return json.dumps({"image": texts[0]} if len(texts) == 1 else {"images": texts}).encode()
