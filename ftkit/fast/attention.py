"""Causal attention over rows laid end to end: each row attends to itself only, no mask over the whole batch.

Registered with transformers' AttentionInterface under the name in `IMPLEMENTATION`. The rows' borders come
with the call as the keyword `cu_seqlens`; calls without it (generation) go to transformers' own SDPA, with
its mask, or to `decoding` for a single token.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import itertools
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812  the field's own abbreviation
from torch.autograd.function import once_differentiable

from ftkit.fast import compiled, decoding, pool

IMPLEMENTATION = "ftkit_segments"

BLOCK = 256
"""Queries of a row that are computed together: longer rows skip most of the products that the mask hides."""
KEPT_UP_TO = 384
"""Attention weights of rows up to so many tokens are kept for the backward rather than made again."""
LIKENESS, FLASH_LIKENESS = 0.85, 0.97
"""Rows at least so long, as a share of the longest, are computed together: by products, and by torch's own
attention, which a call costs less (8 rows of 210 to 252 tokens: the same from 0.5 to 0.97, 8 alike 0.8)."""
SHORT_WEIGHTS = 16 * 2**10
"""Where the longest row has at most so many attention weights, in all heads, all rows are computed together.
Measured in float32 on two cores, 9 heads, 8 rows of 8, 16, 32 and 64 tokens, processor milliseconds: together
1.3, 2.3, 4.1, 12.4, row by row 1.9, 3.0, 4.7, 14.0; where rows differ, padding adds half and more."""
GROUP_WEIGHTS = 16 * 2**20
"""At most so many attention weights are made together."""

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
        if attention_mask is None and not kwargs.get("softcap") and decoding.takes(query, key, value):
            return decoding.one_query(query, key, value, scaling), None
        if kwargs.get("softcap"):
            return _capped(query, key, value, attention_mask, kwargs["softcap"], scaling), None
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
        keep=getattr(module, "ftkit_keep", True),
    )
    return out.transpose(1, 2), None


def _capped(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    softcap: float,
    scaling: float | None,
) -> torch.Tensor:
    """Attention whose scores are capped (gemma 2), which torch's own does not know, under any mask.

    Shapes as in transformers' interface: (rows, heads, tokens, head_size) in, (rows, tokens, heads,
    head_size) out.
    """
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    scores = query @ key.transpose(-1, -2) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    scores = softcap * torch.tanh(scores / softcap)
    if mask is None:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device)
        mask = mask.tril(scores.shape[-1] - scores.shape[-2])
    if mask.dtype == torch.bool:
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    else:
        scores = scores + mask
    weights = scores.softmax(dim=-1, dtype=torch.float32).to(value.dtype)
    return (weights @ value).transpose(1, 2)


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
    keep: bool = True,
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
    keep
        Keep the weights of short rows for the backward, where products are taken (bfloat16); False: make all
        of them again.

    Returns
    -------
    torch.Tensor
        (1, heads, tokens, head_size).
    """
    lengths = _lengths(cu_seqlens)
    longest = max(lengths)
    plain = not dropout and not softcap
    narrow = window is not None and window < longest
    # in float32 torch's own attention is faster than products of blocks, where no window narrows it
    if plain and not narrow and query.is_cpu and (query.dtype == torch.float32 or _short(query, longest)):
        rows = len(lengths)
        if rows == 1 or longest * rows == query.shape[2]:
            return _alike(query, key, value, rows, scaling)
        if query.shape[1] != key.shape[1] and not takes_groups():
            return _by_rows(query, key, value, lengths, scaling, 0.0, None)
        likeness = 0.0 if _short(query, longest) else FLASH_LIKENESS
        return _ByFlash.apply(query, key, value, lengths, scaling, likeness)
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    if plain and query.is_cuda and flash_takes(query.dtype, query.shape[-1]):
        return _by_varlen(query, key, value, cu_seqlens, scaling, window)
    if dropout or not (query.is_cpu or softcap):
        return _by_rows(query, key, value, lengths, scaling, dropout, window)
    return _ByProducts.apply(query, key, value, lengths, scaling, window or 0, softcap or 0.0, keep)


