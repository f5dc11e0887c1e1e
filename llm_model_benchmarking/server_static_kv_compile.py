"""Static cache and compilation, as transformers documents them: a decoding step compiles once.

python llm_model_benchmarking/server_static_kv_compile.py --port 8000

Compiling all layers takes half a minute or more at the first launch; a cache on disk shortens the
later ones.
"""

import time

import torch
from torch import Tensor

from harness.serving.serve import serve
from llm_model_benchmarking.model import lift_sliding_window
from llm_model_benchmarking.openai_chat import OpenAIChat
from llm_model_benchmarking.server_baseline import BaselineAPI


class StaticKvCompileAPI(BaselineAPI):
    """Prompts run as in the baseline; the step from one token to the next is the model's own
    forward pass, compiled.

    Attributes (measured in setup):
        compile_s: seconds it took to compile and to warm up.
    """

    setup_metrics = (*BaselineAPI.setup_metrics, "compile_s")

    def warm_up(self) -> None:
        """Compile before the first request; a recompilation would be timed, so it is an error."""
        began = time.perf_counter()
        lift_sliding_window(self.model, self.max_context)
        self.compile()
        super().warm_up()
        torch.compiler.set_stance("fail_on_recompile")
        self.compile_s = time.perf_counter() - began

    def compile(self) -> None:
        from transformers import StaticCache

        mode = "default" if self.model.device.type == "cpu" else "reduce-overhead"
        self.cache = StaticCache(config=self.model.config, max_cache_len=self.max_context)
        self.step = torch.compile(self.forward, mode=mode, fullgraph=True, dynamic=False)

    def prefill(self, ids: Tensor) -> Tensor:
        self.cache.reset()
        return self.forward(ids)

    def decode(self, token: Tensor) -> Tensor:
        return self.step(token)


if __name__ == "__main__":
    serve(StaticKvCompileAPI(spec=OpenAIChat()))
