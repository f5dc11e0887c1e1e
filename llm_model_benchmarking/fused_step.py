"""A decoding step written so that its loops fuse, for models of Llama's architecture.

The step reads the weights of a transformers model, whose query, key and value projections become
views of one matrix, as do gate and up projection: what stays a matrix product is as large as it
can be, and the compiler fuses the rest. Several sequences share a step; each has its own slot of
a static cache. One layer is compiled and used for all; a GPU runs it without CUDA graphs.

ms per token at the shape of SmolLM2-135M in bfloat16 on two cores (Xeon, amx_bf16). Alternated:
llama.cpp's Python API in bfloat16 17.5, this step 21 to 22, 35 to 41 for sixteen rows. One after
the other: fifteen rows and a prompt of 32 tokens 45, apart 78; torch.mv of all matrices, nothing
else, 16 to 18. Served, between two tokens: the library's step 42, compiled whole 35, this one 21.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn
from torch._dynamo import mark_dynamic
from torch.nn.functional import linear, scaled_dot_product_attention

from harness.serving.served_api import CannotServeError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ARCHITECTURES = ("llama", "mistral", "phi3", "qwen2")  # config.model_type
BOUND_STEP = 32  # cached positions that attention reads are rounded up to a multiple of this
OPTIONS = {"cpp.enable_floating_point_contract_flag": "fast"}  # multiply and add in one instruction


class Layer(NamedTuple):
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
        room = (2, slots, cached, length + 1, attention.head_dim)  # a part is never the whole
        self.layers = [layer_tensors(each, *torch.zeros(room, **options)) for each in body.layers]
        self.table, self.norm = model.get_input_embeddings().weight.data, body.norm.weight.data
        self.head = model.get_output_embeddings().weight.data
        self.positions = torch.arange(length, device=model.device)
        self.cos, sin = (each[0] for each in body.rotary_emb(self.table, self.positions[None]))
        first, second = sin.chunk(2, dim=-1)
        self.sin = torch.cat((-first, second), dim=-1)
        self.layer_step, self.shared_layer_step = layer_step, shared_layer_step
        self.head_step, self.compiled = head_step, False
        self.visible_part: tuple[int, int] | None = None

    @torch.no_grad()
    def prefill(self, slot: int, ids: Tensor) -> Tensor:
        """(1, n) prompt, or its next part, appended to a slot; (vocabulary,) logits after it."""
        start, count = self.lengths[slot], ids.shape[1]
        end, shape = start + count, self.shape
        cos, sin = self.cos[start:end], self.sin[start:end]
        mask = self.positions[:end] <= self.positions[start:end, None]
        hidden = self.table[ids[0]]
        for layer in self.layers:
            queries, keys, values = qkv(layer, shape, hidden, cos, sin)
            layer.keys[slot, :, start:end] = keys.transpose(0, 1)
            layer.values[slot, :, start:end] = values.transpose(0, 1)
            caches = (each[slot : slot + 1, :, :end] for each in (layer.keys, layer.values))
            hidden = mlp(layer, shape, hidden, prompt_attention(queries, *caches, mask))
        self.lengths[slot] = end
        return head_step(hidden[-1:], self.norm, self.head, shape)[0]

    @torch.no_grad()
    def decode(self, tokens: Tensor) -> Tensor:
        """(n, 1) tokens of slots 0 to n - 1 to the (n, vocabulary) logits after them."""
        rows = len(tokens)
        hidden, *inputs, visible = self.inputs(tokens[:, 0], self.lengths[:rows], rows)
        if not self.compiled:
            mark_dynamic(visible, 1)
        for layer in self.visible_layers:
            hidden = self.layer_step(hidden, *inputs, visible, self.shape, *layer)
        self.count(range(rows))
        return self.head_step(hidden, self.norm, self.head, self.shape)

    @torch.no_grad()
    def decode_and_prefill(self, tokens: Tensor, ids: Tensor) -> Tensor:
        """Both in one pass, which reads the weights once: (n, 1) tokens of slots 0 to n - 1, and a
        (1, m) prompt, or its next part, of slot n. Returns (n + 1, vocabulary) logits.
        """
        rows, count = len(tokens), ids.shape[1]
        if min(rows, count) == 1:  # to the compiler another program; as seldom as short
            return torch.cat((self.decode(tokens), self.prefill(rows, ids)[None]))
        start, slots = self.lengths[rows], [*range(rows), *[rows] * count]
        positions = [*self.lengths[:rows], *range(start, start + count)]
        whole = torch.cat((tokens[:, 0], ids[0]))
        hidden, *inputs, visible = self.inputs(whole, positions, rows + 1)
        inputs.append(torch.tensor(slots, device=self.device))
        masks = visible[:rows].clone(), visible[rows:].clone()
        if not self.compiled:
            for tensor in (hidden, *inputs, *masks):
                mark_dynamic(tensor, 0)
            for mask in masks:
                mark_dynamic(mask, 1)
        for layer in self.visible_layers:
            hidden = self.shared_layer_step(hidden, *inputs, *masks, self.shape, *layer)
        self.count(slots)
        last = torch.cat((hidden[:rows], hidden[-1:]))
        return self.head_step(last, self.norm, self.head, self.shape)

    def inputs(self, ids: Tensor, positions: list[int], slots: int) -> tuple[Tensor, ...]:
        """Of n tokens, ids of shape (n,), in the first `slots` slots: their hidden states (n,
        width), cosines and sines of their positions, these, and what each sees of its cache (n,
        bound).
        """
        bound = min(-(-(max(positions) + 1) // BOUND_STEP) * BOUND_STEP, self.length)
        self.look_at(slots, bound)
        at = torch.tensor(positions, device=self.device)
        visible = self.positions[:bound] <= at[:, None]
        return self.table[ids], self.cos[at], self.sin[at], at, visible

    def count(self, slots: Iterable[int]) -> None:
        """One more token is cached in each of these slots."""
        for slot in slots:
            self.lengths[slot] += 1

    def look_at(self, rows: int, bound: int) -> None:
        """Cut the layers' caches to what a step reads, unless the step before has read the same."""
        if (rows, bound) == self.visible_part:
            return
        self.visible_part, self.visible_layers = (rows, bound), []
        for layer in self.layers:
            caches = layer.keys[:rows, :, :bound], layer.values[:rows, :, :bound]
            if not self.compiled:
                for cache in caches:
                    mark_dynamic(cache, 2)
                    if rows > 1:
                        mark_dynamic(cache, 0)
            self.visible_layers.append(layer._replace(keys=caches[0], values=caches[1]))

    def move(self, source: int, target: int) -> None:
        """Copy the cache of one slot into another."""
        end = self.lengths[target] = self.lengths[source]
        for layer in self.layers:
            for cache in (layer.keys, layer.values):
                cache[target, :, :end] = cache[source, :, :end]

    def warm_up(self, rows: Collection[int]) -> None:
        """Compile the step for one row and, where `rows` has more, for any number of them, alone
        and beside a prompt; nothing compiles later.
        """
        self.layer_step, self.shared_layer_step, self.head_step = (
            torch.compile(each, fullgraph=True, options=OPTIONS)
            for each in (layer_step, shared_layer_step, head_step)
        )
        lengths, most, device = self.lengths, max(rows), self.device
        token = torch.zeros(1, 1, dtype=torch.long, device=device)
        for count in sorted({1, most}):
            self.lengths, self.visible_part = [0] * len(lengths), None
            self.decode(token.expand(count, 1))
        if most > 2:
            self.lengths, self.visible_part = [0] * len(lengths), None
            self.decode_and_prefill(token.expand(most - 1, 1), token.expand(1, 3))
        self.lengths, self.visible_part, self.compiled = lengths, None, True


