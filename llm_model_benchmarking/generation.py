"""What a generation consists of: the prompt, the choice of a token, text as tokens come."""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
from tokenizers.decoders import DecodeStream
from torch import Tensor

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BYTE = re.compile("<0x[0-9A-F]{2}>")  # how a vocabulary with byte fallback writes one
LEAST_TEMPERATURE = 0.01  # below, probabilities overflow; only the first choice is left anyway
LIKELIEST = 512  # tokens, most often top_p together; to sort all 49,152 takes 15 times as long


@dataclass(frozen=True)
class Prompt:
    """A request, ready to generate.

    Attributes:
        ids: of the prompt's tokens.
        max_tokens: the most tokens to generate.
        min_tokens: until so many are generated, neither an end token nor a stop text ends the
            answer.
        temperature: 0 for the most likely token each time.
        top_p: sample from the likeliest tokens that together have this probability.
        top_k: sample from so many of the likeliest tokens; below 1, from all.
        min_p: sample from tokens at least so likely, as a share of the likeliest's probability.
        repetition_penalty: divides positive logits of tokens of prompt and answer, multiplies
            negative ones (Keskar et al., 2019).
        presence_penalty, frequency_penalty: subtracted from the logits of tokens of the answer,
            once, and as often as they are in it.
        logit_bias: added to the logits of these token ids.
        stop: texts that end the answer and are not part of it.
        stop_token_ids: likewise, besides the model's own end tokens.
        ignore_eos: whether the model's own end tokens are never chosen; None for the server's way.
        seed: of the sampling; None for another answer each time.
        ticket: by which the client's leaving is known; None if nobody can leave.
    """

    ids: list[int]
    max_tokens: int
    min_tokens: int = 0
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    stop: Sequence[str] = ()
    stop_token_ids: Sequence[int] = ()
    ignore_eos: bool | None = None
    seed: int | None = None
    ticket: int | None = None


class Token(NamedTuple):
    """One generated token; the last one of an answer says why it is."""

    prompt: Prompt
    id: int
    finish_reason: Literal["stop", "length"] | None


class Sampler:
    """Chooses the tokens of one answer as its prompt asks.

    Args:
        suppressed: ids that are never chosen.
        ends: ids that are not chosen before `min_tokens` others are.
    """

    def __init__(self, prompt: Prompt, suppressed: Tensor, ends: Collection[int] = ()) -> None:
        self.suppressed, self.min_tokens, self.chosen = suppressed, prompt.min_tokens, 0
        self.suppressed_at_first = suppressed
        if prompt.min_tokens:
            self.suppressed_at_first = torch.cat([suppressed, torch.tensor([*ends]).to(suppressed)])
        self.weights = Weights(prompt, suppressed.device) if is_weighted(prompt) else None
        self.random, self.warpers = None, []
        if prompt.temperature > 0:
            self.warpers = warpers(prompt)
            self.random = torch.Generator(suppressed.device)
            self.random.seed() if prompt.seed is None else self.random.manual_seed(prompt.seed)

    @torch.no_grad()
    def __call__(self, logits: Tensor) -> Tensor:
        """(vocabulary,) logits to the chosen id, a tensor of shape (1,) on the same device."""
        if self.weights:
            logits = self.weights.applied(logits)
        enough = self.chosen >= self.min_tokens
        suppressed = self.suppressed if enough else self.suppressed_at_first
        if len(suppressed):
            logits = logits.index_fill(0, suppressed, float("-inf"))
        # max() finds the same index as argmax(), the first one, in a quarter of the time
        chosen = logits.max(0, keepdim=True).indices if self.random is None else self.drawn(logits)
        self.chosen += 1
        if self.weights:
            self.weights.add(chosen)
        return chosen

    def drawn(self, logits: Tensor) -> Tensor:
        """A random id of those that are likely enough."""
        scores = logits.float()[None]
        for warper in self.warpers:
            scores = warper(None, scores)
        cumulative = scores[0].softmax(0).cumsum(0)  # multinomial() would draw a number per token
        share = 1 - torch.rand(1, generator=self.random, device=scores.device)  # above 0, up to 1
        return torch.searchsorted(cumulative, share * cumulative[-1])


def warpers(prompt: Prompt) -> list[Callable[[None, Tensor], Tensor]]:
    """What narrows down the tokens to sample from, (1, vocabulary) logits each: transformers' own,
    in the order of its `generate`.
    """
    from transformers import generation  # loaded by now; the main process does without

    wanted = [generation.TemperatureLogitsWarper(max(float(prompt.temperature), LEAST_TEMPERATURE))]
    if prompt.top_k > 0:
        wanted.append(generation.TopKLogitsWarper(prompt.top_k))
    if prompt.top_p < 1:
        wanted.append(TopPWarper(prompt.top_p))
    if prompt.min_p > 0:
        wanted.append(generation.MinPLogitsWarper(prompt.min_p))
    return wanted


