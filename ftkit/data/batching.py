"""Which rows make up a batch: reproducible by seed and epoch, the same number of batches in every epoch."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np

from ftkit.recipe import Training

_WINDOW = 64
"""Batches whose rows are sorted by length together, so that padded batches differ from epoch to epoch."""


class Batches:
    """The batches of an epoch, as lists of places in the rows; a batch sampler for torch's `DataLoader`.

    Every row is in exactly one batch of an epoch. `batch_size` rows make a batch; with `batch_tokens`, as
    many as fit: end to end by best fit (longest row first, each into the batch that it fills best), padded
    in order of length. A row longer than the budget is a batch of its own.

    Parameters
    ----------
    lengths
        Tokens of each row.
    batch_size
        Rows in a batch. Padded rows are batched with rows of about the same length.
    batch_tokens
        Token places in a batch, instead of `batch_size`.
    padded
        Whether a batch is padded to its longest row, rather than laid end to end.
    seed
        Of the order, which changes from epoch to epoch. None: the same fixed order always, for evaluation.
    """

    def __init__(
        self,
        lengths: Sequence[int] | np.ndarray,
        *,
        batch_size: int = 8,
        batch_tokens: int | None = None,
        padded: bool = False,
        seed: int | None = 0,
    ) -> None:
        self.lengths = np.asarray(lengths, np.int64)
        self.batch_size = batch_size
        self.batch_tokens = batch_tokens
        self.padded = padded
        self.seed = seed
        self.number = 0
        count = len(self.lengths)
        if batch_tokens is None:
            self._slots = np.arange(count)
            self._ends = np.minimum(np.arange(batch_size, count + batch_size, batch_size), count)
        else:
            fill = _in_order if padded else _best_fit
            batches = fill(np.sort(self.lengths), batch_tokens)
            self._slots = np.fromiter((place for batch in batches for place in batch), np.int64, count)
            self._ends = np.cumsum([len(batch) for batch in batches]).astype(np.int64)

    @classmethod
    def of(
        cls, lengths: Sequence[int] | np.ndarray, settings: Training, *, padded: bool, shuffled: bool = True
    ) -> Batches:
        """The batches that a Recipe's training section asks for; not shuffled, as for evaluation."""
        return cls(
            lengths,
            batch_size=settings.batch_size,
            batch_tokens=settings.batch_tokens,
            padded=padded,
            seed=settings.seed if shuffled else None,
        )

    def __len__(self) -> int:
        return len(self._ends)

    def __iter__(self) -> Iterator[list[int]]:
        yield from self.epoch(self.number)

    def set_epoch(self, number: int) -> None:
        """Iterate over epoch `number`, from 0, from now on."""
        self.number = number

    def epoch(self, number: int) -> Iterator[list[int]]:
        """The batches of one epoch, in order; the same whenever it is asked."""
        chance = self._chance(number)
        rows = self._rows(chance)
        order = np.arange(len(self))
        if chance is not None and (self.padded or self.batch_tokens is not None):
            order = chance.permutation(order)  # they come sorted by length
        for batch in order.tolist():
            start = self._ends[batch - 1] if batch else 0
            yield rows[start : self._ends[batch]].tolist()

    @property
    def tokens(self) -> int:
        """Tokens of all rows."""
        return int(self.lengths.sum())

    @property
    def places(self) -> int:
        """Token places of the first epoch's batches: tokens, padding, and what a budget leaves unused."""
        if not len(self):
            return 0
        starts = np.concatenate([[0], self._ends[:-1]])
        lengths = self.lengths[self._rows(self._chance(0))]
        if self.padded:
            return int((np.maximum.reduceat(lengths, starts) * np.diff(self._ends, prepend=0)).sum())
        tokens = np.add.reduceat(lengths, starts)
        return int(np.maximum(tokens, self.batch_tokens or 0).sum())

    @property
    def efficiency(self) -> float:
        """The share of the token places that hold a token: 1 where nothing is padded or left unused."""
        return self.tokens / self.places if self.places else 1.0

    def _chance(self, number: int) -> np.random.Generator | None:
        return np.random.default_rng((self.seed, number)) if self.seed is not None else None

    def _rows(self, chance: np.random.Generator | None) -> np.ndarray:
        """Places of the rows, batch after batch, before the batches are put in their order."""
        count = len(self.lengths)
        rows = chance.permutation(count) if chance is not None else np.arange(count)
        if self.batch_tokens is not None:
            # The batches are made of lengths: rows of one length change places freely.
            return rows[np.argsort(self.lengths[rows], kind="stable")][self._slots]
        if self.padded:
            step = _WINDOW * self.batch_size
            for start in range(0, count, step):
                part = rows[start : start + step]
                rows[start : start + step] = part[np.argsort(self.lengths[part], kind="stable")]
        return rows


class Share:
    """One rank's share of the batches: of every `count` in order, the one at its own place.

    So each step of all ranks has the rows of one process that takes `count` times as many batches a step. All
    ranks have equally many batches: where an epoch's last ones do not go round, some get an empty one.

    Parameters
    ----------
    number, count
        Which rank, from 0, of how many.
    """

    def __init__(self, batches: Batches, number: int, count: int) -> None:
        self.batches = batches
        self.batch_size = batches.batch_size
        self.number = number
        self.count = count

    def __len__(self) -> int:
        return -(-len(self.batches) // self.count)

    def __iter__(self) -> Iterator[list[int]]:
        every = iter(self.batches)
        while together := list(itertools.islice(every, self.count)):
            yield together[self.number] if self.number < len(together) else []

    def set_epoch(self, number: int) -> None:
        """Iterate over epoch `number`, from 0, from now on."""
        self.batches.set_epoch(number)


def _best_fit(lengths: np.ndarray, budget: int) -> list[list[int]]:
    """Best fit decreasing (Johnson 1973) of ascending `lengths`; their places, batch by batch."""
    batches: list[list[int]] = []
    with_room: dict[int, list[int]] = {}
    rooms = 0  # bit r is set where a batch has room for r tokens: the smallest that fits is found at once
    for place in range(len(lengths) - 1, -1, -1):
        length = int(lengths[place])
        fitting = rooms >> length if length else rooms
        if fitting:
            room = length + (fitting & -fitting).bit_length() - 1
            batch = with_room[room].pop()
            if not with_room[room]:
                rooms &= ~(1 << room)
        else:
            room, batch = max(budget, length), len(batches)
            batches.append([])
        batches[batch].append(place)
        left = room - length
        if left:
            with_room.setdefault(left, []).append(batch)
            rooms |= 1 << left
    return batches


def _in_order(lengths: np.ndarray, budget: int) -> list[list[int]]:
    """Neighbours in length together, so many that the longest times their number is within the budget."""
    batches, end = [], len(lengths)
    while end:
        start = max(0, end - max(1, budget // max(1, int(lengths[end - 1]))))
        batches.append(list(range(start, end)))
        end = start
    return batches
