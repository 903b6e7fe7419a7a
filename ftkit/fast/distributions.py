"""Two models' distributions of the same tokens beside one another, a slice of rows at a time.

A row of logits is as long as the vocabulary, and who learns from a teacher needs two of them for each trained
token. Here only a slice of either lives at any moment: a token's loss depends on its own two hidden states
alone, so the gradient is made in the forward pass, slice by slice.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from ftkit.fast.loss import PLAIN, Logits

SLICE_BYTES = 16 * 2**20
"""Size of one slice of one model's fp32 logits; a loss and its gradient keep several of the kind."""
LEAST_ROWS = 32
"""Rows of a slice, however long the vocabulary."""

RowLosses = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], tuple[torch.Tensor, dict[str, torch.Tensor]]]
"""Of rows of the student's logits, of the teacher's, and targets: (rows,) losses and figures."""


@dataclass(frozen=True)
class Outputs:
    """What a model puts out where it predicts, before the vocabulary.

    Attributes
    ----------
    states
        (n, hidden_size), the decoder's last hidden states; or (n, vocab_size) logits where `head` is None.
    head
        (vocab_size, hidden_size), the output embedding.
    bias
        (vocab_size,), or None.
    logits
        What the model does to what its head gives.
    """

    states: torch.Tensor
    head: torch.Tensor | None = None
    bias: torch.Tensor | None = None
    logits: Logits = PLAIN

    @property
    def vocabulary(self) -> int:
        """How many tokens its logits are of."""
        return self.states.shape[1] if self.head is None else self.head.shape[0]


def beside(
    student: Outputs, teacher: Outputs, targets: torch.Tensor, losses: RowLosses
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """What `losses` makes of both models' logits, summed over all rows.

    Vocabularies that were padded to different sizes are compared over the tokens that both have.

    Parameters
    ----------
    teacher
        Taken as a constant.
    targets
        (n,) token ids.

    Returns
    -------
    tuple
        Scalar, differentiable in the student's tensors; and the figures, (n,) each, without gradients.
    """
    figures: dict[str, torch.Tensor] = {}
    total: torch.Tensor = _Beside.apply(
        student.states,
        student.head,
        student.bias,
        (student.logits, teacher, targets, losses),
        torch.is_grad_enabled(),
        figures,
    )
    return total, figures


class _Beside(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        states: torch.Tensor,
        head: torch.Tensor | None,
        bias: torch.Tensor | None,
        rest: tuple[Logits, Outputs, torch.Tensor, RowLosses],
        with_slopes: bool,
        figures: dict[str, torch.Tensor],
    ) -> torch.Tensor:
        logits, teacher, targets, losses = rest
        trains = [with_slopes and needed for needed in ctx.needs_input_grad[:3]]
        slopes = [_zeros(one) if one is not None and trained else None
                  for one, trained in zip((states, head, bias), trains, strict=True)]  # fmt: skip
        shared = min(Outputs(states, head).vocabulary, teacher.vocabulary)
        total, parts = states.new_zeros((), dtype=_exact(states)), []
        for part in _slices(len(targets), shared):
            with torch.enable_grad():
                leaves = [
                    None if one is None else one.detach().requires_grad_(trained)
                    for one, trained in zip((states[part], head, bias), trains, strict=True)
                ]
                made = _rows(leaves, logits)[:, :shared]
                known = _rows((teacher.states[part], teacher.head, teacher.bias), teacher.logits)[:, :shared]
                found, told = losses(made, known.detach(), targets[part])
                wanted = [leaf for leaf in leaves if leaf is not None and leaf.requires_grad]
                steps = iter(torch.autograd.grad(found.sum(), wanted) if wanted else ())
            for place, slope in enumerate(slopes):
                if slope is not None:
                    (slope[part] if place == 0 else slope).add_(next(steps))
            total += found.detach().sum()
            parts.append(told)
        figures |= {name: torch.cat([one[name].detach() for one in parts]) for name in parts[0]}
        given = (states, head, bias)
        ctx.save_for_backward(
            *(
                slope if slope is None or one is None else slope.to(one.dtype)
                for one, slope in zip(given, slopes, strict=True)
            )
        )
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        made = [None if slope is None else slope * grads[0].to(slope.dtype) for slope in ctx.saved_tensors]
        return (*made, None, None, None)


def _rows(outputs: Any, logits: Logits) -> torch.Tensor:
    """(rows, vocab_size) logits in float32 (float64 for float64) of hidden states, head and bias."""
    states, head, bias = outputs
    if head is None:
        return states.to(_exact(states))
    made = (states.to(head.dtype) @ head.T).to(_exact(head))
    made = made if bias is None else made + bias
    made = made if logits.scale == 1 else made * logits.scale
    return logits.softcap * torch.tanh(made / logits.softcap) if logits.softcap else made


def _exact(tensor: torch.Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)


def _zeros(like: torch.Tensor) -> torch.Tensor:
    return torch.zeros_like(like, dtype=_exact(like))


def _slices(count: int, vocabulary: int) -> list[slice]:
    """Rows that are computed together; one slice of none where there are none."""
    rows = max(LEAST_ROWS, SLICE_BYTES // (4 * vocabulary))
    return [slice(start, start + rows) for start in range(0, max(count, 1), rows)]
