"""The gated feed-forward, down(act(gate(x)) * up(x)), as one autograd node.

Kept for the backward are the input (see `lora.source`) and the two projections, not their activation and
product: those are made again, which is one pass over memory against two.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd.function import once_differentiable

from ftkit.fast import compiled, pool
from ftkit.fast.lora import Group, again, source

aten = torch.ops.aten


class Silu:
    """SiLU and its derivative, into given memory."""

    kernel: int | None = 0
    """Its number in kernels.cpp."""

    def forward(self, x: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        return aten.silu.out(x, out=out)

    def backward(self, grad: torch.Tensor, x: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        return aten.silu_backward.grad_input(grad, x, grad_input=out)


class Gelu:
    """GELU, exact or by tanh, and its derivative, into given memory."""

    def __init__(self, approximate: str, kernel: int | None) -> None:
        self.approximate = approximate
        self.kernel = kernel

    def forward(self, x: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        return aten.gelu.out(x, approximate=self.approximate, out=out)

    def backward(self, grad: torch.Tensor, x: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        return aten.gelu_backward.grad_input(grad, x, approximate=self.approximate, grad_input=out)


Activation = Silu | Gelu
ACTIVATIONS: tuple[Activation, ...] = (Silu(), Gelu("tanh", 1), Gelu("none", None))


def gated_mlp(
    x: torch.Tensor, gate_up: Group, down: Group, activation: Activation, *, recompute: bool = False
) -> torch.Tensor:
    """(..., hidden) to (..., hidden)."""
    gate_up.refresh()
    down.refresh()
    return _GatedMLP.apply(x, gate_up, down, activation, recompute, *gate_up.parameters, *down.parameters)


class _GatedMLP(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        gate_up: Group,
        down: Group,
        activation: Activation,
        recompute: bool,
        *_: torch.Tensor,
    ) -> torch.Tensor:
        kept, norm = source(x, gate_up)
        wide = gate_up.widen(x.reshape(-1, gate_up.inputs))
        h = wide[:, gate_up.inputs :].clone()
        projections = gate_up.project(wide)
        wide = _activated(projections, down, activation)
        down.fill_ranks(wide)
        ctx.parts = (gate_up, down, activation, norm, x.shape, x.dtype)
        ctx.save_for_backward(kept, h, None if recompute else projections, wide[:, down.inputs :].clone())
        return down.project(wide).view(*x.shape[:-1], down.outputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        gate_up, down, activation, norm, shape, dtype = ctx.parts
        kept, h, projections, h_down = ctx.saved_tensors
        x = again(kept, norm, gate_up)
        if projections is None:
            projections = gate_up.project(gate_up.widen(x))
        grad = grad.reshape(-1, down.outputs)
        of_inner, of_h = down.back(grad)
        assert of_inner is not None
        inner, of_projections = _activation_back(of_inner, projections, activation)
        of_down = down.of_parameters(grad, of_h, inner, h_down)
        of_x, of_h = gate_up.back(of_projections, ctx.needs_input_grad[0])
        of_gate_up = gate_up.of_parameters(of_projections, of_h, x, h)
        return (
            None if of_x is None else of_x.view(shape).to(dtype),
            None,
            None,
            None,
            None,
            *of_gate_up,
            *of_down,
        )


def _activated(projections: torch.Tensor, down: Group, activation: Activation) -> torch.Tensor:
    """act(gate) * up, with room beside it for the ranks of `down`."""
    wide = pool.empty(projections, len(projections), down.inputs + down.ranks)
    inner = wide[:, : down.inputs]
    if activation.kernel is not None and compiled.available(projections):
        arguments = (activation.kernel, projections, wide, wide.stride(0), len(wide), down.inputs)
        compiled.call("gate", *arguments)
        return wide
    gate, up = projections.chunk(2, dim=-1)
    activation.forward(gate, inner)
    inner.mul_(up)
    return wide


def _activation_back(
    grad: torch.Tensor, projections: torch.Tensor, activation: Activation
) -> tuple[torch.Tensor, torch.Tensor]:
    """act(gate) * up made again, and the gradient of (gate, up); the memory of `grad` is used up."""
    of_projections = pool.empty(projections, *projections.shape)
    if activation.kernel is not None and compiled.available(grad, projections):
        arguments = (activation.kernel, grad, projections, of_projections, len(grad), grad.shape[-1])
        compiled.call("gate_back", *arguments)
        return grad, of_projections
    gate, up = projections.chunk(2, dim=-1)
    of_gate, of_up = of_projections.chunk(2, dim=-1)
    activated = activation.forward(gate, torch.empty_like(grad))
    torch.mul(grad, activated, out=of_up)
    inner = activated.mul_(up)
    activation.backward(grad.mul_(up), gate, of_gate)
    return inner, of_projections
