"""Kernels for a single token, as generation makes them: each reads its weights once, with no cast or copy.

At batch 1 a linear layer is bound by reading its weights, and torch's products of one row spend as long on
getting started; PEFT adds ten small operations to each. Here a layer with its adapter is one call.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812  the field's own abbreviation

from ftkit.fast import compiled

LEAST = 150_000
"""Numbers of all heads' keys from which the compiled kernel is faster than torch's attention: in float32 on
two cores, heads of five models, 1.1 to 1.9 of its time at less, 0.7 to 1.0 at more."""


def is_one_token(x: torch.Tensor) -> bool:
    """Whether `x` (..., width) is a single row, and nothing is learned from it."""
    return x.numel() == x.shape[-1] and not torch.is_grad_enabled() and x.device.type == "cpu"


def one_linear(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    a: torch.Tensor | None = None,
    b: torch.Tensor | None = None,
    scaling: float = 1.0,
) -> torch.Tensor:
    """`W x + bias + scaling B (A x)` for one row, summed in float32 and rounded once.

    Parameters
    ----------
    x
        (..., inputs), one row; `compiled.available(x, weight)` says whether it can be had.
    weight, bias
        (outputs, inputs), its rows contiguous, and (outputs,).
    a, b
        (rank, inputs) and (outputs, rank), float32 and contiguous.

    Returns
    -------
    torch.Tensor
        (..., outputs).
    """
    outputs, inputs = weight.shape
    out = x.new_empty(*x.shape[:-1], outputs)
    rank = 0 if a is None or b is None else a.shape[0]
    adapter = (a, b) if a is not None and b is not None else (0, 0)
    compiled.call(
        "one_linear", x.contiguous(), weight, weight.stride(0), 0 if bias is None else bias, *adapter,
        float(scaling), rank, out, inputs, outputs,
    )  # fmt: skip
    return out


def takes(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> bool:
    """Whether `one_query` takes these: one query of one conversation, with rows of keys end to end."""
    return (
        query.shape[0] == query.shape[2] == 1
        and not torch.is_grad_enabled()
        and query.shape[-1] == value.shape[-1]
        and all(x.stride(-1) == 1 and x.stride(-2) == x.shape[-1] for x in (key, value))
        and compiled.available(query, key, value)
    )


def one_query(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float | None
) -> torch.Tensor:
    """Attention of one token to all keys.

    Parameters
    ----------
    query
        (1, heads, 1, size).
    key, value
        (1, kv_heads, keys, size); heads is a multiple of kv_heads.

    Returns
    -------
    torch.Tensor
        (1, 1, heads, size).
    """
    _, heads, _, size = query.shape
    if heads * key.shape[2] * size < LEAST:
        out = F.scaled_dot_product_attention(query, key, value, scale=scaling, enable_gqa=True)
        return out.transpose(1, 2)
    scaling = size**-0.5 if scaling is None else scaling
    out = query.new_empty(1, 1, heads, size)
    compiled.call(
        "one_query", query.reshape(heads, size).contiguous(), key, key.stride(1), value, value.stride(1),
        float(scaling), out, heads, heads // key.shape[1], key.shape[2], size,
    )  # fmt: skip
    return out
