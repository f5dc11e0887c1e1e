"""Parallel decoding: batching and workers, each with a pool of threads that decodes a batch.

python mnist_model_benchmarking/server_parallel_decoding.py --port 8000
"""

from concurrent.futures import Future, ThreadPoolExecutor

from torch import Tensor

from harness.serving.serve import serve
from mnist_model_benchmarking.server_batching import BATCHING
from mnist_model_benchmarking.server_batching_workers import WORKERS, BatchingWorkersAPI

DECODE_THREADS = 4  # per worker


class ParallelDecodingAPI(BatchingWorkersAPI):
    """Decoding starts when LitServe hands a request over; the batch waits for all of its own."""

    def setup(self, device: str) -> None:
        super().setup(device)
        # Lives as long as the worker: threads are not free.
        self.pool = ThreadPoolExecutor(DECODE_THREADS, "decode")

    def decode_request(self, request: dict) -> "Future[Tensor]":
        return self.pool.submit(super().decode_request, request)

    def batch(self, requests: "list[Future[Tensor]]") -> tuple[Tensor, list[int]]:
        return super().batch([request.result() for request in requests])


if __name__ == "__main__":
    serve(ParallelDecodingAPI(**BATCHING), workers_per_device=WORKERS)
