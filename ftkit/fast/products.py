"""The product of a few rows with a large matrix, in float32 on the processor.

Libraries of products cut such a matrix into pieces before they multiply, which pays for many rows. For 8 rows
they take two to three times as long as the kernel here, which reads the matrix as it lies.
"""

from __future__ import annotations

import torch

from ftkit.fast import compiled

_FEW = range(2, 33)
"""Rows for which the kernel is faster (`python -m tests.benchmarks.kernel_speed --only mlp,lora,product`)."""


def times(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """`x @ weight.T`, without a gradient where the rows are few.

    Parameters
    ----------
    x
        (rows, inputs).
    weight
        (outputs, inputs).

    Returns
    -------
    torch.Tensor
        (rows, outputs).
    """
    if (
        len(x) not in _FEW
        or x.dtype != torch.float32
        or torch.is_grad_enabled()
        or x.stride(1) != 1
        or weight.stride(1) != 1
        or not compiled.available(x, weight)
    ):
        return x @ weight.T
    outputs, inputs = weight.shape
    out = x.new_empty(len(x), outputs)
    compiled.call("few_rows", x, x.stride(0), weight, weight.stride(0), out, len(x), inputs, outputs)
    return out
