"""The models without a server: the right answers, and how many images per second one process labels on its own."""

import json
import time
from collections.abc import Callable
from functools import cache
from itertools import accumulate
from pathlib import Path
from statistics import median

import torch
from PIL import Image

from harness.serving.serve import accelerator, api_class
from mnist_model_benchmarking.digits import image_file
from mnist_model_benchmarking.model import SIDE, decode_image, load_model
from mnist_model_benchmarking.server_baseline import BaselineAPI, encoded_images

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
    dtypes = {variant: api_class(f"mnist_model_benchmarking.server_{variant}").dtype for variant in variants}
    alone = {
        dtype: [images_per_second(set_up(dtype, accelerator(asked)), size) for size in BATCH_SIZES]
        for dtype in dict.fromkeys(dtypes.values())
    }
    return {variant: (BATCH_SIZES, alone[dtype]) for variant, dtype in dtypes.items()}


def images_per_second(api: BaselineAPI, batch_size: int) -> float:
    """Median over short repeats; random images on the CPU in, probabilities on the CPU out."""
    images = torch.randn(batch_size, SIDE * SIDE)
    api.probabilities(images)
    return median(rates(lambda: api.probabilities(images), batch_size))


def rates(work: Callable[[], object], images: int) -> list[float]:
    """Images per second of each repeat, where one call of `work` labels so many."""
    found = []
    for _ in range(REPEATS):
        calls, began = 0, time.perf_counter()
        while (elapsed := time.perf_counter() - began) < REPEAT_S:
            work()
            calls += 1
        found.append(calls * images / elapsed)
    return found


def decode_and_model(variant: str, bodies: list[bytes], asked: str) -> float:
    """Images per second from JSON text to answer on one core of one process, without a server: a server's own work.

    `bodies` are joined to batches of about 64 images, as one worker would at best.
    """
    api, batch = set_up(api_class(f"mnist_model_benchmarking.server_{variant}").dtype, accelerator(asked)), []
    sizes = [len(encoded_images(json.loads(body))) for body in bodies]
    for body, total in zip(bodies, accumulate(sizes), strict=True):
        batch.append(body)
        if total >= BATCH_SIZES[-1]:
            break

    def work() -> None:
        images = [api.decode_request(json.loads(body)) for body in batch]
        for probabilities in api.probabilities(torch.cat(images)).split([len(each) for each in images]):
            json.dumps(api.encode_response(probabilities))

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        work()
        return median(rates(work, sum(sizes[: len(batch)])))
    finally:
        torch.set_num_threads(threads)


@cache
def set_up(dtype: torch.dtype, device: str) -> BaselineAPI:
    """A baseline at this precision, ready; variants of the same precision share it."""
    api = BaselineAPI()
    api.dtype = dtype
    api.setup(device)
    return api
