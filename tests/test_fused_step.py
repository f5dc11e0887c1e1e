"""The fused decoding step: the library's tokens, for slots of any length, and what it refuses."""

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    GemmaConfig,
    LlamaConfig,
    MistralConfig,
    Phi3Config,
    Qwen2Config,
)

from harness.serving.served_api import CannotServeError
from llm_model_benchmarking.fused_step import FusedStep
from llm_model_benchmarking.model import lift_sliding_window

SLOTS, LENGTH, TOKENS = 4, 96, 12
SHAPE = {
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.12,
    "max_position_embeddings": 128,
    "pad_token_id": None,
}


def model_of(config, dtype=torch.float32):
    torch.manual_seed(3)
    return AutoModelForCausalLM.from_config(config).to(dtype).eval()


def made(model) -> FusedStep:
    """As the server makes it, but uncompiled: the arithmetic is the same."""
    lift_sliding_window(model, LENGTH)
    return FusedStep(model, 1, LENGTH)


def prompt_of(length: int) -> torch.Tensor:
    return (torch.arange(length)[None] * 7 + 11 * length) % 512


@torch.no_grad()
def expected(model, length: int) -> list[int]:
    """The library's greedy answer, by whole forward passes without a cache."""
    ids = prompt_of(length)
    for _ in range(TOKENS):
        ids = torch.cat((ids, model(ids, use_cache=False).logits[:, -1:].argmax(-1)), dim=1)
    return ids[0, length:].tolist()


def answers(step: FusedStep, firsts: list[int], tokens: int = TOKENS) -> list[list[int]]:
    """Greedy answers of the first slots, which go on from the token given for each."""
    rows = [[first] for first in firsts]
    for _ in range(tokens - 1):
        logits = step.decode(torch.tensor([row[-1:] for row in rows]))
        for row, id_ in zip(rows, logits.argmax(-1).tolist(), strict=True):
            row.append(id_)
    return rows


def begun(step: FusedStep, slot: int, length: int) -> int:
    """The first token of the answer to a prompt that a slot begins with."""
    step.lengths[slot] = 0
    return int(step.prefill(slot, prompt_of(length)).argmax())


@pytest.fixture(scope="module")
def model():
    return model_of(LlamaConfig(**SHAPE, attention_bias=True, mlp_bias=True))


@pytest.fixture(scope="module")
def step(model):
    step = FusedStep(model, SLOTS, LENGTH)
    step.warm_up([1, SLOTS])
    torch.compiler.set_stance("fail_on_recompile")
    yield step
    torch.compiler.set_stance("default")


@pytest.mark.parametrize("lengths", [(1,), (31,), (84,), (3, 40), (84, 1, 30), (7, 2, 60, 33)])
def test_slots_of_different_lengths_get_the_librarys_tokens(model, step, lengths):
    """Compiled, and across bounds of 32 and the whole length; recompiling raises."""
    firsts = [begun(step, slot, length) for slot, length in enumerate(lengths)]
    assert answers(step, firsts) == [expected(model, length) for length in lengths]
    assert step.lengths[: len(lengths)] == [length + TOKENS - 1 for length in lengths]


def test_a_sequence_joins_and_another_takes_the_place_of_one_that_left(model, step):
    first, second = begun(step, 0, 20), begun(step, 1, 5)
    left, stayed = answers(step, [first, second], 4)
    step.move(1, 0)
    joined = begun(step, 1, 50)
    rows = answers(step, [stayed[-1], joined], TOKENS - 3)
    assert left == expected(model, 20)[:4]
    assert stayed[:-1] + rows[0] == expected(model, 5)
    assert rows[1] == expected(model, 50)[: TOKENS - 3]


def test_a_prompt_in_parts_is_the_prompt(step):
    whole, ids = begun(step, 0, 60), prompt_of(60)
    step.lengths[2] = 0
    for part in ids.split(25, dim=1):
        logits = step.prefill(2, part)
    assert int(logits.argmax()) == whole
    torch.testing.assert_close(step.layers[-1].keys[2, :, :60], step.layers[-1].keys[0, :, :60])


@pytest.mark.parametrize(
    ("lengths", "part"), [((3, 40), 25), ((84, 1, 30), 2), ((7,), 30), ((5, 60), 1)]
)
def test_a_prompt_that_comes_in_beside_others_leaves_them_as_they_are(model, step, lengths, part):
    """Also where one row or one token makes it two programs."""
    rows = [[begun(step, slot, length)] for slot, length in enumerate(lengths)]
    slot, prompt = len(lengths), prompt_of(50)
    step.lengths[slot] = 0
    for ids in prompt[:, : 4 * part].split(part, dim=1):
        logits = step.decode_and_prefill(torch.tensor([row[-1:] for row in rows]), ids)
        for row, id_ in zip(rows, logits[:-1].argmax(-1).tolist(), strict=True):
            row.append(id_)
    assert rows == [expected(model, length)[: len(rows[0])] for length in lengths]
    with torch.no_grad():
        library = model(prompt[:, : 4 * part], use_cache=False).logits[0, -1]
    torch.testing.assert_close(logits[-1], library, atol=1e-4, rtol=1e-4)


def test_the_weights_are_held_once_and_the_model_still_computes_with_them(model, step):
    layer, projection = step.layers[0], model.model.layers[0].self_attn.v_proj
    assert projection.weight.untyped_storage().data_ptr() == layer.qkv.untyped_storage().data_ptr()
    assert torch.equal(projection.weight, layer.qkv[-32:])
    assert torch.equal(projection.bias, layer.qkv_bias[-32:])


@pytest.mark.parametrize(
    "config",
    [
        MistralConfig(**SHAPE, head_dim=16, sliding_window=LENGTH),
        Phi3Config(**SHAPE, sliding_window=LENGTH + 5),
        Qwen2Config(**SHAPE, tie_word_embeddings=True),
        LlamaConfig(**SHAPE, rope_parameters={"rope_type": "linear", "factor": 4.0}),
    ],
    ids=lambda config: config.model_type,
)
def test_other_models_of_this_architecture_get_their_tokens(config):
    model = model_of(config)
    tokens = expected(model, 30)
    step = made(model)
    assert answers(step, [begun(step, 0, 30)]) == [tokens]


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (MistralConfig(**SHAPE, head_dim=16, sliding_window=LENGTH - 1), "window of 95 tokens"),
        (GemmaConfig(**SHAPE, head_dim=16), "architecture is gemma"),
    ],
)
def test_what_the_step_would_compute_otherwise_is_refused_in_one_sentence(config, words):
    model = model_of(config)
    with pytest.raises(CannotServeError, match=words) as caught:
        made(model)
    assert "\n" not in str(caught.value)


def test_quantised_weights_are_refused():
    model = model_of(LlamaConfig(**SHAPE))
    model.model.layers[1].mlp.down_proj = torch.nn.Identity()
    with pytest.raises(CannotServeError, match="quantised"):
        FusedStep(model, 1, LENGTH)


def test_bfloat16_logits_are_close_to_those_of_float32():
    config = LlamaConfig(**SHAPE)
    logits = []
    for dtype in (torch.float32, torch.bfloat16):
        step = FusedStep(model_of(config, dtype), 1, LENGTH)
        step.prefill(0, prompt_of(40))
        logits.append(step.decode(torch.tensor([[5]])).float().log_softmax(-1))
    divergence = torch.nn.functional.kl_div(logits[1], logits[0], log_target=True, reduction="sum")
    assert divergence < 0.01
