"""Baseline: bfloat16 weights, a cache that grows token by token, all launched from Python.

python llm_model_benchmarking/server_baseline.py --port 8000
"""

import argparse
import sys
import time
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import litserve
import torch
from fastapi import HTTPException
from fastapi.responses import JSONResponse
from jinja2 import TemplateError
from torch import Tensor

from harness.serving.serve import serve
from harness.serving.served_api import CannotServeError, ServedAPI
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
from llm_model_benchmarking.openai_request import refused, shown
from llm_model_benchmarking.prompts import chat_ids

DTYPES = ("bfloat16", "float16", "float32")
WARM_UP_LENGTHS = (1, 7, 48)  # tokens of a prompt
WARM_UP_TOKENS = 4


class UnfitContextError(CannotServeError):
    """The context asked for is longer than the model's."""


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
            raise UnfitContextError(
                f"--max-context {self.max_context}: this model has {positions} positions"
            )
        self.model_bytes = self.model.get_memory_footprint()
        self.weight_bytes_per_token = weight_bytes_per_token(self.model)
        self.cache_bytes_per_token = cache_bytes_per_token(self.model)
        self.longest_token = max(map(len, self.tokenizer.get_vocab()))
        self.choose_ends(self.model.generation_config)
        try:
            self.warm_up()
        except torch._dynamo.exc.BackendCompilerFailed as error:
            reason = str(error).strip().partition("\n")[0]
            if "No working C++ compiler" in reason:
                reason = "there is no C++ compiler; install g++"
            raise CannotServeError(f"torch.compile cannot compile the model: {reason}") from error

    def choose_ends(self, generation_config: Any) -> None:
        """The tokens that end an answer, and those that are never chosen."""
        ends = generation_config.eos_token_id
        self.ends = {*(ends if isinstance(ends, list) else [ends]), self.tokenizer.eos_token_id}
        self.ends.discard(None)
        self.never = {*(generation_config.suppress_tokens or [])}

    def ends_of(self, prompt: Prompt) -> tuple[set[int], Tensor]:
        """The tokens that end the answer to this prompt, and those never chosen in it."""
        ignored = self.ignore_eos if prompt.ignore_eos is None else prompt.ignore_eos
        ends, never = {*prompt.stop_token_ids}, self.never
        if ignored:
            never = never | self.ends - ends
        else:
            ends |= self.ends
        return ends, torch.tensor(sorted(never), dtype=torch.long, device=self.model.device)

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
        """The prompt of a request; HTTPException 400 if it does not fit the model or its context,
        499, which nobody reads, if its client has left.
        """
        messages, ticket = request.pop("messages"), request.pop("ticket")
        if self.spec.has_left(ticket):
            raise HTTPException(499, "the client has left")
        ids, longest = self.prompt_ids(messages), request.pop("max_tokens")
        room = self.max_context - len(ids)
        if room < (longest or 1):
            more = f" and {shown(longest)} to generate" if longest else ""
            raise self.too_long(f"the messages take {len(ids)} tokens{more}")
        if request["min_tokens"] > (longest or room):
            least = shown(request["min_tokens"])
            reason = f"min_tokens is {least}, and {longest or room} is the most"
            raise refused(reason, "min_tokens")
        request["logit_bias"] = {int(id_): bias for id_, bias in request["logit_bias"].items()}
        for name in ("logit_bias", "stop_token_ids"):
            self.refuse_unknown(name, request[name])
        return Prompt(ids, longest or room, ticket=ticket, **request)

    def prompt_ids(self, messages: list[dict[str, str]]) -> list[int]:
        """The ids of a chat; HTTPException 400 if its format cannot hold it, or it is far longer
        than the context: nobody waits for the other requests while minutes of text are tokenised.
        """
        characters = sum(len(message["content"]) for message in messages)
        if len(messages) + characters / self.longest_token > self.max_context:
            raise self.too_long(f"the messages have {characters:,} characters")
        try:
            return chat_ids(self.tokenizer, messages)
        except TemplateError as error:  # some formats want roles to alternate, or no system message
            reason = f"messages: the model's chat format refuses them: {error}"
            raise refused(reason, "messages") from error

    def too_long(self, what: str) -> HTTPException:
        """What is answered to more than the context holds."""
        reason = f"{what}; the context holds {self.max_context} tokens"
        return refused(reason, "messages", "context_length_exceeded")

    def refuse_unknown(self, name: str, ids: Collection[int]) -> None:
        """HTTPException 400 if the model has no token of one of these ids."""
        last = self.model.config.vocab_size - 1
        if any(id_ > last for id_ in ids):
            raise refused(f"{name}: {max(ids)} is no token; the model has 0 to {last}", name)

    def predict(self, prompt: Prompt) -> Iterator[Token]:
        ends, never = self.ends_of(prompt)
        choose = Sampler(prompt, never, ends)
        logits = self.prefill(torch.tensor([prompt.ids], device=self.model.device))
        for remaining in reversed(range(prompt.max_tokens)):
            chosen = choose(logits)
            id_ = int(chosen)
            reason = "stop" if id_ in ends else None if remaining else "length"
            yield Token(prompt, id_, reason)
            if reason or self.has_left(prompt):
                return
            logits = self.decode(chosen.view(1, 1))

    def has_left(self, prompt: Prompt) -> bool:
        """Whether the client that sent this prompt is gone."""
        return prompt.ticket is not None and self.spec.has_left(prompt.ticket)

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
            text = text or TextStream(self.tokenizer, token.prompt.stop, token.prompt.min_tokens)
            piece = "" if token.finish_reason == "stop" else text.add(token.id)
            if token.finish_reason and not text.stopped:
                piece += text.rest()
            reason = "stop" if text.stopped else token.finish_reason
            if reason:
                tokens.close()  # nobody makes more while this last one is sent
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
