"""Continuous batching: many requests share each step, and join and leave it token by token.

python llm_model_benchmarking/server_continuous_batching.py --port 8000
"""

import argparse
import contextlib
import sys
from collections.abc import Iterator
from typing import Any

from harness.serving.serve import serve
from harness.serving.side_by_side import SideBySideLoop
from llm_model_benchmarking.continuous import Answer, Engine
from llm_model_benchmarking.generation import Prompt, Sampler, Token
from llm_model_benchmarking.openai_chat import OpenAIChat
from llm_model_benchmarking.server_fused_decoding import FusedDecodingAPI

SLOTS, MOST_SLOTS = 16, 1024


class ContinuousBatchingAPI(FusedDecodingAPI):
    """The step of fused_decoding for as many answers at once as there are slots; its loop asks for
    the tokens of all of them in turn.
    """

    def add_flags(self, parser: argparse.ArgumentParser) -> None:
        super().add_flags(parser)
        meaning = "answers made at once; each holds --max-context in memory"
        parser.add_argument(
            "--slots", type=int, default=SLOTS, help=f"{meaning} (default: %(default)s)"
        )

    def configure(self, options: argparse.Namespace) -> dict[str, Any]:
        if not 2 <= options.slots <= MOST_SLOTS:
            sys.exit(f"--slots must be 2 to {MOST_SLOTS}, not {options.slots}")
        self.max_batch_size = options.slots
        return super().configure(options) | {"slots": options.slots}

    def compile(self) -> None:
        from llm_model_benchmarking.fused_step import FusedStep

        slots = self.max_batch_size
        self.step = FusedStep(self.model, slots=slots, length=self.max_context)
        self.step.warm_up(range(1, slots + 1))
        self.engine = Engine(self.step, self.model.device, self.has_left)

    def begin(self, prompt: Prompt) -> Answer:
        ends, never = self.ends_of(prompt)
        return self.engine.join(prompt, Sampler(prompt, never, ends), ends)

    def predict(self, prompt: Prompt) -> Iterator[Token]:
        with contextlib.closing(self.begin(prompt)) as answer:
            yield from answer

    def advance(self) -> None:
        """A step for all answers: the loop calls it."""
        self.engine.run()


if __name__ == "__main__":
    serve(ContinuousBatchingAPI(spec=OpenAIChat(), loop=SideBySideLoop()))
