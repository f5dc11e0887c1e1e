"""Batching: requests that arrive within 10 ms share one forward pass of up to 64 requests.

python mnist_model_benchmarking/server_batching.py --port 8000
"""

import torch
from torch import Tensor

from harness.serving.serve import serve
from mnist_model_benchmarking.server_baseline import BaselineAPI

# LitServe always waits the 10 ms out, unless the batch is full.
BATCHING = {"max_batch_size": 64, "batch_timeout": 0.01}


class BatchingAPI(BaselineAPI):
    """One tensor for the whole batch, on the device, then split by the images of each request."""

    def batch(self, requests: list[Tensor]) -> tuple[Tensor, list[int]]:
        images = torch.cat(requests).to(device=self.device, dtype=self.dtype)
        return images, [len(each) for each in requests]

    def predict(self, batch: tuple[Tensor, list[int]]) -> tuple[Tensor, ...]:
        images, sizes = batch
        return self.probabilities(images).split(sizes)


if __name__ == "__main__":
    serve(BatchingAPI(**BATCHING))
