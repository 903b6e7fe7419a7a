"""Rotary positions on queries and keys, one pass each way (Su et al. 2021, arXiv:2104.09864).

A head's two halves are turned against each other, as llama and its kin store them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd.function import once_differentiable

from ftkit.fast import compiled, pool


def rotary(
    q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """(1, heads, tokens, size) each, turned by (1, tokens, size) cosines and sines; contiguous."""
    return _Rotary.apply(q, k, cos.contiguous(), sin.contiguous())


def takes(q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> bool:
    """Whether `rotary` computes these: one batch row, whole heads, one type, on the processor."""
    return (
        q.dim() == 4 == k.dim()
        and q.shape[0] == 1
        and cos.shape == sin.shape == (1, q.shape[2], q.shape[3])
        and q.stride(-1) == 1 == k.stride(-1)
        and q.shape[-1] % 2 == 0
        and compiled.available(q, k, cos, sin)
    )


def _turn(
    x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, sign: float, out: torch.Tensor
) -> torch.Tensor:
    _, heads, tokens, size = x.shape
    strides = (x.stride(2), x.stride(1)), (out.stride(2), out.stride(1))
    compiled.call("rotary", x, *strides[0], cos, sin, sign, out, *strides[1], tokens, heads, size)
    return out


class _Rotary(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> Any:
        ctx.save_for_backward(cos, sin)
        return tuple(_turn(x, cos, sin, 1.0, pool.empty(x, *x.shape)) for x in (q, k))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        cos, sin = ctx.saved_tensors
        return *(_turn(grad, cos, sin, -1.0, _as_projected(grad)) for grad in map(_whole, grads)), None, None


def _whole(x: torch.Tensor) -> torch.Tensor:
    """With the numbers of a head side by side."""
    return x if x.stride(-1) == 1 else x.contiguous()


def _as_projected(x: torch.Tensor) -> torch.Tensor:
    """Memory for a gradient, token by token as the projections write it."""
    _, heads, tokens, size = x.shape
    return pool.empty(x, 1, tokens, heads, size).transpose(1, 2)
