"""Low memory: batching and workers, the four forked from one process that has imported torch.

python mnist_model_benchmarking/server_low_memory.py --port 8000
"""

import torch
from torch import Tensor

from harness.serving.serve import serve
from mnist_model_benchmarking.server_batching import BATCHING
from mnist_model_benchmarking.server_batching_workers import WORKERS, BatchingWorkersAPI
from mnist_model_benchmarking.staged_forward import StagedForward

# Nearly all that a worker of batching_workers holds for itself is what importing torch and LitServe
# leaves behind: Python objects, relocated libraries (README, "Memory"). A fork shares them until it
# writes to them. The weights are little, and fewer malloc arenas saved nothing.
PRELOADED = ["mnist_model_benchmarking.server_batching_workers"]


class LowMemoryAPI(BatchingWorkersAPI):
    """On the CPU nothing changes but where the workers come from; on CUDA, what a worker allocates
    for its forward passes is laid out once. Kernels are loaded when first called, as CUDA does.
    """

    def setup(self, device: str) -> None:
        super().setup(device)
        if torch.device(device).type == "cuda":
            self.probabilities = StagedForward(self.model, device, self.dtype)

    def batch(self, requests: list[Tensor]) -> tuple[Tensor, list[int]]:
        return torch.cat(requests), [len(each) for each in requests]


if __name__ == "__main__":
    serve(LowMemoryAPI(**BATCHING), workers_per_device=WORKERS, preloaded=PRELOADED)
