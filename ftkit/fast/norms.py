"""RMS normalisation with a frozen weight, as one pass forward and one back (Zhang and Sennrich 2019)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from ftkit.fast import compiled, pool


@dataclass(frozen=True)
class Norm:
    """One norm: its weight (n,), frozen, the number under its root, and what is added to the weight."""

    weight: torch.Tensor
    eps: float
    offset: float

    def write(self, x: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        """Norm `x` (..., n), contiguous, into the rows of `out` (rows, n); returns 1 / rms of each."""
        size = x.shape[-1]
        inverse = torch.empty(x.numel() // size)
        numbers = float(self.offset), float(self.eps)
        compiled.call("rms_norm", x, self.weight, *numbers, out, out.stride(0), inverse, len(inverse), size)
        return inverse


def source_of(y: torch.Tensor) -> tuple[torch.Tensor, Norm] | None:
    """What `y` is made again from, if it is a norm's output, unchanged: the input, which is kept anyway."""
    known: tuple[torch.Tensor, Norm, int] | None = getattr(y, "ftkit_source", None)
    return known[:2] if known is not None and known[2] == y._version else None


def rms_norm(x: torch.Tensor, weight: torch.Tensor, *, eps: float, offset: float = 0.0) -> torch.Tensor:
    """(..., n) to (..., n): x / rms(x) * (offset + weight).

    Parameters
    ----------
    weight
        (n,), frozen, of x's type.
    offset
        1 for the models that store the weight's distance from one (gemma).
    """
    norm = Norm(weight, eps, offset)
    rows = x.detach().contiguous()
    y: torch.Tensor = _RMSNorm.apply(x, rows, norm)
    if torch.is_grad_enabled():
        y.ftkit_source = (rows, norm, y._version)  # type: ignore[attr-defined]
    return y


def reference_rms_norm(
    x: torch.Tensor, weight: torch.Tensor, *, eps: float, offset: float = 0.0
) -> torch.Tensor:
    """The same by plain autograd: what `rms_norm` is tested against."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
    return ((offset + weight.to(wide.dtype)) * wide).to(x.dtype) if offset else weight * wide.to(x.dtype)


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, rows: torch.Tensor, norm: Norm) -> torch.Tensor:
        y = pool.empty(rows, *rows.shape)
        inverse = norm.write(rows, y.view(-1, y.shape[-1]))
        ctx.save_for_backward(rows, norm.weight, inverse)
        ctx.offset = norm.offset
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        rows, weight, inverse = ctx.saved_tensors
        grad, out = grad.contiguous(), pool.empty(rows, *rows.shape)
        arguments = (grad, rows, weight, float(ctx.offset), inverse, out, len(inverse), rows.shape[-1])
        compiled.call("rms_norm_back", *arguments)
        return out, None, None
