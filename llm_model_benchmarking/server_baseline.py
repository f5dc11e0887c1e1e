"""Baseline: bfloat16 weights, a key-value cache that grows token by token, every operation launched from Python.

python llm_model_benchmarking/server_baseline.py --port 8000
"""

import argparse
import sys
import time
from collections.abc import Iterator
from typing import Any

import litserve
import torch
from fastapi import HTTPException
from jinja2 import TemplateError
from torch import Tensor

from harness.serving.serve import serve
from llm_model_benchmarking.generation import Prompt, Sampler, TextStream, Token
from llm_model_benchmarking.model import (
    DEFAULT_MODEL,
    ModelNotFoundError,
    cache_bytes_per_token,
    load,
    resolved,
    weight_bytes_per_token,
    weights,
)
from llm_model_benchmarking.openai_chat import OpenAIChat
from llm_model_benchmarking.prompts import chat_ids

WARM_UP_LENGTHS = (1, 7, 48)  # tokens of a prompt
WARM_UP_TOKENS = 4


class BaselineAPI(litserve.LitAPI):
    """OpenAI's chat completions, one at a time; see llm_model_benchmarking.openai_chat for what goes in and out.

    Attributes (measured in setup):
        load_s: seconds it took to load the model.
        model_bytes: its weights and buffers.
        weight_bytes_per_token, cache_bytes_per_token: see llm_model_benchmarking.model.
    """

    figures = ("load_s", "model_bytes", "weight_bytes_per_token", "cache_bytes_per_token")

    def add_flags(self, parser: argparse.ArgumentParser) -> None:
        add = parser.add_argument
        add("--model", help=f"hub id, folder, or random:<shape> (default: {DEFAULT_MODEL}, else random weights)")
        add("--dtype", default="bfloat16", choices=("bfloat16", "float16", "float32"), help="(default: %(default)s)")
        add("--max-context", type=int, default=512, help="tokens of prompt and answer (default: %(default)s)")
        add("--ignore-eos", action="store_true", help="never end before max_tokens: answers of equal length")

    def configure(self, options: argparse.Namespace) -> dict[str, Any]:
        """Take over the flags; returns what /info tells about them."""
        try:
            self.model_name = resolved(options.model)
        except ModelNotFoundError as error:
            sys.exit(str(error))
        if weights(self.model_name) == "random":
            print(f"RANDOM WEIGHTS ({self.model_name}): the speed is that of the shape, the text is noise", flush=True)
        self.dtype, self.max_context, self.ignore_eos = options.dtype, options.max_context, options.ignore_eos
        return {
            "model": self.model_name, "weights": weights(self.model_name), "dtype": self.dtype,
            "max_context": self.max_context, "ignore_eos": self.ignore_eos,
        }  # fmt: skip

    def setup(self, device: str) -> None:
        began = time.perf_counter()
        self.tokenizer, self.model = load(self.model_name, device, getattr(torch, self.dtype), **self.loading())
        self.load_s = time.perf_counter() - began
        positions = self.model.config.max_position_embeddings
        if self.max_context > positions:
            raise ValueError(f"--max-context {self.max_context}: this model has {positions} positions")
        self.model_bytes = self.model.get_memory_footprint()
        self.weight_bytes_per_token = weight_bytes_per_token(self.model)
        self.cache_bytes_per_token = cache_bytes_per_token(self.model)
        ends = self.model.generation_config.eos_token_id
        self.ends = set(ends if isinstance(ends, list) else [ends])
        suppressed = {*(self.model.generation_config.suppress_tokens or []), *(self.ends if self.ignore_eos else ())}
        self.suppressed = torch.tensor(sorted(suppressed), dtype=torch.long, device=self.model.device)
        self.warm_up()

    def loading(self) -> dict[str, Any]:
        """What from_pretrained is told besides the type of the weights."""
        return {}

    def warm_up(self) -> None:
        """Generate a little, so that the first request finds everything loaded; /health answers after this."""
        for length in WARM_UP_LENGTHS:
            ids = [id_ % self.model.config.vocab_size for id_ in range(5, 5 + length)]
            for _ in self.predict(Prompt(ids, WARM_UP_TOKENS)):
                pass

    def decode_request(self, request: dict) -> Prompt:
        """The prompt of a request; HTTPException 400 if it does not fit into the context."""
        try:
            ids = chat_ids(self.tokenizer, request["messages"])
        except TemplateError as error:  # some formats want roles to alternate, or know no system message
            raise HTTPException(400, f"messages: the model's chat format refuses them: {error}") from error
        room, wanted = self.max_context - len(ids), request["max_tokens"]
        if room < (wanted or 1):
            asked = f" and {wanted} to generate" if wanted else ""
            raise HTTPException(
                400, f"the messages take {len(ids)} tokens{asked}; the context holds {self.max_context}"
            )
        return Prompt(
            ids, wanted or room, request["temperature"], request["top_p"], tuple(request["stop"]), request["seed"],
            request["ticket"],
        )  # fmt: skip

    def predict(self, prompt: Prompt) -> Iterator[Token]:
        choose = Sampler(prompt, self.suppressed)
        logits = self.prefill(torch.tensor([prompt.ids], device=self.model.device))
        for remaining in reversed(range(prompt.max_tokens)):
            chosen = choose(logits)
            id_ = int(chosen)
            reason = "stop" if id_ in self.ends else None if remaining else "length"
            yield Token(prompt, id_, reason)
            if reason or (prompt.ticket is not None and self.spec.has_left(prompt.ticket)):
                return
            logits = self.decode(chosen.view(1, 1))

    def prefill(self, ids: Tensor) -> Tensor:
        """(1, n) prompt to the (vocabulary,) logits of the next token, with a cache that grows from here on."""
        from transformers import DynamicCache  # loaded by now; the server's main process does without

        self.cache = DynamicCache(config=self.model.config)
        return self.forward(ids)

    def decode(self, token: Tensor) -> Tensor:
        """(1, 1) last token to the (vocabulary,) logits of the next one."""
        return self.forward(token)

    @torch.no_grad()
    def forward(self, ids: Tensor) -> Tensor:
        """(1, n) tokens that follow what is in the cache to the (vocabulary,) logits after the last of them."""
        return self.model(ids, cache=self.cache, use_cache=True, logits_to_keep=1).logits[0, -1]

    def encode_response(self, tokens: Iterator[Token]) -> Iterator[dict]:
        text = None
        for token in tokens:
            text = text or TextStream(self.tokenizer, token.prompt.stop)
            piece = text.add(token.id)
            reason = "stop" if text.stopped else token.finish_reason
            if reason and not text.stopped:
                piece += text.rest()
            yield {
                "text": piece, "token_id": token.id, "finish_reason": reason, "prompt_tokens": len(token.prompt.ids),
            }  # fmt: skip
            if reason:
                return


if __name__ == "__main__":
    serve(BaselineAPI(spec=OpenAIChat()))
