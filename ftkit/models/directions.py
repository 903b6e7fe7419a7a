"""LoRA that begins with the main directions of the weights themselves (PiSSA, OLoRA), on the model as it is.

Both methods move a part `s B0 A0` of each weight W into the adapter and train the rest of the way from there:

    y = (W - s B0 A0) x + s B A x         with A, B beginning as A0, B0

Here W is left alone, and the adapter holds both parts, of which the second stays as it is:

    y = W x + s [B, -B0] [A; A0] x        (twice the rank)

That is the same function with the same gradients for A and B; but the base model beneath the adapter is the
original, to the bit, and what is saved is a plain LoRA that goes on the original anywhere.
"""

from __future__ import annotations

from typing import Any

import torch

_POWER_ITERATIONS = 16
"""Of the randomised SVD: as many as make its leading directions the exact ones for PiSSA's purpose."""


def start_from_directions(model: Any, init: str, rank: int) -> None:
    """Give every LoRA layer of a model, made with twice `rank`, its first values; half of each is held.

    Raises
    ------
    ValueError
        Where a layer's weights are not plain numbers, or it is too small for the rank.
    """
    from peft.tuners.lora import LoraLayer

    for name, layer in model.named_modules():
        if not isinstance(layer, LoraLayer) or "default" not in layer.lora_A:
            continue
        weight = getattr(layer.get_base_layer(), "weight", None)
        if weight is None:  # experts laid into one block begin as LoRA does
            continue
        if not torch.is_floating_point(weight) or weight.dim() != 2:
            raise ValueError(f"method.init {init} needs plain weights, and {name} has {weight.dtype}")
        if rank > min(weight.shape):
            raise ValueError(f"method.rank {rank} is more than {name} has: {min(weight.shape)}")
        weight = weight.detach().float()
        if getattr(layer, "fan_in_fan_out", False):
            weight = weight.T
        if init == "pissa":
            b, a = leading(weight / layer.scaling["default"], rank)
        else:  # the paper leaves the scale out
            b, a = _orthogonal(weight, rank)
        first, second = layer.lora_A["default"].weight, layer.lora_B["default"].weight
        with torch.no_grad():
            first.copy_(torch.cat([a, a]))
            second.copy_(torch.cat([b, -b], dim=1))
        hold(first, second, rank)


def hold(first: torch.Tensor, second: torch.Tensor, rank: int) -> None:
    """Let only the first `rank` rows of A and columns of B learn."""
    first.register_hook(_rows(rank))
    second.register_hook(_columns(rank))


def leading(weight: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """B0 (outputs, rank) and A0 (rank, inputs) whose product is the best of that rank (arXiv:2404.02948)."""
    u, s, v = torch.svd_lowrank(weight, q=min(rank + 8, *weight.shape), niter=_POWER_ITERATIONS)
    root = s[:rank].sqrt()
    return u[:, :rank] * root, root[:, None] * v[:, :rank].T


def _orthogonal(weight: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The first columns of Q and rows of R of the weight (arXiv:2406.01775)."""
    q, r = torch.linalg.qr(weight)
    return q[:, :rank], r[:rank]


def _rows(rank: int) -> Any:
    def held(grad: torch.Tensor) -> torch.Tensor:
        grad = grad.clone()
        grad[rank:] = 0
        return grad

    return held


def _columns(rank: int) -> Any:
    def held(grad: torch.Tensor) -> torch.Tensor:
        grad = grad.clone()
        grad[:, rank:] = 0
        return grad

    return held
