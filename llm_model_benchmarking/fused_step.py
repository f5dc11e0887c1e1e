"""A decoding step written so that its loops fuse, for models of Llama's architecture.

The step reads the weights of a transformers model, whose query, key and value projections become
views of one matrix, as do gate and up projection: what stays a matrix product is as large as it
can be, and the compiler fuses the rest. Several sequences share a step; each has its own slot of
a static cache.
"""

from collections.abc import Collection
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, scaled_dot_product_attention

from harness.serving.served_api import CannotServeError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ARCHITECTURES = ("llama", "mistral", "phi3", "qwen2")  # config.model_type
BOUND_STEP = 32  # cached positions that attention reads are rounded up to a multiple of this


@dataclass
class Layer:
    """The tensors of one decoder layer: weights (out, in), biases (out,) or None, and its cache
    (slots, heads, length, d).
    """

    norm: Tensor
    qkv: Tensor
    qkv_bias: Tensor | None
    out: Tensor
    out_bias: Tensor | None
    mlp_norm: Tensor
    gate_up: Tensor
    gate_up_bias: Tensor | None
    down: Tensor
    down_bias: Tensor | None
    keys: Tensor
    values: Tensor

    def tensors(self) -> tuple[Tensor | None, ...]:
        return tuple(getattr(self, each.name) for each in fields(self))


@dataclass(frozen=True)
class Shape:
    """What all layers share: epsilon of the norms, heads, their width, activation of the MLP."""

    eps: float
    heads: int
    cached_heads: int
    width: int
    activation: nn.Module


