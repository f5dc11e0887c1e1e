"""Baseline: bfloat16 weights, a cache that grows token by token, all launched from Python.

python llm_model_benchmarking/server_baseline.py --port 8000
"""

import argparse
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any

import litserve
import torch
from fastapi import HTTPException
from fastapi.responses import JSONResponse
from jinja2 import TemplateError
from torch import Tensor

from harness.serving.serve import serve
from harness.serving.served_api import ServedAPI
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
from llm_model_benchmarking.openai_chat import OpenAIChat, error_response
from llm_model_benchmarking.prompts import chat_ids

DTYPES = ("bfloat16", "float16", "float32")
WARM_UP_LENGTHS = (1, 7, 48)  # tokens of a prompt
WARM_UP_TOKENS = 4


class BaselineAPI(litserve.LitAPI, ServedAPI):
    """OpenAI's chat completions, one at a time; llm_model_benchmarking.openai_chat says what goes
    in and out.

    Attributes (measured in setup):
        load_s: seconds it took to load the model.
        model_bytes: its weights and buffers.
        weight_bytes_per_token, cache_bytes_per_token: see llm_model_benchmarking.model.
    """

    setup_metrics = ("load_s", "model_bytes", "weight_bytes_per_token", "cache_bytes_per_token")

    def add_flags(self, parser: argparse.ArgumentParser) -> None:
        add = parser.add_argument
        default = f"{DEFAULT_MODEL}, else random weights"
        add("--model", help=f"hub id, folder, or random:<shape> (default: {default})")
        add("--dtype", default="bfloat16", choices=DTYPES, help="(default: %(default)s)")
        length = "tokens of prompt and answer (default: %(default)s)"
        add("--max-context", type=int, default=512, help=length)
        equal = "never end before max_tokens: answers of equal length"
        add("--ignore-eos", action="store_true", help=equal)

    def configure(self, options: argparse.Namespace) -> dict[str, Any]:
        """Take over the flags; returns what /info tells about them."""
        try:
            self.model_name = resolved(options.model)
        except ModelNotFoundError as error:
            sys.exit(str(error))
        if weights(self.model_name) == "random":
            meaning = "the speed is that of the shape, the text is noise"
            print(f"RANDOM WEIGHTS ({self.model_name}): {meaning}", flush=True)
        self.dtype, self.max_context = options.dtype, options.max_context
        self.ignore_eos = options.ignore_eos
        return {
            "model": self.model_name,
            "weights": weights(self.model_name),
            "dtype": self.dtype,
            "max_context": self.max_context,
            "ignore_eos": self.ignore_eos,
        }

    def refusal(
        self, status: int, message: str, headers: Mapping[str, str] | None = None
    ) -> JSONResponse:
        return error_response(status, message, headers)

    def setup(self, device: str) -> None:
        began = time.perf_counter()
        dtype = getattr(torch, self.dtype)
        self.tokenizer, self.model = load(self.model_name, device, dtype, **self.loading())
        self.load_s = time.perf_counter() - began
        positions = self.model.config.max_position_embeddings
        if self.max_context > positions:
            raise ValueError(
                f"--max-context {self.max_context}: this model has {positions} positions"
            )
        self.model_bytes = self.model.get_memory_footprint()
        self.weight_bytes_per_token = weight_bytes_per_token(self.model)
        self.cache_bytes_per_token = cache_bytes_per_token(self.model)
        self.choose_ends(self.model.generation_config)
        self.warm_up()

    def choose_ends(self, generation_config: Any) -> None:
        """The tokens that end an answer, and those that are never chosen."""
        ends = generation_config.eos_token_id
        self.ends = set(ends if isinstance(ends, list) else [ends])
        suppressed = {*(generation_config.suppress_tokens or [])}
        suppressed |= self.ends if self.ignore_eos else set()
        ids = sorted(suppressed)
        self.suppressed = torch.tensor(ids, dtype=torch.long, device=self.model.device)

    def loading(self) -> dict[str, Any]:
        """What from_pretrained is told besides the type of the weights."""
        return {}

    def warm_up(self) -> None:
        """Generate a little, so that the first request finds all loaded; /health waits for it."""
        for length in WARM_UP_LENGTHS:
            ids = [id_ % self.model.config.vocab_size for id_ in range(5, 5 + length)]
            for _ in self.predict(Prompt(ids, WARM_UP_TOKENS)):
                pass

    def decode_request(self, request: dict) -> Prompt:
        """The prompt of a request; HTTPException 400 if it does not fit into the context."""
        try:
            ids = chat_ids(self.tokenizer, request["messages"])
        except TemplateError as error:  # some formats want roles to alternate, or no system message
            reason = f"messages: the model's chat format refuses them: {error}"
            raise HTTPException(400, reason) from error
        room, wanted = self.max_context - len(ids), request["max_tokens"]
        if room < (wanted or 1):
            tokens = f"{len(ids)} tokens" + (f" and {wanted} to generate" if wanted else "")
            reason = f"the messages take {tokens}; the context holds {self.max_context}"
            raise HTTPException(400, reason)
        return Prompt(
            ids=ids,
            max_tokens=wanted or room,
            temperature=request["temperature"],
            top_p=request["top_p"],
            stop=tuple(request["stop"]),
            seed=request["seed"],
            ticket=request["ticket"],
        )

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
        """(1, n) prompt to the (vocabulary,) logits of the next token; begins a growing cache."""
        from transformers import DynamicCache  # loaded by now; the main process does without

        self.cache = DynamicCache(config=self.model.config)
        return self.forward(ids)

    def decode(self, token: Tensor) -> Tensor:
        """(1, 1) last token to the (vocabulary,) logits of the next one."""
        return self.forward(token)

    @torch.no_grad()
    def forward(self, ids: Tensor) -> Tensor:
        """(1, n) tokens that follow the cached ones to the (vocabulary,) logits after the last."""
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
                "text": piece,
                "token_id": token.id,
                "finish_reason": reason,
                "prompt_tokens": len(token.prompt.ids),
            }
            if reason:
                return


if __name__ == "__main__":
    serve(BaselineAPI(spec=OpenAIChat()))
