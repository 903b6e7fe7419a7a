"""Rows to batches: end to end without padding, or padded. Only this module of ftkit.data needs torch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from ftkit.data.encoded import Encoded

IGNORED = -100


class PackedCollator:
    """Lays rows end to end: one batch row, positions from zero in each, `cu_seqlens` where each starts."""

    def __call__(self, rows: Sequence[Encoded]) -> dict[str, torch.Tensor]:
        lengths = [len(row.ids) for row in rows]
        return {
            "input_ids": torch.from_numpy(np.concatenate([row.ids for row in rows]).astype(np.int64))[None],
            "position_ids": torch.cat([torch.arange(length) for length in lengths])[None],
            "labels": torch.from_numpy(np.concatenate([_labels(row) for row in rows]))[None],
            "cu_seqlens": torch.from_numpy(np.cumsum([0, *lengths]).astype(np.int32)),
        }


class PaddedCollator:
    """Pads rows on the right to the longest of the batch with `pad_id`."""

    def __init__(self, pad_id: int) -> None:
        self.pad_id = pad_id

    def __call__(self, rows: Sequence[Encoded]) -> dict[str, torch.Tensor]:
        shape = (len(rows), max(len(row.ids) for row in rows))
        batch = {
            "input_ids": torch.full(shape, self.pad_id),
            "attention_mask": torch.zeros(shape, dtype=torch.long),
            "labels": torch.full(shape, IGNORED),
        }
        for place, row in enumerate(rows):
            end = len(row.ids)
            batch["input_ids"][place, :end] = torch.from_numpy(row.ids.astype(np.int64))
            batch["attention_mask"][place, :end] = 1
            batch["labels"][place, :end] = torch.from_numpy(_labels(row))
        return batch


def _labels(row: Encoded) -> np.ndarray:
    """Token ids where trained; a row's first token never is: nothing before it predicts it."""
    labels = np.where(row.mask, row.ids.astype(np.int64), IGNORED)
    labels[0] = IGNORED
    return labels
