"""Low memory: batching and workers, the four forked from one process that has imported torch.

python mnist_model_benchmarking/server_low_memory.py --port 8000
"""

from harness.serving.serve import serve
from mnist_model_benchmarking.server_batching import BATCHING
from mnist_model_benchmarking.server_batching_workers import WORKERS, BatchingWorkersAPI

# Nearly all that a worker of batching_workers holds for itself is what importing torch and LitServe
# leaves behind: Python objects, relocated libraries (README, "Memory"). A fork shares them until it
# writes to them. The weights are little, and fewer malloc arenas saved nothing.
PRELOADED = ["mnist_model_benchmarking.server_batching_workers"]


class LowMemoryAPI(BatchingWorkersAPI):
    """Nothing changes but where the workers come from."""


if __name__ == "__main__":
    serve(LowMemoryAPI(**BATCHING), workers_per_device=WORKERS, preloaded=PRELOADED)