def layer_step(
    hidden: Tensor,
    cos: Tensor,
    sin: Tensor,
    positions: Tensor,
    visible: Tensor,
    shape: Shape,
    *tensors: Tensor | None,
) -> Tensor:
    """(n, width) hidden states of one token in each of n slots through a layer."""
    layer = Layer(*tensors)
    queries, keys, values = qkv(layer, shape, hidden, cos, sin)
    rows = torch.arange(len(positions), device=positions.device)
    layer.keys[rows, :, positions] = keys
    layer.values[rows, :, positions] = values
    return mlp(layer, shape, hidden, attention(queries, layer.keys, layer.values, visible))


def shared_layer_step(
    hidden: Tensor,
    cos: Tensor,
    sin: Tensor,
    positions: Tensor,
    slots: Tensor,
    visible: Tensor,
    visible_to_prompt: Tensor,
    shape: Shape,
    *tensors: Tensor | None,
) -> Tensor:
    """(n + m, width) hidden states of one token in each of n slots, and of m tokens of a prompt in
    the slot after them, through a layer.
    """
    layer = Layer(*tensors)
    queries, keys, values = qkv(layer, shape, hidden, cos, sin)
    layer.keys[slots, :, positions] = keys
    layer.values[slots, :, positions] = values
    rows = len(visible)
    single = attention(queries[:rows], layer.keys[:rows], layer.values[:rows], visible)
    prompt = prompt_attention(queries[rows:], layer.keys[-1:], layer.values[-1:], visible_to_prompt)
    return mlp(layer, shape, hidden, torch.cat((single, prompt)))


