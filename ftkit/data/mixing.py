"""In which order the rows of several datasets are learned: one after the other, or drawn by their weights."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ftkit.errors import DataError
from ftkit.recipe import Mix

MOST_REPEATED = 100
"""Interleaving may repeat rows so often that the whole grows to so many times its size; no further."""


def order(
    sizes: Sequence[int], weights: Sequence[float], how: Mix, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Which dataset each row is taken from, and its place there; the same for the same seed.

    Interleaving draws the dataset of each row by the weights, until the first dataset is used up (`under`)
    or every one has been seen whole (`over`: the smaller ones start again). Rows are drawn in random order.

    Returns
    -------
    (n,) and (n,) integers.

    Raises
    ------
    DataError
        When the weights are so uneven that rows would be repeated beyond measure.
    """
    if how == "concat" or len(sizes) == 1:
        which = np.repeat(np.arange(len(sizes)), sizes)
        return which, np.concatenate([np.arange(size) for size in sizes])
    shares = np.asarray(weights, float) / sum(weights)
    needed = np.asarray(sizes) / shares
    if how == "interleave_over" and needed.max() > MOST_REPEATED * sum(sizes):
        place = int(needed.argmax())
        raise DataError(
            f"With a share of {shares[place]:.2%} for dataset {place + 1} the others would be repeated until "
            f"about {needed.max():,.0f} rows are drawn, of {sum(sizes):,} there are.",
            "Raise its weight, or mix with interleave_under.",
        )
    chance = np.random.default_rng(seed)
    drawn = np.empty(0, np.int64)
    while True:
        drawn = np.concatenate([drawn, chance.choice(len(sizes), max(1024, sum(sizes)), p=shares)])
        used_up = [_place_of(drawn == part, size) for part, size in enumerate(sizes)]
        last = min(used_up) if how == "interleave_under" else max(used_up)
        if last < len(drawn):
            break
    which = drawn[: int(last) + 1]
    places = np.empty(len(which), np.int64)
    for part, size in enumerate(sizes):
        at = np.flatnonzero(which == part)
        passes = [chance.permutation(size) for _ in range(-(-len(at) // size))]
        places[at] = np.concatenate([np.empty(0, np.int64), *passes])[: len(at)]
    return which, places


def _place_of(mask: np.ndarray, count: int) -> float:
    """Where `mask` is true for the `count`-th time; infinity where it is not so often."""
    at = np.flatnonzero(mask)
    return float(at[count - 1]) if len(at) >= count else np.inf
