"""Rotary positions on queries and keys, one pass each way (Su et al. 2021, arXiv:2104.09864).

A head's two halves are turned against each other, as llama and its kin store them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd.function import once_differentiable

from ftkit.fast import compiled


def rotary(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """(1, heads, tokens, size), turned by (1, tokens, size) cosines and sines; the result is contiguous."""
    return _Rotary.apply(x, cos.contiguous(), sin.contiguous())


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
    def forward(ctx: Any, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(cos, sin)
        return _turn(x, cos, sin, 1.0, x.new_empty(x.shape))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        grad = grad if grad.stride(-1) == 1 else grad.contiguous()
        _, heads, tokens, size = grad.shape
        out = grad.new_empty(1, tokens, heads, size).transpose(1, 2)  # as the projections lay them
        cos, sin = ctx.saved_tensors
        return _turn(grad, cos, sin, -1.0, out), None, None
