"""A model made quick at answering on a CPU: its linear layers, its attention and its cache, by structure.

Each layer keeps its own forward for everything but single tokens without a gradient, so that training goes on
as it was, and adapters are switched off as ever. What does not fit (a variant of LoRA, an attention of the
model's own, no compiled kernels) stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812  the field's own abbreviation
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from ftkit.fast import attention, compiled
from ftkit.fast.decoding import is_one_token, one_linear
from ftkit.fast.lora import Linear
from ftkit.fast.pieces import NotFittingError, linear_of, plain

_GROWTH = 256
"""Tokens by which a cache's memory grows, at least; it grows by half otherwise."""
_MARK = "ftkit_quick"


def quicken(model: Any) -> int:
    """Make the layers of `model` quick at answering; once a model. How many layers it serves.

    Single tokens go through `decoding`; adapters that PEFT would compute in float32, with a cast before and
    after each, are added in the weights' precision to longer inputs.
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    done = getattr(base, _MARK, None)
    if done is not None:
        return int(done)
    served, inside = 0, set[int]()
    for module in model.modules():
        layer = None if id(module) in inside else _layer(module)
        if hasattr(module, "lora_A"):
            inside.update(map(id, module.modules()))  # its base layer and its matrices
        if layer is not None and compiled.available(layer.weight) and layer.weight.stride(1) == 1:
            module.forward = _quick(module, layer)
            served += 1
    takes_another = served and getattr(base, "_supports_attention_backend", False)
    if takes_another and base.config._attn_implementation == "sdpa":
        base.set_attn_implementation(attention.register())
    setattr(base, _MARK, served)
    return served


def _layer(module: Any) -> Linear | None:
    if type(module) is torch.nn.Linear:
        if type(module.weight.data) is not torch.Tensor:  # quantized
            return None
        return Linear(module.weight, module.bias)
    try:
        return linear_of(module) if hasattr(module, "lora_A") else None
    except NotFittingError:
        return None


def _quick(module: Any, layer: Linear) -> Callable[..., Any]:
    own = module.forward
    of_peft = layer.a is not None and "forward" not in vars(module)  # a piece of ftkit's keeps its sum

    def forward(x: torch.Tensor, *rest: Any, **more: Any) -> Any:
        usual = rest or more or torch.is_grad_enabled() or x.dtype != layer.weight.dtype
        if usual or getattr(module, "merged", False):
            return own(x, *rest, **more)
        a, b = (layer.a, layer.b) if layer.a is not None and plain(module) else (None, None)
        if is_one_token(x):
            return one_linear(x, layer.weight, layer.bias, _wide(a), _wide(b), layer.scaling)
        if a is None or b is None or not of_peft:
            return own(x)
        out = F.linear(x, layer.weight, layer.bias)
        h = F.linear(x, a.to(x.dtype)).view(-1, len(a))
        out.view(-1, len(b)).addmm_(h, b.to(x.dtype).T, alpha=layer.scaling)
        return out

    return forward


def _wide(x: torch.Tensor | None) -> torch.Tensor | None:
    """An adapter's matrix as the kernel takes it, and as PEFT mostly keeps it."""
    return None if x is None else x.detach().float().contiguous()


class _GrowingLayer(DynamicLayer):
    """Keys and values in memory that is longer than they are: a new token copies itself alone."""

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Take new keys and values (1, heads, tokens, size); all there are, as views."""
        count = self.get_seq_length()
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self._room: list[torch.Tensor] = []
        end = count + key_states.shape[-2]
        if not self._room or end > self._room[0].shape[-2]:
            size = max(end + _GROWTH, count * 3 // 2)
            rooms = [new.new_empty(*new.shape[:2], size, new.shape[-1]) for new in (key_states, value_states)]
            for room, before in zip(rooms, self._room, strict=False):
                room[:, :, :count] = before[:, :, :count]
            self._room = rooms
        for room, new in zip(self._room, (key_states, value_states), strict=True):
            room[:, :, count:end] = new
        self.keys, self.values = (room[:, :, :end] for room in self._room)
        return self.keys, self.values


def quick_cache(model: Any) -> DynamicCache:
    """A cache for one conversation; layers with a window keep transformers' own."""
    cache = DynamicCache(config=model.config)
    cache.layers = [_GrowingLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache
