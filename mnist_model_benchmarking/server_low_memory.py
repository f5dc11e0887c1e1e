"""Low memory: batching and workers, the four forked from one process that has imported torch.

python mnist_model_benchmarking/server_low_memory.py --port 8000
"""

from harness.serving.serve import serve
from mnist_model_benchmarking.server_batching import BATCHING
from mnist_model_benchmarking.server_batching_workers import WORKERS, BatchingWorkersAPI

# Of the 304 MiB that each worker of batching_workers holds for itself, 288 are what importing torch
# and LitServe leaves behind: Python objects, relocated libraries. A fork shares them until it
# writes to them. The weights are 3 MiB, and fewer malloc arenas save nothing that can be measured.
PRELOADED = ["mnist_model_benchmarking.server_batching_workers"]


class LowMemoryAPI(BatchingWorkersAPI):
    """Nothing changes but where the workers come from."""


if __name__ == "__main__":
    serve(LowMemoryAPI(**BATCHING), workers_per_device=WORKERS, preloaded=PRELOADED)
