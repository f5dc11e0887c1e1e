"""The variants without a server: exact prompts, the baseline's answers, speed, fidelity, bandwidth.

Variants are loaded when first asked for, and stay.
"""

import argparse
import contextlib
import gc
import io
import logging
import os
import sys
import time
from collections.abc import Iterator
from functools import cache
from unittest.mock import patch

import numpy
import torch

from harness.process.module_command import CACHE, compiler_cache
from harness.serving.serve import accelerator, api_class
from harness.serving.served_api import CannotServeError
from llm_model_benchmarking.generation import Prompt
from llm_model_benchmarking.model import ModelNotFoundError, resolved
from llm_model_benchmarking.prompts import chat_ids, prompts_of
from llm_model_benchmarking.server_baseline import BaselineAPI, UnfitContextError

TEXT = (
    "The harbour was quiet when the first boats came in. On the stones lay nets, ropes and "
    "baskets, and somebody had left a lamp burning although the sun was up. A girl counted the "
    "fish aloud, lost her place, laughed and began."
)
TEXT_TOKENS = 24
BANDWIDTH_BYTES, BANDWIDTH_COLUMNS, BANDWIDTH_REPEATS = 1 << 30, 4096, 8
IN_PROCESS_S = 3.0

apis: dict[str, BaselineAPI] = {}
loading: dict[str, tuple[str, ...] | str] = {}  # flags and accelerator of all of them


def load_with(flags: tuple[str, ...], accelerator: str) -> None:
    """Load variants with these flags of the server scripts, on this accelerator."""
    loading.update(flags=flags, accelerator=accelerator)


@contextlib.contextmanager
def builtin_errors() -> Iterator[None]:
    """Raise OSError for a missing model, ValueError for a context too long, RuntimeError for what
    else keeps a server from starting: the asking process would load torch to know our own.
    """
    try:
        yield
    except CannotServeError as error:
        kinds = {ModelNotFoundError: OSError, UnfitContextError: ValueError}
        raise kinds.get(type(error), RuntimeError)(str(error)) from None


def model_name(asked: str | None) -> str:
    """The model that servers will load; OSError if it does not exist."""
    with builtin_errors():
        return resolved(asked)


def api(variant: str) -> BaselineAPI:
    """A variant, loaded if it is not yet: the process that did it may have died since."""
    if variant not in apis:
        set_up(variant)
    return apis[variant]


def set_up(variant: str) -> dict[str, float]:
    """Load a variant as its server does, which has a process of its own: what another one has said
    about recompiling does not hold for it. Returns its setup metrics.

    Raises OSError if the model cannot be loaded, ValueError if the context is too long for it or
    there is no such accelerator, RuntimeError if it cannot be compiled.
    """
    script = f"{__package__}.server_{variant}"
    made = api_class(script)()
    # As in a server's worker: before Python 3.13, what torch.compile looks for in its cache is
    # pickled by way of the first module that holds torch, which there is the script.
    sys.modules["__mp_main__"] = sys.modules[script]
    parser = argparse.ArgumentParser()
    made.add_flags(parser)
    with contextlib.redirect_stdout(io.StringIO()):  # the benchmark has said it about the weights
        made.configure(parser.parse_args(loading["flags"]))
    # what runs without a GPU beside a CUDA toolkit is no news to who asked for the CPU
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    torch.compiler.set_stance("default")
    with builtin_errors(), patch.dict(os.environ, compiled_by(script)):
        made.setup(accelerator(loading["accelerator"]))
    apis[variant] = made
    return {name: getattr(made, name) for name in made.setup_metrics}


def compiled_by(script: str) -> dict[str, str]:
    """The environment in which torch.compile finds what this server script has compiled; where it
    has not been launched, another folder than its own, for its first launch has yet to pay.
    """
    folder = os.environ.get(CACHE)
    theirs = compiler_cache(script, folder)
    is_there = all(map(os.path.isdir, theirs.values()))
    return theirs if is_there else compiler_cache(f"{script}.reference", folder)


def chats(tokens: int, count: int, seed: int) -> list[list[dict[str, str]]]:
    """Different chats of exactly so many tokens; ValueError if there are none."""
    return prompts_of(api("baseline").tokenizer, tokens, count, seed)


def generated(variant: str, chat: list[dict[str, str]], tokens: int) -> list[int]:
    """Ids of the greedy answer, as long as asked."""
    prompt = Prompt(chat_ids(api(variant).tokenizer, chat), tokens)
    return [token.id for token in api(variant).predict(prompt)]


def answers(variant: str, chats: list[list[dict[str, str]]], tokens: int) -> list[list[int]]:
    """Ids of its greedy answers to all chats."""
    return [generated(variant, chat, tokens) for chat in chats]


def forget(variant: str) -> None:
    """Free the memory of a variant."""
    apis.pop(variant, None)
    gc.collect()


def requests_per_second(variant: str, chats: list[list[dict[str, str]]], tokens: int) -> float:
    """How many answers one after the other take a second, tokenising included."""
    api(variant)  # before the clock starts
    done, began = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - began) < IN_PROCESS_S:
        generated(variant, chats[done % len(chats)], tokens)
        done += 1
    return done / elapsed


@cache
def log_probabilities(variant: str) -> numpy.ndarray:
    """(TEXT_TOKENS, vocabulary) float32: of the next token, after each token of a fixed text."""
    model = api(variant)
    ids = model.tokenizer.encode(TEXT)[:TEXT_TOKENS]
    # a tensor each, as the server has them: a slice's strides would be compiled for anew
    first, *others = [torch.tensor([[id_]], device=model.model.device) for id_ in ids]
    rows = [model.prefill(first).clone(), *(model.decode(token).clone() for token in others)]
    return torch.stack(rows).float().log_softmax(dim=1).cpu().numpy()


def kl_divergence(variant: str) -> float:
    """Mean over the fixed text of the Kullback-Leibler divergence KL(baseline || variant), nats."""
    baseline = log_probabilities("baseline")
    difference = baseline - log_probabilities(variant)
    return float((numpy.exp(baseline) * difference).sum(axis=1).mean())


@torch.no_grad()
def memory_bandwidth() -> float:
    """Bytes/s that the device reads from its memory in what a decoding step consists of: the best
    of several products of a large matrix with a vector, of the model's own type and of others.

    In one type alone the product may wait for arithmetic instead: without AMX, bfloat16 read 11 of
    29 GB/s, and the model's own kernels twice that.
    """
    model = api("baseline").model
    types = dict.fromkeys([model.dtype, torch.float16, torch.float32])
    return max(bytes_read_per_s(dtype, model.device) for dtype in types)


def bytes_read_per_s(dtype: torch.dtype, device: torch.device) -> float:
    """Bytes/s of a large matrix of this type that its product with a vector reads, at best."""
    vector = torch.ones(BANDWIDTH_COLUMNS, dtype=dtype, device=device)
    rows = BANDWIDTH_BYTES // vector.nbytes
    matrix = torch.ones(rows, BANDWIDTH_COLUMNS, dtype=dtype, device=device)
    seconds = []
    for _ in range(BANDWIDTH_REPEATS):
        began = time.perf_counter()
        float(torch.mv(matrix, vector)[-1])  # waits for the device
        seconds.append(time.perf_counter() - began)
    return matrix.nbytes / min(seconds)
