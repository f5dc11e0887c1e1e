"""The models without a server: the right answers, and how many images per second they label on their own."""

import time
from pathlib import Path
from statistics import median

import torch
from PIL import Image

from harness.serve import accelerator, api_class
from mnist_model_benchmarking.digits import image_file
from mnist_model_benchmarking.model import SIDE, decode_image, load_model
from mnist_model_benchmarking.server_baseline import BaselineAPI

BATCH_SIZES = [1, 8, 32, 64]
REPEATS, REPEAT_S = 5, 0.1


def answers(files: list[bytes]) -> list[int]:
    """The digit that the full-precision model sees in each PNG or JPEG file."""
    model = load_model()
    with torch.inference_mode():
        images = torch.stack([decode_image(content) for content in files])
        return [digit for chunk in images.split(1000) for digit in model(chunk).argmax(dim=1).tolist()]


def mnist_test_files(directory: Path, size: int) -> list[tuple[bytes, int]]:
    """The 10,000 test images as (PNG content, label); RuntimeError if MNIST/raw is not in the folder."""
    from torchvision.datasets import MNIST  # takes seconds to import, and only this function needs it

    data = MNIST(str(directory), train=False, download=False)
    return [(image_file(image.resize((size, size), Image.Resampling.BICUBIC), "PNG"), label) for image, label in data]


def models_alone(variants: list[str], asked: str) -> dict[str, tuple[list[int], list[float]]]:
    """Batch sizes and images per second of each variant's model on the accelerator asked for.

    Variants of the same precision share one measurement.
    """
    by_dtype: dict[torch.dtype, list[float]] = {}
    apis = {variant: api_class(f"mnist_model_benchmarking.server_{variant}")() for variant in variants}
    for api in apis.values():
        if api.dtype not in by_dtype:
            api.setup(accelerator(asked))
            by_dtype[api.dtype] = [images_per_second(api, size) for size in BATCH_SIZES]
    return {variant: (BATCH_SIZES, by_dtype[api.dtype]) for variant, api in apis.items()}


def images_per_second(api: BaselineAPI, batch_size: int) -> float:
    """Median over short repeats; random images on the CPU in, probabilities on the CPU out."""
    images = torch.randn(batch_size, SIDE * SIDE)
    api.probabilities(images)
    rates = []
    for _ in range(REPEATS):
        calls, began = 0, time.perf_counter()
        while (elapsed := time.perf_counter() - began) < REPEAT_S:
            api.probabilities(images)
            calls += 1
        rates.append(calls * batch_size / elapsed)
    return median(rates)
