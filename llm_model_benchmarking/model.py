"""The models that are served: SmolLM2, any causal LM of the hub or a folder, or random weights.

The weights of "random:<shape>" are drawn from a fixed seed: its speed is that of the shape, its
text is noise. transformers takes seconds to import, so only what loads a model imports it; a
server's main process never does.
"""

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

import huggingface_hub
import requests
import torch
from safetensors import SafetensorError

from harness.serving.served_api import CannotServeError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

DEFAULT_MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
RANDOM = "random:"
FALLBACK = f"{RANDOM}smollm2-135m"  # the shape of the default model
HUB_LIMIT_S = 3
LFS_HEAD = b"version https://git-lfs"
# RuntimeError: shapes that do not fit the configuration; UnpicklingError: an old .bin that is none.
LOADING_ERRORS = OSError, ValueError, RuntimeError, KeyError, SafetensorError, UnpicklingError
SMOLLM2 = {
    "vocab_size": 49152,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
    "rms_norm_eps": 1e-5,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 2,
}
# Layers, width, attention heads, key-value heads, width of the MLP, rope theta, from config.json.
SHAPES = {
    "smollm2-135m": (30, 576, 9, 3, 1536, 100_000.0),
    "smollm2-360m": (32, 960, 15, 5, 2560, 100_000.0),
    "smollm2-1.7b": (24, 2048, 32, 32, 8192, 130_000.0),
    "tiny": (2, 64, 4, 2, 128, 100_000.0),  # for tests
}


class ModelNotFoundError(CannotServeError):
    """A model cannot be loaded; the message names it and why."""


def resolved(asked: str | None) -> str:
    """The model to load: the one asked for, else the default one, else random weights of its shape.

    Raises ModelNotFoundError if the one asked for does not exist: asking never falls back.
    """
    if asked is None:
        return DEFAULT_MODEL if default_is_at_hand() else FALLBACK
    if asked.startswith(RANDOM):
        if asked.removeprefix(RANDOM) not in SHAPES:
            shapes = ", ".join(RANDOM + name for name in SHAPES)
            raise ModelNotFoundError(f"no such shape: {asked}; there are {shapes}")
        return asked
    from transformers import AutoConfig

    try:
        AutoConfig.from_pretrained(asked)
    except (OSError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise ModelNotFoundError(f"the model {asked} cannot be loaded: {reason}") from error
    return asked


def default_is_at_hand() -> bool:
    """Whether the default model is cached, or the hub answers within seconds."""
    cached = [
        huggingface_hub.try_to_load_from_cache(DEFAULT_MODEL, name)
        for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
    ]
    if all(isinstance(path, str) for path in cached):  # else None, or that it does not exist
        return True
    if huggingface_hub.constants.HF_HUB_OFFLINE:
        return False
    with contextlib.suppress(requests.RequestException):
        url = huggingface_hub.hf_hub_url(DEFAULT_MODEL, "config.json")
        return requests.head(url, timeout=HUB_LIMIT_S, allow_redirects=True).ok
    return False


def weights(model: str) -> str:
    """ "random" or "pretrained"."""
    return "random" if model.startswith(RANDOM) else "pretrained"


def load(
    name: str, device: str, dtype: torch.dtype, **options: Any
) -> tuple["PreTrainedTokenizerBase", "PreTrainedModel"]:
    """Tokenizer and model, ready to generate; options go to from_pretrained.

    Raises ModelNotFoundError if it is not there or has no chat template.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    with random_model(name) if name.startswith(RANDOM) else contextlib.nullcontext(name) as source:
        try:
            tokenizer = AutoTokenizer.from_pretrained(source)
        except Exception as error:  # tokenizers raises no other kind
            raise unloadable(name, "its tokenizer", error) from error
        try:
            model = AutoModelForCausalLM.from_pretrained(
                source, dtype=dtype, device_map=device, **options
            )
        except LOADING_ERRORS as error:
            raise unloadable(name, "its weights", error) from error
    if not tokenizer.chat_template:
        raise ModelNotFoundError(f"the model {name} has no chat template: it cannot answer chats")
    return tokenizer, model.eval()


def unloadable(name: str, what: str, error: Exception) -> ModelNotFoundError:
    """The error in one sentence: where a library tells a page, its first line says it."""
    reason = str(error).partition("\n")[0] or type(error).__name__
    if reason.startswith("Couldn't instantiate the backend tokenizer"):
        reason = "tokenizer.json, or what it can be made of, is missing"
    pointer = lfs_pointer(name)
    if pointer:
        reason = f"{pointer} is a pointer of Git LFS, not the file: `git lfs pull` fetches it"
    return ModelNotFoundError(f"the model {name} cannot be loaded, {what} not: {reason}")


def lfs_pointer(name: str) -> str | None:
    """A file of the model's folder that Git LFS has not fetched; None if there is none."""
    for path in sorted(Path(name).glob("*")) if Path(name).is_dir() else []:
        if path.is_file() and path.open("rb").read(len(LFS_HEAD)) == LFS_HEAD:
            return path.name
    return None


@contextlib.contextmanager
def random_model(name: str) -> Iterator[Path]:
    """A folder with a model of this shape, saved as any other, while the `with` block lasts."""
    from transformers import AutoModelForCausalLM, GenerationConfig, LlamaConfig

    from llm_model_benchmarking.tokenizer import build_tokenizer, invisible_ids

    layers, width, heads, cache_heads, inner, theta = SHAPES[name.removeprefix(RANDOM)]
    config = LlamaConfig(
        num_hidden_layers=layers,
        hidden_size=width,
        num_attention_heads=heads,
        num_key_value_heads=cache_heads,
        intermediate_size=inner,
        rope_theta=theta,
        initializer_range=width**-0.5,
        **SMOLLM2,
    )
    tokenizer = build_tokenizer(config.vocab_size, config.max_position_embeddings)
    torch.manual_seed(0)
    with torch.device("meta"):  # else every layer first draws numbers that these replace
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.to_empty(device="cpu").init_weights()
    hidden = invisible_ids(tokenizer)  # random weights choose any token: leave what can be seen
    model.generation_config = GenerationConfig(
        suppress_tokens=hidden, bos_token_id=1, eos_token_id=2, pad_token_id=2
    )
    with tempfile.TemporaryDirectory(prefix="random-model-") as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        yield Path(folder)


def weight_bytes_per_token(model: "PreTrainedModel") -> int:
    """Bytes of weights that one decoding step reads: all but an embedding table that is not
    also the output layer.
    """
    table = model.get_input_embeddings().weight
    tied = table is model.get_output_embeddings().weight
    return model.get_memory_footprint() - (0 if tied else table.nbytes)


def lift_sliding_window(model: "PreTrainedModel", length: int) -> None:
    """Make attention full where a sliding window never ends within `length` tokens: a static cache
    of such windows recompiles at every token. CannotServeError where a window is shorter.
    """
    config = model.config
    window = getattr(config, "sliding_window", None)
    kinds = set(getattr(config, "layer_types", None) or ())
    if kinds - {"full_attention"} or (window is not None and window < length):
        reason = f"it has layers with a sliding window of {window} tokens, or of another kind"
        raise CannotServeError(f"the model cannot be compiled with a static cache: {reason}")
    if window is not None:
        config.sliding_window = None


def cache_bytes_per_token(model: "PreTrainedModel") -> int:
    """Bytes of keys and values that one token in the context adds to what a decoding step reads."""
    config = model.config
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return 2 * config.num_hidden_layers * config.num_key_value_heads * head * model.dtype.itemsize
