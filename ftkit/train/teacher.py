"""What a teacher puts out for the student's batches, whichever way they are laid out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence

from ftkit.data.batches import IGNORED
from ftkit.fast.distributions import Outputs
from ftkit.fast.logprobs import LogProbs, choose
from ftkit.models.load import LoadedModel
from ftkit.recipe import Fast


@dataclass(frozen=True)
class Teacher:
    """A model that is only read, and the way to its outputs."""

    loaded: LoadedModel
    way: LogProbs

    @classmethod
    def of(cls, loaded: LoadedModel, fast: Fast, *, packed: bool) -> Teacher:
        """By the fast pieces, its rows laid out as the student's are, where it can do that.

        Parameters
        ----------
        packed
            Whether the student's rows are laid end to end.
        """
        wanted = fast.model_copy(update={"attention": fast.attention and packed})
        return cls(loaded, choose(loaded.model, fast=wanted))

    @torch.no_grad()
    def outputs(self, batch: dict[str, Any]) -> Outputs:
        """Where it predicts the batch's trained tokens, in order."""
        if "cu_seqlens" in batch and not self.way.packed:
            batch = rows_apart(batch)
        found, _ = self.way.outputs(self.loaded.model, batch)
        return found


def rows_apart(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Rows that lie end to end as padded ones, their trained tokens in the same order."""
    sizes = batch["cu_seqlens"].diff().tolist()
    ids, labels = (batch[name][0].split(sizes) for name in ("input_ids", "labels"))
    return {
        "input_ids": pad_sequence(list(ids), batch_first=True),
        "attention_mask": pad_sequence([torch.ones_like(row) for row in ids], batch_first=True),
        "labels": pad_sequence(list(labels), batch_first=True, padding_value=IGNORED),
    }