@functools.cache
def takes_groups() -> bool:
    """Whether torch's kernel for processors takes fewer heads of keys than of queries: from 2.9 on.

    Earlier ones, it is to be feared, read beyond the keys where `_ByFlash` calls them. The release is
    inferred from the date of https://github.com/pytorch/pytorch/pull/157893; no earlier one was tried.
    """
    major, minor = torch.__version__.split(".")[:2]
    return (int(major), int(minor)) >= (2, 9)


def _short(query: torch.Tensor, longest: int) -> bool:
    return query.shape[1] * longest**2 <= SHORT_WEIGHTS


def _lengths(cu_seqlens: torch.Tensor) -> tuple[int, ...]:
    """Of the rows: found once a batch, not once a layer. Asking a GPU makes it wait."""
    known: tuple[int, ...] | None = getattr(cu_seqlens, "ftkit_lengths", None)
    if known is None:
        known = tuple(cu_seqlens.diff().tolist())
        cu_seqlens.ftkit_lengths = known  # type: ignore[attr-defined]
    return known


@functools.cache
def _varlen() -> Any:
    """torch's flash attention over rows end to end, where this release has it (2.10 and later)."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    known = inspect.signature(varlen_attn).parameters
    if not {"scale", "window_size"} <= set(known):
        return None
    return (
        functools.partial(varlen_attn, enable_gqa=True) if "enable_gqa" in known else _repeating(varlen_attn)
    )


def _repeating(varlen: Any) -> Any:
    """For releases whose kernel takes as many key heads as query heads only."""

    def call(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *rest: Any, **more: Any) -> torch.Tensor:
        each = q.shape[1] // k.shape[1]
        if each > 1:
            k, v = (x.repeat_interleave(each, dim=1) for x in (k, v))
        return varlen(q, k, v, *rest, **more)

    return call


def flash_takes(dtype: torch.dtype, size: int) -> bool:
    """Whether torch has a flash kernel for rows end to end: half precision, compute capability 8 or more."""
    return (
        dtype in (torch.bfloat16, torch.float16)
        and size % 8 == 0
        and size <= 256
        and torch.cuda.is_available()
        and torch.cuda.get_device_capability()[0] >= 8
        and _varlen() is not None
    )


def _by_varlen(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cu_seqlens: torch.Tensor,
    scaling: float,
    window: int | None,
) -> torch.Tensor:
    longest = max(_lengths(cu_seqlens))
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
    left = window - 1 if window else -1  # tokens before its own that a query sees
    out = _varlen()(
        q, k, v, cu_seqlens, cu_seqlens, longest, longest,
        scale=scaling, window_size=(left, 0),
    )  # fmt: skip
    return out.transpose(0, 1)[None]


def _by_sdpa(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    scaling: float | None,
    dropout: float,
    window: int | None,
) -> torch.Tensor:
    tokens = q.shape[2]
    narrow = window is not None and window < tokens
    bias = _hidden(0, tokens, tokens, window or 0, q.device).logical_not() if narrow else None
    grouped = q.shape[1] != k.shape[1]
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=bias, dropout_p=dropout, is_causal=not narrow, scale=scaling, enable_gqa=grouped
    )


def _alike(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, rows: int, scaling: float | None
) -> torch.Tensor:
    """Rows of one length, as they stand."""
    value = value.contiguous()  # or the whole stacked projection that it is part of would be kept
    if rows == 1:
        return F.scaled_dot_product_attention(
            query, key, value, is_causal=True, scale=scaling, enable_gqa=True
        )
    q, k, v = (x[0].unflatten(1, (rows, -1)).transpose(0, 1) for x in (query, key, value))
    out = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scaling, enable_gqa=True)
    return out.transpose(1, 2).flatten(0, 1).transpose(0, 1)[None]


def _by_rows(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    lengths: tuple[int, ...],
    scaling: float | None,
    dropout: float,
    window: int | None,
) -> torch.Tensor:
    value = value.contiguous()  # or the whole stacked projection that it is part of would be kept
    if len(lengths) == 1:
        return _by_sdpa(query, key, value, scaling, dropout, window)
    rows = zip(*(x.split(lengths, dim=2) for x in (query, key, value)), strict=True)
    parts = [_by_sdpa(q, k, v, scaling, dropout, window).transpose(1, 2) for q, k, v in rows if q.shape[2]]
    return torch.cat(parts, dim=1).transpose(1, 2)  # token by token in memory


@dataclass(frozen=True)
class _Group:
    """Rows of about one length, computed as if all had the longest's: a causal mask hides what is added."""

    rows: tuple[tuple[int, int], ...]
    """First token and end of each row in the batch."""
    length: int

    @functools.cached_property
    def index(self) -> torch.Tensor:
        """(rows * length,) the token at each place; where a row has ended, its last one again."""
        found = [min(start + n, end - 1) for start, end in self.rows for n in range(self.length)]
        return torch.tensor(found)

    @functools.cached_property
    def filled(self) -> torch.Tensor:
        """(rows * length,) whether a token of its own stands at each place."""
        return torch.tensor([n < end - start for start, end in self.rows for n in range(self.length)])

    @functools.cached_property
    def ended(self) -> torch.Tensor:
        """The places where none does."""
        return self.filled.logical_not().nonzero()[:, 0]

    @functools.cached_property
    def places(self) -> torch.Tensor:
        """Where the group's tokens stand, in the batch's order."""
        return self.filled.nonzero()[:, 0][self.index[self.filled].argsort()]

    @functools.cached_property
    def tokens(self) -> torch.Tensor:
        """The group's tokens, in the batch's order."""
        return self.index[self.places]

    def together(self, x: torch.Tensor, empty: bool = False) -> torch.Tensor:
        """(heads, tokens, size) to (rows, heads, length, size); `empty`: zeros where a row has ended."""
        if len(self.rows) == 1:
            start, end = self.rows[0]
            return x[None, :, start:end]
        by_tokens = x.transpose(0, 1)
        laid = by_tokens.index_select(0, self.index) if by_tokens.is_contiguous() else None
        laid = x.index_select(1, self.index).transpose(0, 1) if laid is None else laid
        if empty:
            laid.index_fill_(0, self.ended, 0)
        return laid.unflatten(0, (len(self.rows), -1)).transpose(1, 2)

    def gather(self, x: torch.Tensor, groups: int) -> torch.Tensor:
        """(heads, tokens, size) to (rows * groups, heads of a group, length, size); zeros fill up rows."""
        heads, _, size = x.shape
        if len(self.rows) == 1:
            start, end = self.rows[0]
            return x[:, start:end].reshape(groups, heads // groups, self.length, size)
        made = x.new_zeros(len(self.rows), groups, heads // groups, self.length, size)
        for place, (start, end) in enumerate(self.rows):
            made[place, :, :, : end - start] = x[:, start:end].unflatten(0, (groups, -1))
        return made.flatten(0, 1)

    def scatter(self, x: torch.Tensor, out: torch.Tensor) -> None:
        """The way back, into `out` (heads, tokens, size)."""
        x = x.unflatten(0, (len(self.rows), -1)).flatten(1, 2)
        for place, (start, end) in enumerate(self.rows):
            out[:, start:end] = x[place, :, : end - start]


@functools.lru_cache(maxsize=8)
def _groups(lengths: tuple[int, ...], likeness: float, heads: int = 0) -> list[_Group]:
    """Rows from the longest to the shortest, together while little is added and their weights stay small.

    `heads` is 0 where no weights are made. Found once a batch: every layer asks.
    """
    starts = [0, *itertools.accumulate(lengths)]
    rows = sorted(itertools.pairwise(starts), key=lambda row: row[0] - row[1])
    found: list[list[tuple[int, int]]] = []
    for row in rows:
        length = row[1] - row[0]
        if not length:
            continue
        if found:
            longest = found[-1][0][1] - found[-1][0][0]
            weights = (len(found[-1]) + 1) * heads * min(longest, BLOCK) * longest
            if length >= likeness * longest - 8 and weights <= GROUP_WEIGHTS:
                found[-1].append(row)
                continue
        found.append([row])
    return [_Group(tuple(rows), rows[0][1] - rows[0][0]) for rows in found]


def _blocks(length: int, window: int) -> list[tuple[slice, slice, int]]:
    """Queries, the keys that they may see, and where the first query stands among those."""
    found = []
    for start in range(0, length, BLOCK):
        stop = min(start + BLOCK, length)
        low = max(0, start - window + 1) if window else 0
        found.append((slice(start, stop), slice(low, stop), start - low))
    return found


def _apart(groups: list[_Group], parts: list[torch.Tensor]) -> torch.Tensor:
    """What `_Group.together` laid out, (rows, heads, length, size) each, as (tokens, heads, size)."""
    laid = [part.transpose(1, 2).flatten(0, 1) for part in parts]
    if len(groups) == 1:
        return laid[0].index_select(0, groups[0].places)
    tokens = sum(end - start for group in groups for start, end in group.rows)
    out = pool.empty(laid[0], tokens, *laid[0].shape[1:])
    for group, part in zip(groups, laid, strict=True):
        if len(group.rows) == 1:
            out[slice(*group.rows[0])] = part
        else:
            out.index_copy_(0, group.tokens, part.index_select(0, group.places))
    return out


class _ByFlash(torch.autograd.Function):
    """torch's attention for processors, which makes weights a block at a time, over rows of about one length
    at once. Kept are the parts as they stand in the batch, and what comes out as the next layer keeps it."""

    @staticmethod
    def forward(
        ctx: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        lengths: tuple[int, ...],
        scaling: float | None,
        likeness: float,
    ) -> torch.Tensor:
        # a copy, or the whole stacked projection that the values are part of would be kept
        query, key, value = query[0], key[0], value[0].contiguous()
        ctx.rows, ctx.scaling = _groups(lengths, likeness), scaling
        outs, totals = [], []
        for group in ctx.rows:
            parts = (group.together(x) for x in (query, key, value))
            out, total = _flash(*parts, 0.0, True, scale=scaling)
            outs.append(out)
            totals.append(total)
        out = _apart(ctx.rows, outs)
        ctx.save_for_backward(query, key, value, out, *totals)
        return out.transpose(0, 1)[None]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        query, key, value, out, *totals = ctx.saved_tensors
        found = []
        for group, total in zip(ctx.rows, totals, strict=True):
            of_out = group.together(grad[0], empty=True)
            parts = [group.together(x) for x in (query, key, value, out.transpose(0, 1))]
            found.append(_flash_back(of_out, *parts, total, 0.0, True, scale=ctx.scaling))
        grads = (_apart(ctx.rows, list(parts)) for parts in zip(*found, strict=True))
        return *(x.transpose(0, 1)[None] for x in grads), None, None, None


_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_flash_back = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


class _ByProducts(torch.autograd.Function):
    """Batched products a block of queries; a group's query heads stand under one another, so that keys and
    values are not repeated. Weights of short rows are kept for the backward, others are made again."""

    @staticmethod
    def forward(
        ctx: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        lengths: tuple[int, ...],
        scaling: float,
        window: int,
        softcap: float,
        keep: bool,
    ) -> torch.Tensor:
        query, key, value = query[0], key[0], value[0]
        heads, tokens, _ = query.shape
        kv_heads = len(key)
        out = query.new_empty(tokens, heads, value.shape[-1])
        ctx.rows, ctx.numbers = _groups(lengths, LIKENESS, heads), (scaling, window, softcap)
        kept: list[torch.Tensor | None] = []
        keep = keep and any(ctx.needs_input_grad) and not softcap
        for group in ctx.rows:
            q, k, v = (group.gather(x, kv_heads) for x in (query, key, value))
            part = v.new_empty(*q.shape[:-1], v.shape[-1])
            for queries, keys, first in _blocks(group.length, window):
                weights, _ = _weights(q[:, :, queries], k[:, 0, keys], first, *ctx.numbers)
                part[:, :, queries] = torch.bmm(weights, v[:, 0, keys]).unflatten(1, (heads // kv_heads, -1))
                kept.append(weights if keep and group.length <= KEPT_UP_TO else None)
            group.scatter(part, out.transpose(0, 1))
        # a copy, or the whole stacked projection that the values are part of would be kept
        ctx.save_for_backward(query, key, value.contiguous(), *kept)
        return out.transpose(0, 1)[None]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        query, key, value, *kept = ctx.saved_tensors
        scaling, window, softcap = ctx.numbers
        heads, kv_heads = len(query), len(key)
        of_query, of_key, of_value = (_as_projected(x) for x in (query, key, value))
        made = iter(kept)
        for group in ctx.rows:
            q, k, v, of_out = (group.gather(x, kv_heads) for x in (query, key, value, grad[0]))
            of_q, of_k, of_v = torch.empty_like(q), torch.zeros_like(k[:, 0]), torch.zeros_like(v[:, 0])
            for queries, keys, first in _blocks(group.length, window):
                weights, capped = next(made), None
                if weights is None:
                    weights, capped = _weights(q[:, :, queries], k[:, 0, keys], first, *ctx.numbers)
                of_part = of_out[:, :, queries].flatten(1, 2)
                of_scores = torch.bmm(of_part, v[:, 0, keys].transpose(1, 2))
                of_scores = _softmax_back(of_scores, weights, scaling)
                if capped is not None:
                    of_scores = of_scores.mul_(1 - (capped / softcap) ** 2)
                of_q[:, :, queries] = torch.bmm(of_scores, k[:, 0, keys]).unflatten(
                    1, (heads // kv_heads, -1)
                )
                of_v[:, keys] += torch.bmm(weights.transpose(1, 2), of_part)
                of_k[:, keys] += torch.bmm(of_scores.transpose(1, 2), q[:, :, queries].flatten(1, 2))
            group.scatter(of_q, of_query)
            group.scatter(of_k[:, None], of_key)
            group.scatter(of_v[:, None], of_value)
        return of_query[None], of_key[None], of_value[None], None, None, None, None, None


def _as_projected(x: torch.Tensor) -> torch.Tensor:
    """Memory for a gradient of (heads, tokens, size), token by token as the projections write it."""
    heads, tokens, size = x.shape
    return pool.empty(x, tokens, heads, size).transpose(0, 1)


def _weights(
    query: torch.Tensor, key: torch.Tensor, first: int, scaling: float, window: int, softcap: float
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Attention weights (batch, heads of a group * queries, keys); and the scores where they are capped."""
    batch, heads, count, _ = query.shape
    scores = torch.bmm(query.flatten(1, 2), key.transpose(1, 2))
    shape = scores.shape
    if compiled.available(scores) and not softcap:
        numbers = (float(scaling), batch * heads, count, shape[-1], first, window)
        compiled.call("attend", scores, *numbers)
        return scores, None
    scores = scores.mul_(scaling).view(batch * heads, count, -1)
    capped = None
    if softcap:
        scores = capped = softcap * torch.tanh(scores / softcap)
    hidden = _hidden(first, count, shape[-1], window, scores.device)
    weights = torch.softmax(scores.masked_fill(hidden, float("-inf")), dim=-1).view(shape)
    return weights, None if capped is None else capped.view(shape)


def _softmax_back(grad: torch.Tensor, weights: torch.Tensor, scaling: float) -> torch.Tensor:
    if compiled.available(grad, weights):
        numbers = (float(scaling), grad.numel() // grad.shape[-1], grad.shape[-1])
        compiled.call("attend_back", grad, weights, *numbers)
        return grad
    return torch._softmax_backward_data(grad, weights, -1, grad.dtype).mul_(scaling)


@functools.lru_cache(maxsize=64)
def _hidden(first: int, count: int, keys: int, window: int, device: torch.device) -> torch.Tensor:
    """(count, keys): true where a query must not look. Query i stands at first + i among the keys."""
    place = torch.arange(first, first + count, device=device)[:, None]
    key = torch.arange(keys, device=device)
    hidden = key > place
    return hidden | (key <= place - window) if window else hidden
