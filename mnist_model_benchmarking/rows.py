"""What MNIST adds to rows and variants: accuracy, the model alone."""

from pydantic.dataclasses import dataclass

from harness.results.rows import FINITE


@dataclass(frozen=True, config=FINITE)
class ImageRow:
    """What is added to a variant under one offered load.

    Attributes:
        accuracy: share of the answered images whose digit is the label; None without answers.
    """

    accuracy: float | None


@dataclass(frozen=True, config=FINITE)
class ModelAlone:
    """A variant's own model without a server: forward passes one after the other in one process.

    Attributes:
        batch_sizes: images per forward pass.
        images_per_second: at each of these sizes, median over repeats; pixels on the CPU in,
            probabilities on the CPU out.
    """

    batch_sizes: list[int]
    images_per_second: list[float]


@dataclass(frozen=True, config=FINITE)
class ImageVariant:
    """What is added to a variant.

    Attributes:
        baseline_throughput: its model alone; None if that was not measured.
    """

    baseline_throughput: ModelAlone | None
