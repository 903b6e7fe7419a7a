"""Pairs of a chosen and a rejected reply: how they are laid out, and what all objectives over them share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ftkit.data.encoded import Encoded
from ftkit.data.token_store import lengths
from ftkit.train.objectives.base import (
    Batch,
    Items,
    Known,
    Lay,
    Objective,
    Outcome,
    Passes,
    add_known,
    owners,
    sequences,
    totals,
)
from ftkit.train.reference import Remembered


@dataclass(frozen=True)
class Pair:
    """Both sides of a pair, and the reference's log-probabilities of their trained tokens, where known."""

    chosen: Encoded
    rejected: Encoded
    reference: np.ndarray | None = None


class Pairs(Items[Pair]):
    """Rows two by two, chosen and rejected."""

    def __init__(self, rows: Sequence[Encoded], reference: Remembered | None = None) -> None:
        self.rows, self.reference = rows, reference

    def __len__(self) -> int:
        return len(self.rows) // 2

    def one(self, place: int) -> Pair:
        """Two rows, and what the reference says of them."""
        if not 0 <= place < len(self):
            raise IndexError(place)
        first = 2 * place
        known = self.reference.rows(first, first + 2) if self.reference is not None else None
        return Pair(self.rows[first], self.rows[first + 1], known)

    @property
    def lengths(self) -> np.ndarray:
        """(pairs,) tokens of both sides together."""
        return lengths(self.rows).reshape(-1, 2).sum(1)


@dataclass(frozen=True)
class Sides:
    """Of each pair of a batch: (pairs,) log-probabilities of the replies, their trained tokens, and rewards.

    Attributes
    ----------
    chosen_tokens
        (n,) log-probabilities of the chosen replies' tokens, one after the other.
    """

    chosen: torch.Tensor
    rejected: torch.Tensor
    chosen_length: torch.Tensor
    rejected_length: torch.Tensor
    chosen_tokens: torch.Tensor


class PairObjective(Objective):
    """A loss over pairs, and beside it, by weight, the likelihood of the chosen replies' tokens."""

    sft_weight: float = 0.0
    tail_weight: float = 1.0
    """Weight of the tokens by which one reply is longer than the other."""

    def items(self, rows: Sequence[Encoded], reference: Known | None = None) -> Sequence[Any]:
        """Pairs."""
        return Pairs(rows, reference["rows"] if reference is not None else None)

    def collate(self, items: Sequence[Pair], lay: Lay) -> Batch:
        """Chosen and rejected of each pair after one another."""
        batch = lay([side for pair in items for side in (pair.chosen, pair.rejected)])
        add_known(batch, [pair.reference for pair in items])
        return batch

    def counts(self, batch: Batch) -> tuple[int, ...]:
        """Pairs; trained tokens of the chosen sides."""
        return sequences(batch) // 2, int((owners(batch) % 2 == 0).sum())

    def outcome(self, passes: Passes, batch: Batch) -> Outcome:
        """The sum over pairs, the weighted sum over the chosen tokens, and what is told of both."""
        owner = owners(batch)
        reference = passes.reference(batch) if self.needs_reference else None
        logprobs = passes.policy(batch).logprobs
        sides = split(logprobs, batch, owner, self.tail_weight)
        known = split(reference, batch, owner, self.tail_weight) if reference is not None else None
        losses, chosen_reward, rejected_reward = self.losses(sides, known)
        pairs = len(losses)
        chosen_reward, rejected_reward = chosen_reward.detach(), rejected_reward.detach()
        figures = {
            "chosen_reward": (chosen_reward.sum(), pairs),
            "rejected_reward": (rejected_reward.sum(), pairs),
            "pair_accuracy": ((chosen_reward > rejected_reward).sum(), pairs),
            "chosen_logprob": (sides.chosen.detach().sum(), pairs),
            "rejected_logprob": (sides.rejected.detach().sum(), pairs),
        }
        return Outcome((losses.sum(), -self.sft_weight * sides.chosen_tokens.sum()), figures)

    @abstractmethod
    def losses(
        self, policy: Sides, reference: Sides | None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(pairs,) each: the losses, and the rewards of the chosen and the rejected replies."""


def split(logprobs: torch.Tensor, batch: Batch, owner: torch.Tensor, tail_weight: float = 1.0) -> Sides:
    """Log-probabilities of trained tokens by the sides of the pairs.

    Parameters
    ----------
    owner
        (n,) the row of each trained token: even rows are chosen, odd ones rejected.
    tail_weight
        Weight of tokens beyond the length of the shorter reply (LD-DPO, Liu et al. 2024, arXiv:2409.06411).
    """
    length = totals(torch.ones_like(logprobs), batch, owner)
    weighted = logprobs
    if tail_weight != 1.0:
        shared = torch.minimum(length[::2], length[1::2]).repeat_interleave(2)
        starts = length.cumsum(0) - length
        place = torch.arange(len(owner), device=owner.device) - starts[owner]
        weighted = torch.where(place < shared[owner], logprobs, tail_weight * logprobs)
    summed = totals(weighted, batch, owner)
    return Sides(summed[::2], summed[1::2], length[::2], length[1::2], logprobs[owner % 2 == 0])
