"""How sharply the loss bends along each weight, estimated for Sophia (arXiv:2305.14342).

The Gauss-Newton-Bartlett estimate: of tokens that are drawn from what the model itself says, in place of
those of the rows, the mean loss has a gradient g, and n g² of n tokens is on average the diagonal of the
Gauss-Newton matrix. It takes two passes forward and one back more, and no second derivatives.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ftkit.fast.logprobs import LogProbs


def curvature(
    model: torch.nn.Module,
    logprobs: LogProbs,
    batch: dict[str, Any],
    parameters: Sequence[torch.nn.Parameter],
) -> list[torch.Tensor]:
    """The estimate for each of `parameters`, whose gradients are left as they were."""
    kept = [parameter.grad for parameter in parameters]
    for parameter in parameters:
        parameter.grad = None
    try:
        found = logprobs(model, {**batch, "labels": logprobs.drawn(model, batch)})
        (-found.mean()).backward()
        return [
            torch.zeros_like(p) if p.grad is None else len(found) * p.grad.detach() ** 2 for p in parameters
        ]
    finally:
        for parameter, grad in zip(parameters, kept, strict=True):
            parameter.grad = grad
