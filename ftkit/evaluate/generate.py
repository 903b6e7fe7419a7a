"""Greedy replies to many prompts at once: the same answers as one by one, in a fraction of the time.

Prompts of similar length share a batch, padded on the left. What all prompts of a batch begin with (the
system prompt, mostly) is read once for all of them. A row that has ended leaves the batch, so the last long
reply does not drag finished ones along.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from ftkit.chat.inference import Which, end_ids, inference_turn, room_after
from ftkit.models.prompts import called, prompt_cache, prompt_length

if TYPE_CHECKING:
    import torch

    from ftkit.models import LoadedModel

Progress = Callable[[str, "float | None"], Any]


def greedy_replies(
    loaded: LoadedModel,
    prompts: Sequence[Sequence[int]],
    *,
    which: Which = "adapter",
    max_new_tokens: int = 96,
    batch_size: int = 16,
    progress: Progress | None = None,
    cancelled: threading.Event | None = None,
) -> Iterator[tuple[int, list[int]]]:
    """The most likely reply to each prompt, batch by batch; each batch is one turn of `loaded.gate`.

    Parameters
    ----------
    prompts
        Token ids, the generation prompt included.
    max_new_tokens
        Longest reply.

    Yields
    ------
    tuple
        Index of the prompt, ids of the reply without its end token. Stops early once `cancelled` is set.

    Raises
    ------
    FtkitError
        When a prompt alone fills the model's context.
    """
    limits = [_limit(loaded, len(prompt), max_new_tokens) for prompt in prompts]
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    done = 0
    for start in range(0, len(order), batch_size):
        if cancelled is not None and cancelled.is_set():
            return
        batch = order[start : start + batch_size]
        with inference_turn(loaded, which, "evaluation") as model:
            decoding = _Batch(loaded, model, [prompts[index] for index in batch])
            replies = decoding.run([limits[index] for index in batch], cancelled)
        if replies is None:
            return
        yield from zip(batch, replies, strict=True)
        done += len(batch)
        if progress is not None:
            progress(f"{done} of {len(prompts)} rows", done / len(prompts))


def _limit(loaded: LoadedModel, prompt_tokens: int, max_new_tokens: int) -> int:
    room = room_after(loaded, prompt_tokens)
    return max_new_tokens if room is None else min(room, max_new_tokens)


class _Batch:
    """Prompts answered together, over one KV cache of shape (rows, heads, prefix + padded + new, dim)."""

    def __init__(self, loaded: LoadedModel, model: Any, prompts: list[Sequence[int]]) -> None:
        self._model = model
        self._prompts = prompts
        self._ends = end_ids(loaded)
        self._device = next(model.parameters()).device

    def run(self, limits: list[int], cancelled: threading.Event | None) -> list[list[int]] | None:
        """The replies, or None when `cancelled` was set on the way."""
        import torch

        replies: list[list[int]] = [[] for _ in self._prompts]
        alive = list(range(len(replies)))
        tokens, mask, positions = self._read_prompts()
        while True:
            kept = []
            for slot, (row, token) in enumerate(zip(alive, tokens.tolist(), strict=True)):
                if token in self._ends:
                    continue
                replies[row].append(token)
                if len(replies[row]) < limits[row]:
                    kept.append(slot)
            if not kept:
                return replies
            if cancelled is not None and cancelled.is_set():
                return None
            if len(kept) < len(alive):
                alive = [alive[slot] for slot in kept]
                keep = torch.tensor(kept, device=self._device)
                tokens, mask, positions = tokens[keep], mask[keep], positions[keep]
                self._cache.batch_select_indices(keep)
            positions = positions + 1
            mask = torch.cat([mask, mask.new_ones(len(alive), 1)], dim=1)
            tokens = self._forward(tokens[:, None], mask, positions[:, None])

    def _read_prompts(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Read every prompt; returns the first tokens (rows,), the mask (rows, length), positions (rows,)."""
        import torch
        from transformers import DynamicCache

        rows = len(self._prompts)
        prefix = _common_prefix(self._prompts)
        self._cache: Any = DynamicCache(config=self._model.config)
        before = prompt_length(self._model)
        prompt_cache(self._model, 1, self._cache)
        if prefix and rows > 1:
            shared = torch.tensor([self._prompts[0][:prefix]], device=self._device)
            called(self._model)(
                input_ids=shared, past_key_values=self._cache, use_cache=True, logits_to_keep=1
            )
        else:
            prefix = 0
        if (before or prefix) and rows > 1:
            self._cache.batch_repeat_interleave(rows)
        rests = [list(prompt[prefix:]) for prompt in self._prompts]
        prefix += before  # a learned prompt is read before anything else
        width = max(map(len, rests))
        ids = torch.tensor([[0] * (width - len(rest)) + rest for rest in rests], device=self._device)
        mask = torch.tensor(
            [[1] * prefix + [0] * (width - len(rest)) + [1] * len(rest) for rest in rests],
            device=self._device,
        )
        positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
        return self._forward(ids, mask, positions[:, prefix:]), mask, positions[:, -1]

    def _forward(self, ids: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        logits = called(self._model)(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits
        tokens: torch.Tensor = logits[:, -1].argmax(dim=-1)
        return tokens


def _common_prefix(prompts: Sequence[Sequence[int]]) -> int:
    """How many tokens all prompts begin with, at least one token of each left over."""
    shortest = min(map(len, prompts)) - 1
    first = prompts[0]
    for position in range(shortest):
        if any(prompt[position] != first[position] for prompt in prompts):
            return position
    return shortest
