"""Static cache and compilation: tensors of fixed size, so that a decoding step compiles once.

python llm_model_benchmarking/server_static_kv_compile.py --port 8000
"""

import time

import torch
from torch import Tensor

from harness.serving.serve import serve
from llm_model_benchmarking.openai_chat import OpenAIChat
from llm_model_benchmarking.server_baseline import BaselineAPI


class StaticKvCompileAPI(BaselineAPI):
    """Prompts run as in the baseline; the step from one token to the next is compiled.

    Attributes (measured in setup):
        compile_s: seconds it took to compile and to warm up.
    """

    setup_metrics = (*BaselineAPI.setup_metrics, "compile_s")

    def warm_up(self) -> None:
        """Compile before the first request; a recompilation would be timed, so it is an error."""
        from transformers import StaticCache

        from llm_model_benchmarking.one_token import compile_for_cpu

        began = time.perf_counter()
        self.cache = StaticCache(config=self.model.config, max_cache_len=self.max_context)
        token = torch.zeros(1, 1, dtype=torch.long, device=self.model.device)
        self.forward(token)  # allocates the cache
        if self.model.device.type == "cpu":
            self.step = self.forward
            compile_for_cpu(self.model, self.cache)
        else:
            self.step = torch.compile(
                self.forward, mode="reduce-overhead", fullgraph=True, dynamic=False
            )
        super().warm_up()
        torch.compiler.set_stance("fail_on_recompile")
        self.compile_s = time.perf_counter() - began

    def prefill(self, ids: Tensor) -> Tensor:
        self.cache.reset()
        return self.forward(ids)

    def decode(self, token: Tensor) -> Tensor:
        return self.step(token)


if __name__ == "__main__":
    serve(StaticKvCompileAPI(spec=OpenAIChat()))
