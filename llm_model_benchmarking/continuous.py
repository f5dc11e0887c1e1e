"""Continuous batching: sequences that share each step of a model, and join and leave between steps.

Scheduling by iteration as in Orca (Yu et al., 2022); prompts come in by parts, in the same passes
as the tokens of the others, as in Sarathi (Agrawal et al., 2023): the weights are read once.
"""

from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor

from llm_model_benchmarking.generation import Prompt, Token

PROMPT_TOKENS = 64  # of a prompt in one pass, the most: the other sequences wait for them


class Step(Protocol):
    """A model and its cache of several slots (llm_model_benchmarking.fused_step)."""

    lengths: list[int]

    def prefill(self, slot: int, ids: Tensor) -> Tensor: ...

    def decode(self, tokens: Tensor) -> Tensor: ...

    def decode_and_prefill(self, tokens: Tensor, ids: Tensor) -> Tensor: ...

    def move(self, source: int, target: int) -> None: ...


class Answer(Iterator[Token]):
    """The tokens of one answer, as they are made; whoever asks for one that is not made yet runs
    the engine, for all.

    Attributes:
        tokens: made, and not yet asked for.
        filled: tokens of the prompt that are in the cache.
        remaining: tokens that it may still have.
        ended: nothing is made any more.
        error: why not, if something failed.
    """

    def __init__(
        self,
        engine: "Engine",
        prompt: Prompt,
        choose: Callable[[Tensor], Tensor],
        ends: Collection[int],
    ) -> None:
        self.engine, self.prompt, self.choose, self.ends = engine, prompt, choose, ends
        self.tokens: deque[Token] = deque()
        self.filled, self.remaining = 0, prompt.max_tokens
        self.last = -1
        self.ended, self.error = False, None

    @property
    def ready(self) -> bool:
        return bool(self.tokens) or self.ended

    def __next__(self) -> Token:
        while not self.ready:
            self.engine.run()
        if self.tokens:
            return self.tokens.popleft()
        if self.error:
            raise self.error
        raise StopIteration

    def close(self) -> None:
        """Free its slot; what is not asked for yet is dropped."""
        self.engine.leave(self)
        self.tokens.clear()

    def add(self, id_: int) -> None:
        """A token has been chosen; the last one frees the slot."""
        self.last, self.remaining = id_, self.remaining - 1
        reason = "stop" if id_ in self.ends else None if self.remaining else "length"
        self.tokens.append(Token(self.prompt, id_, reason))
        if reason:
            self.engine.leave(self)


class Engine:
    """Runs all answers at once: a row each, which is a slot of the cache. The first `decoding` rows
    have their whole prompt there; one more may be getting it, part by part.

    Args:
        step: its slots are the most rows.
        device: of the model.
        has_left: whether nobody waits for the answer to this prompt any more.
    """

    def __init__(
        self,
        step: Step,
        device: torch.device,
        has_left: Callable[[Prompt], bool] = lambda _: False,
    ) -> None:
        self.step, self.device, self.has_left = step, device, has_left
        self.rows: list[Answer] = []
        self.decoding = 0
        self.waiting: deque[Answer] = deque()

    def join(
        self, prompt: Prompt, choose: Callable[[Tensor], Tensor], ends: Collection[int]
    ) -> Answer:
        """The answer to a prompt, begun as soon as there is a row for it.

        Args:
            choose: (vocabulary,) logits to the chosen id, of shape (1,).
            ends: tokens that end it.
        """
        answer = Answer(self, prompt, choose, ends)
        self.waiting.append(answer)
        return answer

    def run(self) -> None:
        """One pass: a token for each row whose prompt is in the cache, and a part of the prompt of
        one more.

        What fails ends the answers it concerns, which raise it.
        """
        for answer in [*self.rows, *self.waiting]:
            if self.has_left(answer.prompt):
                answer.close()
        if self.waiting and self.decoding == len(self.rows) < len(self.step.lengths):
            self.step.lengths[len(self.rows)] = 0
            self.rows.append(self.waiting.popleft())
        if self.rows:
            try:
                logits = self.logits()
            except Exception as error:
                self.fail([*self.rows], error)
            else:
                self.choose(self.rows[: self.decoding], logits)

    def logits(self) -> Tensor:
        """(rows, vocabulary) after the last token of each row that decodes and, if one has its
        prompt coming in, after the next part of that; it decodes once it has the whole.
        """
        decoding, coming = self.rows[: self.decoding], self.rows[self.decoding :]
        tokens = torch.tensor([[answer.last] for answer in decoding], device=self.device)
        if not coming:
            return self.step.decode(tokens)
        (answer,) = coming
        part = answer.prompt.ids[answer.filled : answer.filled + PROMPT_TOKENS]
        ids = torch.tensor([part], device=self.device)
        alone = not decoding
        logits = (
            self.step.prefill(0, ids)[None] if alone else self.step.decode_and_prefill(tokens, ids)
        )
        answer.filled += len(part)
        self.decoding += answer.filled == len(answer.prompt.ids)
        return logits

    def choose(self, answers: Sequence[Answer], logits: Tensor) -> None:
        """Add to each answer the token that it chooses from its row of (rows, vocabulary)."""
        for answer, row in zip(answers, logits, strict=False):
            try:
                answer.add(int(answer.choose(row)))
            except Exception as error:
                self.fail([answer], error)

    def fail(self, answers: Sequence[Answer], error: Exception) -> None:
        for answer in answers:
            answer.error = error
            self.leave(answer)

    def leave(self, answer: Answer) -> None:
        """End an answer; the last row that decodes moves into its place, and the one whose prompt
        comes in into that one's.
        """
        answer.ended = True
        if answer in self.waiting:
            self.waiting.remove(answer)
        if answer not in self.rows:
            return
        free, last = self.rows.index(answer), self.decoding - 1
        self.decoding -= free <= last
        for source in (last, len(self.rows) - 1):
            if source > free:
                self.step.move(source, free)
                self.rows[free], free = self.rows[source], source
        self.rows.pop()
