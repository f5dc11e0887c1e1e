"""The models without a server: the correct answers, and what each variant does in one process."""

import contextlib
import importlib.util
import json
import os
import runpy
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from statistics import median
from unittest.mock import patch

import torch
from PIL import Image

from harness.serving.serve import accelerator
from mnist_model_benchmarking.digits import image_file
from mnist_model_benchmarking.images import decode_images
from mnist_model_benchmarking.model import SIDE, load_model
from mnist_model_benchmarking.rows import ModelAlone
from mnist_model_benchmarking.server_baseline import BaselineAPI

BATCH_SIZES = [1, 8, 32, 64]
REPEATS, REPEAT_S = 5, 0.05
THREADS = Path("/proc/self/task")


def answers(files: list[bytes]) -> list[int]:
    """The digit that the full-precision model sees in each PNG or JPEG file."""
    model = load_model()
    with torch.inference_mode():
        images = torch.cat([decode_images([content]) for content in files])
        chunks = [model(chunk).argmax(dim=1) for chunk in images.split(1000)]
    return torch.cat(chunks).tolist()


def mnist_test_files(directory: Path, size: int) -> list[tuple[bytes, int]]:
    """The 10,000 test images as (PNG content, label).

    Raises RuntimeError if MNIST/raw is not in the folder.
    """
    from torchvision.datasets import MNIST  # takes seconds to import, for this function alone

    def png(image: Image.Image) -> bytes:
        return image_file(image.resize((size, size), Image.Resampling.BICUBIC), "PNG")

    data = MNIST(str(directory), train=False, download=False)
    return [(png(image), label) for image, label in data]


def models_alone(variants: list[str], asked: str) -> dict[str, ModelAlone]:
    """Each variant's own model, forward passes alone, on the accelerator asked for."""
    device = accelerator(asked)
    return {
        name: ModelAlone(
            BATCH_SIZES, [images_per_second(set_up(name, device), size) for size in BATCH_SIZES]
        )
        for name in variants
    }


def images_per_second(api: BaselineAPI, batch_size: int) -> float:
    """Median over short repeats; random pixels on the CPU in, probabilities on the CPU out."""
    pixels = torch.randn(batch_size, SIDE * SIDE)
    return batch_size * calls_per_second(lambda: api.probabilities(pixels))


def decode_and_model(variant: str, bodies: list[bytes], asked: str) -> float:
    """Requests/s from JSON text to JSON text on one core: what a variant's own code costs, without
    a server.
    """
    api = set_up(variant, accelerator(asked))
    with one_core():
        return len(bodies) * calls_per_second(lambda: answered(api, bodies))


def answered(api: BaselineAPI, bodies: list[bytes]) -> list[str]:
    """The JSON answers to JSON requests, worked on as a worker does: one by one, or in batches."""
    size, texts = api.max_batch_size, []
    for start in range(0, len(bodies), size):
        requests = map(json.loads, bodies[start : start + size])
        items = [api.decode_request(request) for request in requests]
        if size > 1:
            outputs = api.unbatch(api.predict(api.batch(items)))
        else:
            outputs = map(api.predict, items)
        texts += [json.dumps(api.encode_response(output)) for output in outputs]
    return texts


def calls_per_second(work: Callable[[], object]) -> float:
    """How often `work` can be done per second, median over short repeats after a first call."""
    work()
    rates = []
    for _ in range(REPEATS):
        calls, began = 0, time.perf_counter()
        while (elapsed := time.perf_counter() - began) < REPEAT_S:
            work()
            calls += 1
        rates.append(calls / elapsed)
    return median(rates)


@cache
def set_up(variant: str, device: str) -> BaselineAPI:
    """A variant's API, ready to work on this device."""
    api = api_of(variant)
    api.pre_setup()
    api.setup(device)
    return api


def api_of(variant: str) -> BaselineAPI:
    """A variant's API as its script hands it to `serve`, with the script's own batching."""
    script = importlib.util.find_spec(f"{__package__}.server_{variant}").origin
    with patch("harness.serving.serve.serve") as serve:  # only the script knows its batching
        runpy.run_path(script, run_name="__main__")
    return serve.call_args.args[0]


@contextlib.contextmanager
def one_core() -> Iterator[None]:
    """Let all threads of this process, pools of the API's included, share one core.

    Where threads cannot be pinned (macOS), only torch keeps to one.
    """
    torch_threads = torch.get_num_threads()
    cores = os.sched_getaffinity(0) if THREADS.is_dir() else set()
    torch.set_num_threads(1)
    pin({max(cores, default=0)} & cores)
    try:
        yield
    finally:
        pin(cores)
        torch.set_num_threads(torch_threads)


def pin(cores: set[int]) -> None:
    """Keep every thread of this process on these cores; threads started later inherit that."""
    for thread in THREADS.iterdir() if cores else ():
        with contextlib.suppress(ProcessLookupError):  # it ended meanwhile
            os.sched_setaffinity(int(thread.name), cores)
