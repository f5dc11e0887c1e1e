"""Servers that tests of several files ask: how each is launched, how its tests come together."""

import re
import sys
from contextlib import ExitStack

import pytest

from harness.process.launch import Server, running_server

NOWHERE = "cuda" if sys.platform == "darwin" else "mps"  # an accelerator that is not there
PAGE = "http://localhost:3000"  # may call the chat server from a browser


def mnist_server(variant: str) -> tuple[str, ...]:
    """The command of a variant of the classifier."""
    return f"mnist_model_benchmarking.server_{variant}", "--accelerator", "cpu"


def chat_server(variant: str) -> tuple[str, ...]:
    """The command of a variant of the language model, with random weights.

    In float32: in a shorter type, who shares a step with an answer decides how it is rounded.
    """
    flags = ["--model", "random:tiny", "--max-context", "256", "--accelerator", "cpu"]
    flags += ["--dtype", "float32", "--cors", PAGE]
    flags += ["--slots", "4"] if variant == "continuous_batching" else []
    return f"llm_model_benchmarking.server_{variant}", *flags


def one_by_one(kind: str, *variants: str) -> list:
    """Parameters of a fixture, a server each: `variant@kind` in the ids of its tests."""
    return [pytest.param(variant, id=f"{variant}@{kind}") for variant in variants]


def server_named(nodeid: str) -> str | None:
    """The server that a test of this id asks; None for one that shares none."""
    named = re.search(r"[\w:]+@\w+", nodeid)
    return named and named[0]


class LastServer:
    """The server that was launched last: it goes on while the same one is asked for."""

    def __init__(self) -> None:
        self.command: tuple[str, ...] | None = None
        self.running = ExitStack()

    def __call__(self, *command: str) -> Server:
        """As running_server."""
        if command != self.command:
            self.close()
            self.server = self.running.enter_context(running_server(*command))
            self.command = command
        return self.server

    def close(self) -> None:
        self.command = None
        self.running.close()
