"""Kahneman-Tversky optimisation: replies rated good or bad, each by itself, against a reference point.

The reference point is how far the model has moved from the reference on replies that do not belong to their
prompts. Each row has one: its own prompt with another row's reply, the same in every epoch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from ftkit.data.encoded import Encoded
from ftkit.data.sides import GOOD
from ftkit.data.token_store import lengths
from ftkit.recipe import KTO
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

_SEED = 5
"""Of the order in which rows lend each other their replies."""


def kahneman_tversky(
    gain: torch.Tensor,
    good: torch.Tensor,
    reference_point: torch.Tensor,
    *,
    beta: float,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
) -> torch.Tensor:
    """(rows,) losses (Ethayarajh et al. 2024, arXiv:2402.01306, eq. 7, up to a constant).

    Parameters
    ----------
    gain
        (rows,) log-probability of the reply less the reference's.
    good
        (rows,) bool.
    reference_point
        Scalar, the paper's z0, taken as a constant.
    """
    above = beta * (gain - reference_point.detach())
    return torch.where(
        good, desirable_weight * (1 - torch.sigmoid(above)), undesirable_weight * (1 - torch.sigmoid(-above))
    )


@dataclass(frozen=True)
class Rated:
    """A rated reply, its prompt with a reply that belongs to another, and what the reference says of both."""

    row: Encoded
    unrelated: Encoded
    reference: np.ndarray | None = None
    reference_unrelated: np.ndarray | None = None


class Unrelated(Items[Encoded]):
    """Each row's prompt with another row's reply, made when it is asked for."""

    def __init__(self, rows: Sequence[Encoded], limit: int) -> None:
        self.rows, self.limit = rows, limit
        order = np.random.default_rng(_SEED).permutation(len(rows))
        self.lender = np.empty(len(rows), np.int64)
        self.lender[order] = np.roll(order, 1)

    def __len__(self) -> int:
        return len(self.rows)

    def one(self, place: int) -> Encoded:
        """The row's prompt with the lender's reply."""
        own, other = self.rows[place], self.rows[int(self.lender[place])]
        prompt, reply = _reply_starts(own), _reply_starts(other)
        # a reply that would make the row too long is cut: it only has to be unrelated
        room = max(self.limit - prompt, 1)
        return Encoded(
            np.concatenate([own.ids[:prompt], other.ids[reply:][:room]]),
            np.concatenate([own.mask[:prompt], other.mask[reply:][:room]]),
            own.row,
        )


def _reply_starts(row: Encoded) -> int:
    return int(np.flatnonzero(row.mask)[0])


class RatedRows(Items[Rated]):
    """Rows with their unrelated replies."""

    def __init__(self, rows: Sequence[Encoded], limit: int, reference: Known | None = None) -> None:
        self.rows, self.unrelated, self.reference = rows, Unrelated(rows, limit), reference or {}

    def __len__(self) -> int:
        return len(self.rows)

    def one(self, place: int) -> Rated:
        """A row, its unrelated reply, and what the reference says of both."""
        known = {name: one.rows(place, place + 1) for name, one in self.reference.items()}
        return Rated(self.rows[place], self.unrelated[place], known.get("rows"), known.get("unrelated"))

    @property
    def lengths(self) -> np.ndarray:
        """(rows,) tokens of each row; the unrelated replies are only read, in a pass of their own."""
        return lengths(self.rows)


class KahnemanTversky(Objective):
    """KTO.

    Parameters
    ----------
    limit
        Longest row, in tokens.
    """

    needs_reference: ClassVar[bool] = True

    def __init__(self, settings: KTO, limit: int) -> None:
        self.settings, self.limit = settings, limit

    def read_by_reference(self, rows: Sequence[Encoded]) -> dict[str, Sequence[Encoded]]:
        """The rows, and those with unrelated replies."""
        return {"rows": rows, "unrelated": Unrelated(rows, self.limit)}

    def items(self, rows: Sequence[Encoded], reference: Known | None = None) -> Sequence[Any]:
        """Rated rows."""
        return RatedRows(rows, self.limit, reference)

    def collate(self, items: Sequence[Rated], lay: Lay) -> Batch:
        """The rows as a batch, and inside it the unrelated replies as another."""
        batch, unrelated = lay([one.row for one in items]), lay([one.unrelated for one in items])
        batch["good"] = torch.tensor([one.row.label == GOOD for one in items])
        add_known(batch, [one.reference for one in items])
        add_known(unrelated, [one.reference_unrelated for one in items])
        return batch | {"unrelated": unrelated}

    def counts(self, batch: Batch) -> tuple[int, ...]:
        """Rows; trained tokens of the good ones."""
        return sequences(batch), int(batch["good"][owners(batch)].sum())

    def outcome(self, passes: Passes, batch: Batch) -> Outcome:
        """The sum over rows, the weighted sum over the good ones' tokens, and what is told of both."""
        unrelated, good, beta = batch["unrelated"], batch["good"], self.settings.beta
        owner = owners(batch)
        moved = totals(passes.policy_only_read(unrelated) - passes.reference(unrelated), unrelated)
        point = moved.mean().clamp(min=0)
        known = totals(passes.reference(batch), batch, owner)
        logprobs = passes.policy(batch).logprobs
        said = totals(logprobs, batch, owner)
        losses = kahneman_tversky(
            said - known,
            good,
            point,
            beta=beta,
            desirable_weight=self.settings.desirable_weight,
            undesirable_weight=self.settings.undesirable_weight,
        )
        rewards, said, rows = beta * (said - known).detach(), said.detach(), len(losses)
        many = int(good.sum())
        figures = {
            "chosen_reward": (rewards[good].sum(), many),
            "rejected_reward": (rewards[~good].sum(), rows - many),
            "chosen_logprob": (said[good].sum(), many),
            "rejected_logprob": (said[~good].sum(), rows - many),
            "kl": (point * rows, rows),
        }
        return Outcome((losses.sum(), -self.settings.sft_weight * logprobs[good[owner]].sum()), figures)
