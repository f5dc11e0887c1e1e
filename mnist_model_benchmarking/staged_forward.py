"""A forward pass in memory that is laid out once: on CUDA, a graph per bucket of batch sizes."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from mnist_model_benchmarking.model import CLASSES, SIDE

BUCKETS = 1, 8, 64  # images: a batch runs in the smallest that holds it, a larger one in parts


class StagedForward:
    """Probabilities of images, through one pinned staging buffer and tensors of fixed place.

    On CUDA each bucket's pass is captured once as a graph, all in one memory pool, the allocator's
    cache is emptied, and nothing is allocated on the device any more. Not for several threads.

    Args:
        model: (n, 784) pixels of its own type to (n, 10) logits.
        device: where it is.
        dtype: its type.
    """

    def __init__(self, model: nn.Module, device: str, dtype: torch.dtype) -> None:
        self.model, self.device = model, torch.device(device)
        on_cuda = self.device.type == "cuda"
        self.staged = torch.zeros(max(BUCKETS), SIDE * SIDE, dtype=dtype, pin_memory=on_cuda)
        self.images = self.staged.to(self.device, copy=True)
        self.probabilities = torch.zeros(max(BUCKETS), CLASSES, device=self.device)
        self.pool = torch.cuda.graph_pool_handle() if on_cuda else None
        with torch.inference_mode():
            # the largest first: what it needs of the pool is enough for the others
            self.passes = {size: self.captured(size) for size in sorted(BUCKETS, reverse=True)}
        if on_cuda:
            torch.cuda.empty_cache()

    def captured(self, size: int) -> Callable[[], None]:
        """What runs a batch of that size from `images` to `probabilities`."""

        def forward() -> None:
            logits = self.model(self.images[:size])
            self.probabilities[:size] = logits.float().softmax(dim=1)

        forward()  # what the first call allocates for good does not belong into a graph
        if self.device.type != "cuda":
            return forward
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self.pool):
            forward()
        return graph.replay

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Tensor:
        """(n, 784) pixels on the CPU to (n, 10) float32 probabilities there."""
        return torch.cat([self.part(each) for each in images.split(max(BUCKETS))])

    def part(self, images: Tensor) -> Tensor:
        """The same for what fits into a bucket; rows beyond are of batches before, and not read."""
        count = len(images)
        size = min(size for size in BUCKETS if size >= count)
        self.staged[:count] = images
        self.images[:size].copy_(self.staged[:size], non_blocking=True)
        self.passes[size]()
        return self.probabilities[:count].to("cpu", copy=True)  # waits for the device
