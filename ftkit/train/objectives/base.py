"""What an objective is: what it draws batches from, which passes it asks for, and what it makes of them.

The trainer knows no objective. It lays out what `items` are drawn into batches, and divides each term of the
loss by its unit's count over the whole optimizer step, so that accumulation changes nothing.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, TypeVar, overload

import numpy as np
import torch

from ftkit.data.batches import IGNORED
from ftkit.data.encoded import Encoded
from ftkit.fast.distributions import RowLosses
from ftkit.fast.loss import NOTHING, Extra, Scores
from ftkit.train.reference import Remembered

Batch = dict[str, Any]
Lay = Callable[[Sequence[Encoded]], Batch]
"""Lays rows out for one pass: end to end, or padded."""
Known = Mapping[str, Remembered]
"""What the reference says of the rows, by the names of `Objective.read_by_reference`."""


class Passes(Protocol):
    """The forward passes that an objective may ask for: of the batch's trained tokens, in order."""

    def policy(self, batch: Batch, extra: Extra = NOTHING) -> Scores:
        """By the model that is trained, with gradients where it is being trained."""

    def policy_only_read(self, batch: Batch) -> torch.Tensor:
        """The same log-probabilities without gradients."""

    def rewards(self, batch: Batch) -> torch.Tensor:
        """(rows,) scores by a model that puts out one number for a whole text."""

    def reference(self, batch: Batch) -> torch.Tensor:
        """Log-probabilities by the model as it was when training began, without gradients."""

    def beside_teacher(self, batch: Batch, losses: RowLosses) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The sum of what `losses` makes of the model's and the teacher's logits, and its figures."""


@dataclass(frozen=True)
class Outcome:
    """What an objective makes of a batch.

    Attributes
    ----------
    terms
        The sums that the loss is made of, one for each of `Objective.counts`.
    figures
        What is told beside the loss: name to a sum and how many it is the sum of.
    """

    terms: tuple[torch.Tensor, ...]
    figures: Mapping[str, tuple[torch.Tensor, int]] = field(default_factory=dict)


Item = TypeVar("Item")


class Items(Sequence[Item]):
    """What a batch is drawn from, made when it is asked for."""

    @abstractmethod
    def one(self, place: int) -> Item:
        """The item at `place`; IndexError beyond the last one."""

    @overload
    def __getitem__(self, place: int) -> Item: ...

    @overload
    def __getitem__(self, place: slice) -> Sequence[Item]: ...

    def __getitem__(self, place: int | slice) -> Item | Sequence[Item]:
        if isinstance(place, slice):
            return [self.one(each) for each in range(*place.indices(len(self)))]
        return self.one(place)


class Objective(ABC):
    """Made of the Recipe's objective by `ftkit.train.objectives.choose`.

    Attributes
    ----------
    needs_reference
        Whether it asks for passes by the model as it was when training began.
    needs_teacher
        Whether it asks for passes by another model.
    """

    needs_reference: ClassVar[bool] = False
    needs_teacher: ClassVar[bool] = False

    def items(self, rows: Sequence[Encoded], reference: Known | None = None) -> Sequence[Any]:
        """What batches are drawn from, such as pairs of rows.

        Parameters
        ----------
        reference
            What the model as it was said of `read_by_reference(rows)`; None: it can be asked during training.
        """
        return rows

    def read_by_reference(self, rows: Sequence[Encoded]) -> dict[str, Sequence[Encoded]]:
        """All that the reference is asked about, by names."""
        return {"rows": rows}

    def collate(self, items: Sequence[Any], lay: Lay) -> Batch:
        """One batch of items."""
        return lay(items)

    @abstractmethod
    def counts(self, batch: Batch) -> tuple[int, ...]:
        """Of how much each term of the loss is the mean: trained tokens, pairs."""

    @abstractmethod
    def outcome(self, passes: Passes, batch: Batch) -> Outcome:
        """The loss's terms and the figures of one batch."""


def add_known(batch: Batch, known: Sequence[np.ndarray | None]) -> None:
    """Put what the reference says of the batch's rows beside them, where it is known."""
    found = [values for values in known if values is not None]
    if found:
        batch["reference"] = torch.from_numpy(np.concatenate(found))


def trained_tokens(batch: Batch) -> int:
    """How many tokens of the batch are trained on."""
    return int((batch["labels"][:, 1:] != IGNORED).sum())


def sequences(batch: Batch) -> int:
    """How many rows are laid out in the batch."""
    return len(batch["cu_seqlens"]) - 1 if "cu_seqlens" in batch else len(batch["labels"])


def owners(batch: Batch) -> torch.Tensor:
    """(trained tokens,) which row of the batch each trained token belongs to."""
    row, before = (batch["labels"][:, 1:] != IGNORED).nonzero(as_tuple=True)
    if "cu_seqlens" not in batch:
        return row
    return torch.searchsorted(batch["cu_seqlens"].long(), before + 1, right=True) - 1


def totals(values: torch.Tensor, batch: Batch, owner: torch.Tensor | None = None) -> torch.Tensor:
    """(rows,) sums over each row's trained tokens."""
    owner = owners(batch) if owner is None else owner
    return values.new_zeros(sequences(batch)).index_add(0, owner, values)
