"""Low memory: batching and workers, the four forked from one process that has imported torch.

python mnist_model_benchmarking/server_low_memory.py --port 8000
"""

from harness.serving.serve import serve
from mnist_model_benchmarking.server_batching import BATCHING
from mnist_model_benchmarking.server_batching_workers import WORKERS, BatchingWorkersAPI


class LowMemoryAPI(BatchingWorkersAPI):
    """x"""


if __name__ == "__main__":
    serve(
        LowMemoryAPI(**BATCHING),
        workers_per_device=WORKERS,
        preloaded=["mnist_model_benchmarking.server_batching_workers"],
    )
