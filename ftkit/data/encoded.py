"""What encoding takes and gives: limits, (ids, mask) of one row, and the rows of a chunk."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np

from ftkit.data.example import Refusal

if TYPE_CHECKING:
    from ftkit.recipe import Objective

TooLong = Literal["drop", "error", "keep_end", "keep_start", "split"]


@dataclass(frozen=True)
class Encoded:
    """A row as tokens: `ids` (n,) int32, `mask` (n,) bool, true where the token is trained on.

    `label` is 1 where the row is a reply rated good, 0 where bad, else -1. Of a pair the chosen side comes
    first, the rejected one next, both with the number of the row.
    """

    ids: np.ndarray
    mask: np.ndarray
    row: int
    label: int = -1


@dataclass(frozen=True)
class Limits:
    """What is learned of a row, and how long it may be."""

    objective: Objective
    max_length: int
    too_long: TooLong


@dataclass
class Chunk:
    """The rows of a chunk as tokens, those left out, and the numbers of those shortened."""

    rows: list[Encoded] = field(default_factory=list)
    refused: list[Refusal] = field(default_factory=list)
    shortened: list[int] = field(default_factory=list)
