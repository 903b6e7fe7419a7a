"""LoRA layers that read the same input, as one autograd node.

PEFT runs each adapted layer as four products, keeps its adapter in float32 and casts around it, and adds the
update to an output that was rounded already: in bfloat16 an update smaller than half a step of that grid is
lost. Here the layers of a group (q, k and v; gate and up; or one alone) are two products over inputs laid
side by side,

    h = x Aᵀ                         (tokens, ranks)
    y = [x, h] [W, sB]ᵀ + bias       (tokens, outputs), summed in float32 and rounded once

and the backward's first product gives the gradients of x and of h together. The frozen weights are held once:
the layers' own weights become views of the group's. PEFT's modules and parameters stay what they are, so
adapters save, load, switch off and merge as ever.

Beside the input only h is kept for the backward: the input as it came in, which other nodes keep too (what
attention put out, say), or, where it is a norm's output, what the norm makes it from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from ftkit.fast import pool
from ftkit.fast.norms import Norm, source_of

_ALIGN = 16
"""Columns for the ranks are padded to a multiple of this: products run best on such widths."""


@dataclass(eq=False)
class Linear:
    """One layer of a group: its frozen weight (outputs, inputs) and its adapter, if it has one.

    Attributes
    ----------
    a, b
        (rank, inputs) and (outputs, rank), trained; None without an adapter.
    scaling
        What the update is multiplied by: alpha / rank.
    """

    weight: torch.Tensor
    bias: torch.Tensor | None = None
    a: torch.Tensor | None = None
    b: torch.Tensor | None = None
    scaling: float = 1.0


@dataclass(eq=False)
class Group:
    """Layers that read the same input. Building one moves their weights into one block of memory.

    Attributes
    ----------
    extended
        (outputs, inputs + ranks): the weights, and beside each its `scaling * B` in the columns of its rank.
    a
        (ranks, inputs): the adapters' first matrices one under another, in the weights' precision.
    parameters
        The trained matrices: A and B of each adapted layer, in order.
    """

    layers: Sequence[Linear]
    extended: torch.Tensor = field(init=False)
    a: torch.Tensor = field(init=False)
    bias: torch.Tensor | None = field(init=False)

    def __post_init__(self) -> None:
        first = self.layers[0].weight
        self.inputs = first.shape[1]
        self.rows, self.columns = [], []
        row = column = 0
        for layer in self.layers:
            rank = 0 if layer.a is None else layer.a.shape[0]
            self.rows.append(slice(row, row + layer.weight.shape[0]))
            self.columns.append(slice(column, column + rank))
            row, column = row + layer.weight.shape[0], column + rank
        self.outputs = row
        self.ranks = -(-column // _ALIGN) * _ALIGN
        self.extended = first.new_zeros(self.outputs, self.inputs + self.ranks)
        self.a = first.new_zeros(self.ranks, self.inputs)
        biases = [layer.bias for layer in self.layers]
        self.bias = None
        if any(bias is not None for bias in biases):
            self.bias = torch.cat(
                [
                    first.new_zeros(layer.weight.shape[0]) if layer.bias is None else layer.bias.detach()
                    for layer in self.layers
                ]
            )
        for layer, rows in zip(self.layers, self.rows, strict=True):
            self.extended[rows, : self.inputs] = layer.weight.detach()
            layer.weight.data = self.extended[rows, : self.inputs]
        adapted = [layer for layer in self.layers if layer.a is not None]
        self.parameters: list[Any] = [matrix for layer in adapted for matrix in (layer.a, layer.b)]
        self.versions: list[int] = []

    def refresh(self) -> None:
        """Bring the adapters into the weights' precision; once a step, when the optimizer has moved them."""
        versions = [parameter._version for parameter in self.parameters]
        if versions == self.versions:
            return
        with torch.no_grad():
            for layer, rows, columns in zip(self.layers, self.rows, self.columns, strict=True):
                if layer.a is not None and layer.b is not None:
                    self.a[columns] = layer.a
                    start = self.inputs
                    self.extended[rows, start + columns.start : start + columns.stop] = (
                        layer.b * layer.scaling
                    )
        self.versions = versions

    # forward and backward on (tokens, width) matrices, also used by the gated feed-forward

    def widen(self, x: torch.Tensor) -> torch.Tensor:
        """(tokens, inputs) to (tokens, inputs + ranks): beside x its product with A."""
        wide = pool.empty(self.a, len(x), self.inputs + self.ranks)
        wide[:, : self.inputs] = x
        return self.fill_ranks(wide)

    def fill_ranks(self, wide: torch.Tensor) -> torch.Tensor:
        """Write the product with A beside the inputs that stand in `wide` already."""
        if self.ranks:
            wide[:, self.inputs :] = wide[:, : self.inputs] @ self.a.T
        return wide

    def project(self, wide: torch.Tensor) -> torch.Tensor:
        """(tokens, inputs + ranks) to (tokens, outputs)."""
        out = pool.empty(wide, len(wide), self.outputs)
        if self.bias is not None:
            return torch.addmm(self.bias, wide, self.extended.T, out=out)
        return torch.mm(wide, self.extended.T, out=out)

    def back(self, grad: torch.Tensor, needs_input: bool = True) -> tuple[torch.Tensor | None, torch.Tensor]:
        """Gradients of the inputs (tokens, inputs) and of h (tokens, ranks), from that of the outputs."""
        if not needs_input:
            return None, grad @ self.extended[:, self.inputs :]
        both = pool.empty(grad, len(grad), self.inputs + self.ranks)
        torch.mm(grad, self.extended, out=both)
        of_h = both[:, self.inputs :]
        if not self.ranks:
            return both, of_h
        of_x = pool.empty(grad, len(grad), self.inputs)
        return torch.addmm(both[:, : self.inputs], of_h, self.a, out=of_x), of_h

    def of_parameters(
        self, grad: torch.Tensor, of_h: torch.Tensor, x: torch.Tensor, h: torch.Tensor
    ) -> list[torch.Tensor]:
        """Gradients of `parameters`."""
        if not self.ranks:
            return []
        of_a = of_h.T @ x
        of_b = h.T @ grad
        grads = []
        for layer, rows, columns in zip(self.layers, self.rows, self.columns, strict=True):
            if layer.a is not None and layer.b is not None:
                grads.append(of_a[columns].to(layer.a.dtype))
                grads.append(of_b[columns, rows].T.to(layer.b.dtype).mul_(layer.scaling))
        return grads