class TopPWarper:
    """transformers' TopPLogitsWarper, which sorts the whole vocabulary: here only if the likeliest
    tokens do not have the probability `top_p` together.
    """

    def __init__(self, top_p: float) -> None:
        from transformers import generation

        self.top_p, self.sorting_all = top_p, generation.TopPLogitsWarper(top_p)

    def __call__(self, _: None, scores: Tensor) -> Tensor:
        """(1, vocabulary) logits to the same, but -inf for tokens that are not likely enough."""
        probabilities, ids = scores.softmax(1).topk(min(LIKELIEST, scores.shape[1]))
        cumulative = probabilities.cumsum(1)
        if cumulative[0, -1] < self.top_p:
            return self.sorting_all(None, scores)
        kept = ids[0, cumulative[0] - probabilities[0] < self.top_p]
        return torch.full_like(scores, float("-inf")).index_copy(1, kept, scores[:, kept])


def is_weighted(prompt: Prompt) -> bool:
    """Whether the tokens of prompt and answer, or a bias, change what is chosen."""
    penalised = prompt.presence_penalty or prompt.frequency_penalty
    return bool(prompt.logit_bias or penalised or prompt.repetition_penalty != 1)


class Weights:
    """Bias and penalties of one answer, in float32: not rounded to the precision of the model's
    weights.
    """

    def __init__(self, prompt: Prompt, device: torch.device) -> None:
        self.prompt = prompt
        self.answer = torch.empty(0, dtype=torch.long, device=device)
        self.seen = torch.tensor(prompt.ids, dtype=torch.long, device=device)
        self.biased = torch.tensor([*prompt.logit_bias], dtype=torch.long, device=device)
        self.bias = torch.tensor([*prompt.logit_bias.values()], device=device).float()

    def applied(self, logits: Tensor) -> Tensor:
        """(vocabulary,) logits with bias and penalties, in vLLM's order."""
        prompt = self.prompt
        logits = logits.float().index_add(0, self.biased, self.bias)
        if prompt.repetition_penalty != 1:
            seen = logits[self.seen]
            divided, multiplied = seen / prompt.repetition_penalty, seen * prompt.repetition_penalty
            logits[self.seen] = torch.where(seen > 0, divided, multiplied)
        if prompt.presence_penalty or prompt.frequency_penalty:
            counts = torch.bincount(self.answer, minlength=len(logits))
            logits -= prompt.frequency_penalty * counts + prompt.presence_penalty * (counts > 0)
        return logits

    def add(self, chosen: Tensor) -> None:
        """A token, of shape (1,), belongs to the answer from now on."""
        self.answer = torch.cat([self.answer, chosen])
        self.seen = torch.cat([self.seen, chosen])


class TextStream:
    """Text of tokens as they come: whole characters only, and nothing of a stop text.

    Args:
        min_tokens: in the text of so many tokens, no stop text counts.

    Attributes:
        stopped: whether a stop text has come up.
    """

    def __init__(
        self, tokenizer: "PreTrainedTokenizerBase", stop: Sequence[str], min_tokens: int = 0
    ) -> None:
        self.tokenizer, self.stop, self.min_tokens = tokenizer, stop, min_tokens
        self.stream = DecodeStream(skip_special_tokens=True)
        self.ids: list[int] = []
        self.stepped = 0  # ids that the stream has taken
        self.decoded = 0  # characters that it has given
        self.held = ""  # text that may turn out to begin a stop text
        self.stopped = False

    def add(self, id_: int) -> str:
        """The text that this token makes certain; empty if it completes nothing."""
        self.ids.append(id_)
        if self.is_open(id_):
            return ""
        ids = self.ids[self.stepped :]
        piece = self.stream.step(self.tokenizer.backend_tokenizer, ids) or ""
        return self.given(piece)

    def is_open(self, id_: int) -> bool:
        """Whether text that ends in this token may still change.

        Tokens of one byte (Llama 2, Gemma) are decoded as a run: one that is not valid UTF-8 turns
        the whole run into replacement characters. Tokens without text do not end it.
        """
        tokenizer = self.tokenizer.backend_tokenizer
        return bool(BYTE.fullmatch(tokenizer.id_to_token(id_) or "")) or not tokenizer.decode([id_])

    def rest(self) -> str:
        """What is left when no token follows: text held back, bytes that are no whole character."""
        tail = self.tokenizer.decode(self.ids, skip_special_tokens=True)[self.decoded :]
        return self.given(tail) + self.held

    def given(self, piece: str) -> str:
        """What is certain of the text of the latest ids, none of it searched before min_tokens."""
        free = len(piece) if len(self.ids) <= self.min_tokens else 0
        if self.stepped < self.min_tokens < len(self.ids):
            first = self.tokenizer.decode(self.ids[: self.min_tokens], skip_special_tokens=True)
            free = max(0, len(first) - self.decoded)
        self.stepped, self.decoded = len(self.ids), self.decoded + len(piece)
        return piece[:free] + self.certain(piece[free:])

    def certain(self, piece: str) -> str:
        """What of the held text and this piece lies before a stop text, or cannot begin one."""
        text = self.held + piece
        ends = [at for stop in self.stop if (at := text.find(stop)) >= 0]
        if ends:
            self.held, self.stopped = "", True
            return text[: min(ends)]
        keep = max((begun(stop, text) for stop in self.stop), default=0)
        self.held = text[len(text) - keep :]
        return text[: len(text) - keep]


def begun(stop: str, text: str) -> int:
    """How many characters at the end of a text may be the beginning of a stop text."""
    starts = range(max(0, len(text) - len(stop) + 1), len(text))
    return next((len(text) - at for at in starts if stop.startswith(text[at:])), 0)