class FusedStep:
    """A static cache of several slots, and the steps over it.

    Attributes:
        lengths: tokens cached, per slot; setting one to 0 restarts its slot.
    """

    def __init__(self, model: "PreTrainedModel", slots: int, length: int) -> None:
        """Caches of `length` tokens for `slots` sequences. CannotServeError if the model is of
        another architecture.
        """
        refuse_others(model, length)
        config, body = model.config, model.get_decoder()
        attention = body.layers[0].self_attn
        heads, cached = config.num_attention_heads, config.num_key_value_heads
        activation = getattr(body.layers[0].mlp, "act_fn", None) or body.layers[0].mlp.activation_fn
        self.shape = Shape(config.rms_norm_eps, heads, cached, attention.head_dim, activation)
        self.lengths, self.length = [0] * slots, length
        self.device = model.device
        options = {"dtype": model.dtype, "device": model.device}
        room = (2, slots, cached, length, attention.head_dim)
        self.layers = [layer_tensors(each, *torch.zeros(room, **options)) for each in body.layers]
        self.table, self.norm = model.get_input_embeddings().weight, body.norm.weight
        self.head = model.get_output_embeddings().weight
        positions = torch.arange(length, device=model.device)[None]
        self.cos, self.sin = (each[0] for each in body.rotary_emb(self.table, positions))

    @torch.no_grad()
    def prefill(self, slot: int, ids: Tensor) -> Tensor:
        """(1, n) prompt, or its next part, appended to a slot; (vocabulary,) logits after it."""
        start, count = self.lengths[slot], ids.shape[1]
        end, shape = start + count, self.shape
        cos, sin = self.cos[start:end], self.sin[start:end]
        positions = torch.arange(end, device=self.device)
        mask = positions <= positions[start:, None]
        hidden = self.table[ids[0]]
        for layer in self.layers:
            queries, keys, values = qkv(layer, shape, hidden, cos, sin)
            layer.keys[slot, :, start:end] = keys.transpose(0, 1)
            layer.values[slot, :, start:end] = values.transpose(0, 1)
            mixed = scaled_dot_product_attention(
                queries.transpose(0, 1)[None],
                layer.keys[slot : slot + 1, :, :end],
                layer.values[slot : slot + 1, :, :end],
                attn_mask=mask,
                enable_gqa=True,
            )
            hidden = mlp(layer, shape, hidden, mixed[0].transpose(0, 1).flatten(1))
        self.lengths[slot] = end
        return linear(rms_norm(hidden[-1], self.norm, shape.eps), self.head)

    @torch.no_grad()
    def decode(self, tokens: Tensor) -> Tensor:
        """(n, 1) tokens of slots 0 to n - 1 to the (n, vocabulary) logits after them."""
        rows = len(tokens)
        longest = max(self.lengths[:rows]) + 1
        bound = min(-(-longest // BOUND_STEP) * BOUND_STEP, self.length)
        positions = torch.tensor(self.lengths[:rows], device=self.device)
        logits = self.step(tokens[:, 0], positions, bound)
        for slot in range(rows):
            self.lengths[slot] += 1
        return logits

    def step(self, tokens: Tensor, positions: Tensor, bound: int) -> Tensor:
        """(n,) tokens at (n,) positions to (n, vocabulary) logits; no position is beyond bound."""
        hidden = self.table[tokens]
        cos, sin = self.cos[positions], self.sin[positions]
        for layer in self.layers:
            hidden = layer_step(layer, self.shape, hidden, cos, sin, positions, bound)
        return linear(rms_norm(hidden, self.norm, self.shape.eps), self.head)

    def move(self, source: int, target: int) -> None:
        """Copy the cache of one slot into another."""
        end = self.lengths[target] = self.lengths[source]
        for layer in self.layers:
            for cache in (layer.keys, layer.values):
                cache[target, :, :end] = cache[source, :, :end]

    def warm_up(self, rows: Collection[int]) -> None:
        """Compile the step for these numbers of rows; nothing compiles later."""


def layer_step(
    layer: Layer,
    shape: Shape,
    hidden: Tensor,
    cos: Tensor,
    sin: Tensor,
    positions: Tensor,
    bound: int,
) -> Tensor:
    """(n, width) hidden states of one token in each of n slots through a layer."""
    queries, keys, values = qkv(layer, shape, hidden, cos, sin)
    rows = torch.arange(len(positions), device=positions.device)
    layer.keys[rows, :, positions] = keys
    layer.values[rows, :, positions] = values
    cached = layer.keys[: len(rows), :, :bound], layer.values[: len(rows), :, :bound]
    mixed = attention(queries, *cached, positions)
    return mlp(layer, shape, hidden, mixed)


def qkv(
    layer: Layer, shape: Shape, hidden: Tensor, cos: Tensor, sin: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """(n, width) hidden states to rotated queries (n, heads, d), rotated keys and values."""
    merged = linear(rms_norm(hidden, layer.norm, shape.eps), layer.qkv, layer.qkv_bias)
    merged = merged.view(len(hidden), -1, shape.width)
    rotated = shape.heads + shape.cached_heads
    turned = rotate(merged[:, :rotated], cos[:, None], sin[:, None])
    return turned[:, : shape.heads], turned[:, shape.heads :], merged[:, rotated:]


def rotate(vectors: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary position embedding of the first dimensions, as many as cos has; the rest stays."""
    turning, rest = vectors[..., : cos.shape[-1]], vectors[..., cos.shape[-1] :]
    first, second = turning.chunk(2, dim=-1)
    turned = turning * cos + torch.cat((-second, first), dim=-1) * sin
    return torch.cat((turned, rest), dim=-1) if rest.shape[-1] else turned


def attention(queries: Tensor, keys: Tensor, values: Tensor, positions: Tensor) -> Tensor:
    """One query (n, heads, d) for each of n slots, to the positions of its cache (n, kv heads,
    bound, d) up to its own, in float32. Returns (n, heads * d).
    """
    count, cached, bound, width = keys.shape
    grouped = queries.view(count, cached, -1, 1, width).float() * width**-0.5
    scores = (grouped * keys[:, :, None].float()).sum(-1)
    visible = torch.arange(bound, device=keys.device) <= positions[:, None]
    weights = scores.masked_fill(~visible[:, None, None], float("-inf")).softmax(-1)
    mixed = (weights[..., None] * values[:, :, None].float()).sum(-2)
    return mixed.to(queries.dtype).view(count, -1)


def mlp(layer: Layer, shape: Shape, hidden: Tensor, mixed: Tensor) -> Tensor:
    """(n, width) hidden states after the second half of a layer; `mixed` is what attention gave."""
    hidden = hidden + linear(mixed, layer.out, layer.out_bias)
    normed = rms_norm(hidden, layer.mlp_norm, shape.eps)
    gate, up = linear(normed, layer.gate_up, layer.gate_up_bias).chunk(2, dim=-1)
    return hidden + linear(shape.activation(gate) * up, layer.down, layer.down_bias)


def rms_norm(hidden: Tensor, weight: Tensor, eps: float) -> Tensor:
    scaled = hidden.float()
    scaled = scaled * torch.rsqrt(scaled.pow(2).mean(-1, keepdim=True) + eps)
    return weight * scaled.to(hidden.dtype)


def layer_tensors(layer: nn.Module, keys: Tensor, values: Tensor) -> Layer:
    """The weights of a decoder layer; those used together become views of one matrix."""
    attention, mlp = layer.self_attn, layer.mlp
    qkv, qkv_bias = (
        linear_tensors(attention.qkv_proj)
        if hasattr(attention, "qkv_proj")
        else merged(attention.q_proj, attention.k_proj, attention.v_proj)
    )
    gate_up, gate_up_bias = (
        linear_tensors(mlp.gate_up_proj)
        if hasattr(mlp, "gate_up_proj")
        else merged(mlp.gate_proj, mlp.up_proj)
    )
    return Layer(
        norm=layer.input_layernorm.weight,
        qkv=qkv,
        qkv_bias=qkv_bias,
        out=attention.o_proj.weight,
        out_bias=attention.o_proj.bias,
        mlp_norm=layer.post_attention_layernorm.weight,
        gate_up=gate_up,
        gate_up_bias=gate_up_bias,
        down=mlp.down_proj.weight,
        down_bias=mlp.down_proj.bias,
        keys=keys,
        values=values,
    )


def merged(*parts: nn.Linear) -> tuple[Tensor, Tensor | None]:
    """Weight and bias of one linear layer in place of several, which become views of it."""
    made = []
    for name in ("weight", "bias"):
        tensors = [getattr(part, name) for part in parts]
        if tensors[0] is None:
            made.append(None)
            continue
        whole = torch.cat([each.data for each in tensors])
        for each, view in zip(tensors, whole.split([len(t) for t in tensors]), strict=True):
            each.data = view
        made.append(whole)
    return tuple(made)


def linear_tensors(layer: nn.Linear) -> tuple[Tensor, Tensor | None]:
    return layer.weight, layer.bias


def refuse_others(model: "PreTrainedModel", length: int) -> None:
    """CannotServeError if the step would not compute what the model does."""
    config = model.config
    rope = config.rope_parameters or {}
    original = rope.get("original_max_position_embeddings", length)
    reason = None
    if config.model_type not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        reason = f"its architecture is {config.model_type}; the fused step knows {known}"
    elif rope.get("rope_type") == "longrope" and original < length:
        reason = f"its positions change beyond {original} tokens; --max-context is {length}"
    elif any(type(each) is not nn.Linear for each in linears(model)):
        reason = "its weights are quantised"
    if reason:
        raise CannotServeError(f"the model cannot be served by this variant: {reason}")


def linears(model: "PreTrainedModel") -> list[nn.Module]:
    """The modules that the step replaces by products of their weights."""
    return [each for name, each in model.named_modules() if name.endswith(("_proj", "lm_head"))]
