"""Batching and workers: four processes take batches from one queue, each with a model of its own.

python mnist_model_benchmarking/server_batching_workers.py --port 8000
"""

from harness.serving.serve import serve
from mnist_model_benchmarking.server_batching import BATCHING, BatchingAPI

WORKERS = 4


class BatchingWorkersAPI(BatchingAPI):
    """Nothing changes but the number of processes."""


if __name__ == "__main__":
    serve(BatchingWorkersAPI(**BATCHING), workers_per_device=WORKERS)
