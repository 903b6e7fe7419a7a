"""How many parameters each method trains on a model of known sizes, before anything is loaded."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from ftkit.models.architecture import Architecture, Linear
from ftkit.recipe import (
    BOFT,
    IA3,
    OFT,
    AdaLoRA,
    Freeze,
    FullFineTuning,
    LoRA,
    Method,
    OnLayers,
    PrefixTuning,
    PromptTuning,
    VeRA,
)

_WORDS = {"embed_tokens", "lm_head", "wte", "embed_in", "embed_out", "word_embeddings"}
_OUTSIDE = {"norm", "ln_f", "final_layer_norm"}


def trainable(found: Architecture, method: Method) -> int:
    """Parameters that the method trains; those of norms and biases are left out where they are few."""
    return _count(method, found)


def words(found: Architecture, method: Method) -> int:
    """How many matrices as large as the vocabulary the method trains: embedding and head, a tied one once."""
    if isinstance(method, FullFineTuning):
        return 1 if found.tied else 2
    names: tuple[str, ...] = getattr(method, "modules_to_save", getattr(method, "extra_modules", ()))
    return len(_WORDS & set(names))


@functools.singledispatch
def _count(method: Any, found: Architecture) -> int:
    raise NotImplementedError(type(method).__name__)


def _on_layers(found: Architecture, method: OnLayers, cost: Callable[[Linear], int]) -> int:
    chosen = [
        one
        for name, one in found.linears.items()
        if method.target_modules == "all-linear" or name.rpartition(".")[2] in method.target_modules
    ]
    layers = found.layers if method.layers_to_transform is None else len(method.layers_to_transform)
    return layers * sum(cost(one) * one.count for one in chosen) + _whole(found, method.modules_to_save)


def _whole(found: Architecture, names: tuple[str, ...]) -> int:
    """Parameters of modules that are trained whole."""
    total = 0
    for name in names:
        if name in _WORDS:
            total += found.vocab_size * found.hidden_size
        elif name in _OUTSIDE:
            total += found.hidden_size
        elif name in found.linears:
            one = found.linears[name]
            total += found.layers * one.inputs * one.outputs * one.count
    return total


@_count.register
def _(method: LoRA, found: Architecture) -> int:
    rank = method.rank * (2 if method.init in ("pissa", "olora") else 1)
    dora = int(method.use_dora)
    words = len(method.trainable_tokens) * found.hidden_size
    return words + _on_layers(
        found, method, lambda one: rank * (one.inputs + one.outputs) + dora * one.outputs
    )


@_count.register
def _(method: AdaLoRA, found: Architecture) -> int:
    return _on_layers(found, method, lambda one: method.first_rank * (one.inputs + one.outputs + 1))


@_count.register
def _(method: OFT, found: Architecture) -> int:
    return _on_layers(found, method, lambda one: one.inputs * (method.block_size - 1) // 2)


@_count.register
def _(method: BOFT, found: Architecture) -> int:
    return _on_layers(found, method, lambda one: one.inputs * method.block_size + one.outputs)


@_count.register
def _(method: VeRA, found: Architecture) -> int:
    return _on_layers(found, method, lambda one: method.rank + one.outputs)


@_count.register
def _(method: IA3, found: Architecture) -> int:
    if method.target_modules == "auto":
        fused = next((found.linears[n] for n in ("qkv_proj", "c_attn") if n in found.linears), None)
        keys = fused.outputs if fused else 2 * found.key_width
        inner = [one for name, one in found.linears.items() if name in ("down_proj", "c_proj")]
        total = found.layers * (keys + sum(one.inputs * one.count for one in inner))
    else:
        named = {n: one for n, one in found.linears.items() if n in method.target_modules}
        total = found.layers * sum(
            (one.inputs if name in method.feedforward_modules else one.outputs) * one.count
            for name, one in named.items()
        )
    return total + _whole(found, method.modules_to_save)


@_count.register
def _(method: PromptTuning, found: Architecture) -> int:
    return method.tokens * found.hidden_size


@_count.register
def _(method: PrefixTuning, found: Architecture) -> int:
    return method.tokens * found.layers * 2 * found.key_width


@_count.register
def _(method: FullFineTuning, found: Architecture) -> int:
    return found.parameters


@_count.register
def _(method: Freeze, found: Architecture) -> int:
    layer = sum(one.inputs * one.outputs * one.count for one in found.linears.values())
    if method.modules:
        named = [one for name, one in found.linears.items() if name in method.modules]
        halves = {"self_attn", "attention", "attn", "mlp"} & set(method.modules)
        # an attention is roughly a third of a layer, the feed-forward the rest
        shares = sum(0.65 if half == "mlp" else 0.35 for half in halves)
        layer = round(shares * layer) + sum(one.inputs * one.outputs * one.count for one in named)
    chosen = method.last_layers or method.first_layers or method.expand_layers
    if not chosen:
        chosen = found.layers if method.modules else (0 if method.extra_modules else 2)
    return min(chosen, found.layers) * layer + _whole(found, method.extra_modules)