def head_step(hidden: Tensor, norm: Tensor, head: Tensor, shape: Shape) -> Tensor:
    """(n, width) hidden states to the (n, vocabulary) logits of the next tokens."""
    return product(rms_norm(hidden, norm, shape.eps), head)


def qkv(
    layer: Layer, shape: Shape, hidden: Tensor, cos: Tensor, sin: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """(n, width) hidden states to rotated queries (n, heads, d), rotated keys and values."""
    merged = product(rms_norm(hidden, layer.norm, shape.eps), layer.qkv, layer.qkv_bias)
    merged = merged.view(len(hidden), -1, shape.width)
    rotated = shape.heads + shape.cached_heads
    turned = rotate(merged[:, :rotated], cos[:, None], sin[:, None])
    return turned[:, : shape.heads], turned[:, shape.heads :], merged[:, rotated:]


def rotate(vectors: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary position embedding of the first dimensions, as many as cos has; the rest stays."""
    turning, rest = vectors[..., : cos.shape[-1]], vectors[..., cos.shape[-1] :]
    swapped = turning.unflatten(-1, (2, -1)).flip(-2).flatten(-2)
    turned = turning * cos + swapped * sin  # the first half of sin is negative
    return torch.cat((turned, rest), dim=-1) if rest.shape[-1] else turned


def attention(queries: Tensor, keys: Tensor, values: Tensor, visible: Tensor) -> Tensor:
    """One query (n, heads, d) for each of n slots, to what is visible (n, bound) of its cache (n,
    kv heads, bound, d), in float32. Returns (n, heads * d).
    """
    count, cached, _, width = keys.shape
    grouped = stored(queries.float() * width**-0.5).view(count, cached, -1, 1, width)
    scores = (grouped * keys[:, :, None].float()).sum(-1)
    weights = scores.masked_fill(~visible[:, None, None], float("-inf")).softmax(-1)
    mixed = (weights[..., None] * values[:, :, None].float()).sum(-2)
    return mixed.to(queries.dtype).view(count, -1)


def prompt_attention(queries: Tensor, keys: Tensor, values: Tensor, visible: Tensor) -> Tensor:
    """Queries (m, heads, d) of one sequence to what is visible (m, bound) of its cache (1, kv
    heads, bound, d). Returns (m, heads * d).
    """
    mixed = scaled_dot_product_attention(
        queries.transpose(0, 1)[None], keys, values, attn_mask=visible, enable_gqa=True
    )
    return mixed[0].transpose(0, 1).flatten(1)


def mlp(layer: Layer, shape: Shape, hidden: Tensor, mixed: Tensor) -> Tensor:
    """(n, width) hidden states after the second half of a layer; `mixed` is what attention gave."""
    hidden = hidden + product(mixed, layer.out, layer.out_bias)
    normed = rms_norm(hidden, layer.mlp_norm, shape.eps)
    gate, up = product(normed, layer.gate_up, layer.gate_up_bias).chunk(2, dim=-1)
    return hidden + product(shape.activation(gate) * up, layer.down, layer.down_bias)


def rms_norm(hidden: Tensor, weight: Tensor, eps: float) -> Tensor:
    scaled = hidden.float()
    scaled = scaled * torch.rsqrt(scaled.pow(2).mean(-1, keepdim=True) + eps)
    return weight * scaled.to(hidden.dtype)


def product(hidden: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """(n, k) hidden states times (m, k) weights. One row on a CPU, compiled, is a sum of products
    in float32, which the compiler makes one loop over the rows of the matrix.
    """
    if len(hidden) > 1 or hidden.is_cuda or not torch.compiler.is_compiling():
        return linear(hidden, weight, bias)
    sums = (weight.float() * stored(hidden.float())).sum(-1).to(hidden.dtype)[None]
    return sums if bias is None else sums + bias


def stored(tensor: Tensor) -> Tensor:
    """The tensor itself, computed once: the compiler would else repeat what led to it in the loop
    that reads it, for each row of a matrix.
    """
    return tensor.as_strided(tensor.shape, tensor.stride())


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
    weights = (
        *(layer.input_layernorm.weight, qkv, qkv_bias, attention.o_proj.weight),
        *(attention.o_proj.bias, layer.post_attention_layernorm.weight, gate_up, gate_up_bias),
        *(mlp.down_proj.weight, mlp.down_proj.bias),
    )
    return Layer(*(each if each is None else each.data for each in weights), keys, values)


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
