"""Half precision: batching and workers, with weights and inputs in bfloat16, half the bytes.

python mnist_model_benchmarking/server_half_precision.py --port 8000
"""

import torch

from harness.serving.serve import serve
from mnist_model_benchmarking.server_batching import BATCHING
from mnist_model_benchmarking.server_batching_workers import WORKERS, BatchingWorkersAPI


class HalfPrecisionAPI(BatchingWorkersAPI):
    """The weights and what goes into them are bfloat16; only the softmax is taken in float32."""

    dtype = torch.bfloat16


if __name__ == "__main__":
    serve(HalfPrecisionAPI(**BATCHING), workers_per_device=WORKERS)
