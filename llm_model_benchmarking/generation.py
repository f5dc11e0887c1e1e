"""What a generation consists of: the prompt, the choice of a token, text as tokens come."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
from tokenizers.decoders import DecodeStream
from torch import Tensor

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LEAST_TEMPERATURE = 0.01  # below, probabilities overflow; only the first choice is left anyway


@dataclass(frozen=True)
class Prompt:
    """A request, ready to generate.

    Attributes:
        ids: of the prompt's tokens.
        max_tokens: the most tokens to generate.
        temperature: 0 for the most likely token each time.
        top_p: sample from the likeliest tokens that together have this probability.
        stop: texts that end the answer and are not part of it.
        seed: of the sampling; None for another answer each time.
        ticket: by which the client's leaving is known; None if nobody can leave.
    """

    ids: list[int]
    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    stop: tuple[str, ...] = ()
    seed: int | None = None
    ticket: int | None = None


class Token(NamedTuple):
    """One generated token; the last one of an answer says why it is."""

    prompt: Prompt
    id: int
    finish_reason: Literal["stop", "length"] | None


class Sampler:
    """Chooses tokens as a prompt asks, never one that is suppressed."""

    def __init__(self, prompt: Prompt, suppressed: Tensor) -> None:
        self.temperature, self.top_p, self.suppressed = prompt.temperature, prompt.top_p, suppressed
        self.random = None
        if prompt.temperature > 0:
            self.random = torch.Generator(suppressed.device)
            self.random.seed() if prompt.seed is None else self.random.manual_seed(prompt.seed)

    @torch.no_grad()
    def __call__(self, logits: Tensor) -> Tensor:
        """(vocabulary,) logits to the chosen id, a tensor of shape (1,) on the same device."""
        if len(self.suppressed):
            logits = logits.index_fill(0, self.suppressed, float("-inf"))
        if self.random is None:
            return logits.argmax(dim=0, keepdim=True)
        temperature = max(self.temperature, LEAST_TEMPERATURE)
        probabilities = torch.softmax(logits.float() / temperature, dim=0)
        if self.top_p < 1:
            ranked, order = probabilities.sort(descending=True)
            beyond = ranked.cumsum(0) - ranked >= self.top_p  # those before it have it all already
            kept = ranked.masked_fill(beyond, 0)
            probabilities = torch.zeros_like(probabilities).scatter(0, order, kept)
        return torch.multinomial(probabilities, 1, generator=self.random)


class TextStream:
    """Text of tokens as they come: whole characters only, and nothing of a stop text.

    Attributes:
        stopped: whether a stop text has come up.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", stop: Sequence[str]) -> None:
        self.tokenizer, self.stop = tokenizer, stop
        self.stream = DecodeStream(skip_special_tokens=True)
        self.ids: list[int] = []
        self.decoded = 0  # characters that the stream has given
        self.held = ""  # text that may turn out to begin a stop text
        self.stopped = False

    def add(self, id_: int) -> str:
        """The text that this token makes certain; empty if it completes nothing."""
        self.ids.append(id_)
        piece = self.stream.step(self.tokenizer.backend_tokenizer, id_) or ""
        self.decoded += len(piece)
        return self.certain(piece)

    def rest(self) -> str:
        """What is left when no token follows: text held back, bytes that are no whole character."""
        tail = self.tokenizer.decode(self.ids, skip_special_tokens=True)[self.decoded :]
        return self.certain(tail) + self.held

    def certain(self, piece: str) -> str:
        """What of the held text and this piece lies before a stop text, or cannot begin one."""
        text = self.held + piece
        ends = [at for stop in self.stop if (at := text.find(stop)) >= 0]
        if ends:
            self.held, self.stopped = "", True
            return text[: min(ends)]
        sizes = ((stop, size) for stop in self.stop for size in range(1, len(stop)))
        keep = max((size for stop, size in sizes if text.endswith(stop[:size])), default=0)
        self.held = text[len(text) - keep :]
        return text[: len(text) - keep]
