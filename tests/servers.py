"""Servers that tests of several files ask: how each is launched, and its tests kept together."""

import pytest

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
    """Parameters of a fixture, a server each; by their ids, `variant@kind`, the tests of one server
    find together (conftest).
    """
    return [pytest.param(variant, id=f"{variant}@{kind}") for variant in variants]