def grouped_linear(x: torch.Tensor, group: Group) -> torch.Tensor:
    """(..., inputs) to (..., outputs of all layers side by side)."""
    group.refresh()
    return _GroupedLinear.apply(x, group, *group.parameters)


def source(x: torch.Tensor, group: Group) -> tuple[torch.Tensor, Norm | None]:
    """What is kept of a node's input (..., inputs), and the norm that makes the input from it again."""
    found = source_of(x) if x.dtype == group.a.dtype else None
    return found or (x.reshape(-1, group.inputs).to(group.a.dtype), None)


def again(kept: torch.Tensor, norm: Norm | None, group: Group) -> torch.Tensor:
    """(tokens, inputs) from what `source` kept."""
    if norm is None:
        return kept
    x = pool.empty(kept, kept.numel() // group.inputs, group.inputs)
    norm.write(kept, x)
    return x


class _GroupedLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, group: Group, *parameters: torch.Tensor) -> torch.Tensor:
        kept, ctx.norm = source(x, group)
        wide = group.widen(x.reshape(-1, group.inputs))
        ctx.group, ctx.like = group, (x.shape, x.dtype)
        ctx.save_for_backward(*((kept, wide[:, group.inputs :].clone()) if parameters else ()))
        return group.project(wide).view(*x.shape[:-1], group.outputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        group, (shape, dtype) = ctx.group, ctx.like
        saved = ctx.saved_tensors
        grad = grad.reshape(-1, group.outputs)
        of_x, of_h = group.back(grad, ctx.needs_input_grad[0])
        of_parameters = []
        if saved:
            kept, h = saved
            of_parameters = group.of_parameters(grad, of_h, again(kept, ctx.norm, group), h)
        return (None if of_x is None else of_x.view(shape).to(dtype), None, *of_parameters)
