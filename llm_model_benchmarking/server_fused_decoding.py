"""Fused decoding: the step from token to token written so that its loops fuse (fused_step.py).

python llm_model_benchmarking/server_fused_decoding.py --port 8000
"""

from torch import Tensor

from harness.serving.serve import serve
from llm_model_benchmarking.openai_chat import OpenAIChat
from llm_model_benchmarking.server_static_kv_compile import StaticKvCompileAPI


class FusedDecodingAPI(StaticKvCompileAPI):
    """In place of the model's own forward pass, one of ours for its architecture."""

    def compile(self) -> None:
        from llm_model_benchmarking.fused_step import FusedStep

        self.step = FusedStep(self.model, slots=1, length=self.max_context)
        self.step.warm_up([1])

    def prefill(self, ids: Tensor) -> Tensor:
        self.step.lengths[0] = 0
        return self.step.prefill(0, ids)

    def decode(self, token: Tensor) -> Tensor:
        return self.step.decode(token)[0]


if __name__ == "__main__":
    serve(FusedDecodingAPI(spec=OpenAIChat()))
