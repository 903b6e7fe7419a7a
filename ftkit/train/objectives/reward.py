"""Reward models: one score for a whole text, higher for the chosen reply than for the rejected one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.functional import logsigmoid

from ftkit.data.encoded import Encoded
from ftkit.recipe import Reward
from ftkit.train.objectives.base import Batch, Known, Lay, Objective, Outcome, Passes, sequences
from ftkit.train.objectives.pairs import Pair, Pairs


def bradley_terry(chosen: torch.Tensor, rejected: torch.Tensor) -> torch.Tensor:
    """(pairs,) -log of the chosen reply's odds to win (Ouyang et al. 2022, arXiv:2203.02155, eq. 1)."""
    return -logsigmoid(chosen - rejected)


class BradleyTerry(Objective):
    """A reward model."""

    def __init__(self, settings: Reward) -> None:
        self.pull = settings.center_coefficient or 0.0

    def items(self, rows: Sequence[Encoded], reference: Known | None = None) -> Sequence[Any]:
        """Pairs."""
        return Pairs(rows)

    def collate(self, items: Sequence[Pair], lay: Lay) -> Batch:
        """Chosen and rejected of each pair after one another."""
        return lay([side for pair in items for side in (pair.chosen, pair.rejected)])

    def counts(self, batch: Batch) -> tuple[int, ...]:
        """Pairs."""
        return (sequences(batch) // 2,)

    def outcome(self, passes: Passes, batch: Batch) -> Outcome:
        """The sum over pairs."""
        scores = passes.rewards(batch)
        chosen, rejected = scores[::2], scores[1::2]
        losses = bradley_terry(chosen, rejected) + self.pull * (chosen + rejected) ** 2
        chosen, rejected, pairs = chosen.detach(), rejected.detach(), len(losses)
        figures = {
            "chosen_reward": (chosen.sum(), pairs),
            "rejected_reward": (rejected.sum(), pairs),
            "pair_accuracy": ((chosen > rejected).sum(), pairs),
        }
        return Outcome((losses.sum(),), figures)
