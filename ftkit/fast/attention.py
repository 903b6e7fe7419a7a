"""Causal attention over rows laid end to end: each row attends to itself only, no mask over the whole batch.

Registered with transformers' AttentionInterface under the name in `IMPLEMENTATION`. The rows' borders come
with the call as the keyword `cu_seqlens`; calls without it (generation) go to transformers' own SDPA, with
its mask.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import threading
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812  the field's own abbreviation

IMPLEMENTATION = "ftkit_segments"

PRODUCTS_UP_TO = 512
"""On a CPU, rows up to so many tokens use batched products: torch's bf16 flash backward is slower there."""

_state = threading.local()


@contextlib.contextmanager
def packed() -> Iterator[None]:
    """While inside, models in this thread are given rows laid end to end: no attention mask is built."""
    _state.packed = True
    try:
        yield
    finally:
        _state.packed = False


@functools.cache
def register() -> str:
    """Make the implementation known to transformers; returns its name."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    def mask(*args: Any, **kwargs: Any) -> Any:
        return None if getattr(_state, "packed", False) else sdpa_mask(*args, **kwargs)

    AttentionInterface.register(IMPLEMENTATION, _attention)
    AttentionMaskInterface.register(IMPLEMENTATION, mask)
    return IMPLEMENTATION


def _attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    cu_seqlens: torch.Tensor | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    if cu_seqlens is None:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    out = segment_attention(
        query,
        key,
        value,
        cu_seqlens,
        scaling=scaling,
        dropout=dropout if module.training else 0.0,
        window=kwargs.get("sliding_window"),
        softcap=kwargs.get("softcap"),
    )
    return out.transpose(1, 2).contiguous(), None


def segment_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cu_seqlens: torch.Tensor,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    window: int | None = None,
    softcap: float | None = None,
) -> torch.Tensor:
    """Causal attention within each segment.

    Parameters
    ----------
    query, key, value
        (1, heads, tokens, head_size) and, for key and value, (1, kv_heads, tokens, head_size); heads is a
        multiple of kv_heads.
    cu_seqlens
        (segments + 1,) ints: where each segment starts, and the end.
    window
        Sliding window in tokens: a token sees itself and the window - 1 before it.
    softcap
        Scores become softcap * tanh(scores / softcap) (gemma 2).

    Returns
    -------
    torch.Tensor
        (1, heads, tokens, head_size).
    """
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    parts = []
    for start, end in itertools.pairwise(cu_seqlens.tolist()):
        q, k, v = (tensor[:, :, start:end] for tensor in (query, key, value))
        by_products = softcap or (q.device.type == "cpu" and end - start <= PRODUCTS_UP_TO and not dropout)
        one = _by_products if by_products else _by_sdpa
        parts.append(one(q, k, v, scaling, dropout, window, softcap))
    return torch.cat(parts, dim=2)


def _by_products(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    scaling: float,
    dropout: float,
    window: int | None,
    softcap: float | None,
) -> torch.Tensor:
    """Two batched products; a group's query heads stand under one another, so K and V are not repeated."""
    _, heads, tokens, size = q.shape
    groups = k.shape[1]
    stacked = q.reshape(groups, heads // groups * tokens, size)
    scores = torch.bmm(stacked, k[0].transpose(1, 2)).mul(scaling).view(heads, tokens, tokens)
    if softcap:
        scores = softcap * torch.tanh(scores / softcap)
    weights = torch.softmax(scores + _causal_bias(tokens, window, scores.dtype, scores.device), dim=-1)
    weights = F.dropout(weights, dropout) if dropout else weights
    return torch.bmm(weights.view(groups, -1, tokens), v[0]).view(1, heads, tokens, size)


def _by_sdpa(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    scaling: float,
    dropout: float,
    window: int | None,
    softcap: float | None,
) -> torch.Tensor:
    tokens = q.shape[2]
    narrow = window is not None and window < tokens
    bias = _causal_bias(tokens, window, q.dtype, q.device) if narrow else None
    grouped = q.shape[1] != k.shape[1]
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=bias, dropout_p=dropout, is_causal=not narrow, scale=scaling, enable_gqa=grouped
    )


@functools.lru_cache(maxsize=64)
def _causal_bias(tokens: int, window: int | None, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """(tokens, tokens): zero where a token may look, minus infinity elsewhere."""
    allowed = torch.ones(tokens, tokens, dtype=torch.bool, device=device).tril()
    if window is not None and window < tokens:
        allowed &= allowed.new_ones(tokens, tokens).triu(1 - window)
    return torch.zeros(tokens, tokens, dtype=dtype, device=device).masked_fill_(~allowed, float("-inf"))
