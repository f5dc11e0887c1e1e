"""8-bit weights: the baseline with its linear layers quantised to int8 by bitsandbytes.

python llm_model_benchmarking/server_quantised_8bit.py --port 8000
"""

import logging
from typing import Any

from harness.serving.serve import serve
from llm_model_benchmarking.openai_chat import OpenAIChat
from llm_model_benchmarking.server_baseline import BaselineAPI


class Quantised8BitAPI(BaselineAPI):
    """LLM.int8 (Dettmers et al., 2022): int8 products, outliers apart; embeddings and output layer
    stay as they are.
    """

    def setup(self, device: str) -> None:
        # It would log a warning per layer and forward pass.
        logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
        super().setup(device)

    def loading(self) -> dict[str, Any]:
        from transformers import BitsAndBytesConfig

        return {"quantization_config": BitsAndBytesConfig(load_in_8bit=True)}


if __name__ == "__main__":
    serve(Quantised8BitAPI(spec=OpenAIChat()))
