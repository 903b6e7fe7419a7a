"""RMS normalisation with a frozen weight, as one pass forward and one back (Zhang and Sennrich 2019)."""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd.function import once_differentiable

from ftkit.fast import compiled


def rms_norm(x: torch.Tensor, weight: torch.Tensor, *, eps: float, offset: float = 0.0) -> torch.Tensor:
    """(..., n) to (..., n): x / rms(x) * (offset + weight).

    Parameters
    ----------
    weight
        (n,), frozen, of x's type.
    offset
        1 for the models that store the weight's distance from one (gemma).
    """
    return _RMSNorm.apply(x, weight, eps, offset)


def reference_rms_norm(
    x: torch.Tensor, weight: torch.Tensor, *, eps: float, offset: float = 0.0
) -> torch.Tensor:
    """The same by plain autograd: what `rms_norm` is tested against."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
    return ((offset + weight.to(wide.dtype)) * wide).to(x.dtype) if offset else weight * wide.to(x.dtype)


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, eps: float, offset: float) -> torch.Tensor:
        rows = x.contiguous()
        y = torch.empty_like(rows)
        size = x.shape[-1]
        inverse = torch.empty(x.numel() // size)
        compiled.call(
            "rms_norm", rows, weight, float(offset), float(eps), y, size, inverse, len(inverse), size
        )
        ctx.save_for_backward(rows, weight, inverse)
        ctx.offset = offset
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        rows, weight, inverse = ctx.saved_tensors
        grad, out = grad.contiguous(), torch.empty_like(rows)
        arguments = (grad, rows, weight, float(ctx.offset), inverse, out, len(inverse), rows.shape[-1])
        compiled.call("rms_norm_back", *arguments)
        return out, None, None, None
