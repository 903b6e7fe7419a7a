"""Rows as Examples: all of them in memory, or each made when it is asked for; chosen, split and mixed."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, overload

import numpy as np

from ftkit.data.example import (
    Conversation,
    Example,
    Message,
    PreferencePair,
    RatedReply,
    Refusal,
    UnusableRowError,
)
from ftkit.data.formats import FORMATS, Fields, Layout
from ftkit.data.search import contents
from ftkit.data.spool import SpooledRows

_LOOK_UP = 1000
"""Rows between two words to the person who waits."""


class Reader:
    """Makes Examples of rows.

    Parameters
    ----------
    layout
        How the rows are written.
    first
        Number of the first row: the rows of several sources are numbered through.
    system
        Put this system message before every conversation that has none.
    """

    def __init__(self, layout: Layout, first: int = 0, system: str | None = None) -> None:
        self.layout, self.first = layout, first
        self.system = Message("system", system) if system is not None else None
        self._format = FORMATS[layout.format]
        self._used = set(layout.columns.values())

    def read(self, row: Any, place: int) -> Example:
        """The Example of the row at `place`.

        Raises
        ------
        UnusableRowError
            When it cannot be one; says why.
        """
        if not isinstance(row, Mapping):
            raise UnusableRowError(f"it is {type(row).__name__}, not an object with columns")
        extra = {key: value for key, value in row.items() if key not in self._used}
        example = self._format.read(Fields(row, self.layout), self.first + place, extra)
        if not all(map(_is_whole, contents(example))):
            raise UnusableRowError("it holds half of a character (a lone surrogate)")
        return example if self.system is None else _with_system(example, self.system)


def _is_whole(text: str) -> bool:
    """Whether a text can be written: JSON may hold halves of characters that neither files nor pages take."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _with_system(example: Example, first: Message) -> Example:
    match example:
        case Conversation() | RatedReply() if example.messages[0].role != "system":
            return replace(example, messages=(first, *example.messages))
        case PreferencePair() if example.prompt[0].role != "system":
            return replace(example, prompt=(first, *example.prompt))
    return example


class OnDemand(Sequence[Example]):
    """Examples that are made when they are asked for; a part of them is as lazy."""

    places: np.ndarray

    def __len__(self) -> int:
        return len(self.places)

    @overload
    def __getitem__(self, place: int) -> Example: ...

    @overload
    def __getitem__(self, place: slice) -> Sequence[Example]: ...

    def __getitem__(self, place: int | slice) -> Example | Sequence[Example]:
        return self._part(place) if isinstance(place, slice) else self._one(place)

    def __iter__(self) -> Iterator[Example]:
        return map(self._one, range(len(self)))

    @abstractmethod
    def digest(self) -> bytes | None:
        """The same examples have the same; None where that takes reading them."""

    @abstractmethod
    def _one(self, place: int) -> Example: ...

    @abstractmethod
    def _part(self, part: slice) -> Sequence[Example]: ...


class LazyExamples(OnDemand):
    """Examples of rows on disk.

    Parameters
    ----------
    rows
        The rows.
    places
        (n,) of those that are used.
    reader
        Makes the Examples.
    """

    def __init__(self, rows: SpooledRows, places: np.ndarray, reader: Reader) -> None:
        self.rows, self.places, self.reader = rows, places, reader

    def _one(self, place: int) -> Example:
        at = int(self.places[place])
        return self.reader.read(self.rows[at], at)

    def _part(self, part: slice) -> LazyExamples:
        return LazyExamples(self.rows, self.places[part], self.reader)

    def digest(self) -> bytes:
        """The same examples have the same."""
        about = f"{self.rows.digest} {self.reader.layout} {self.reader.first} {self.reader.system}"
        return hashlib.sha256(about.encode() + self.places.tobytes()).digest()


class Chosen(OnDemand):
    """Examples out of several parts, in any order, each part's own object untouched.

    Parameters
    ----------
    parts
        What to choose from.
    which, places
        (n,) the part of each example, and its place there.
    """

    def __init__(self, parts: Sequence[Sequence[Example]], which: np.ndarray, places: np.ndarray) -> None:
        self.parts, self.which, self.places = parts, which, places

    def _one(self, place: int) -> Example:
        return self.parts[self.which[place]][int(self.places[place])]

    def _part(self, part: slice) -> Chosen:
        return Chosen(self.parts, self.which[part], self.places[part])

    def digest(self) -> bytes | None:
        """The same examples have the same; None where a part is in memory."""
        parts = [part.digest() if isinstance(part, OnDemand) else None for part in self.parts]
        if None in parts:
            return None
        whole = b"".join(filter(None, parts)) + self.which.tobytes() + self.places.tobytes()
        return hashlib.sha256(whole).digest()


def chosen(parts: Sequence[Sequence[Example]], which: np.ndarray, places: np.ndarray) -> Sequence[Example]:
    """The examples at `places` of the parts `which`; a list where all are in memory."""
    made = Chosen(parts, which, places)
    return list(made) if all(isinstance(part, list) for part in parts) else made


def to_examples(
    rows: Sequence[Any],
    layout: Layout,
    *,
    first: int = 0,
    system: str | None = None,
    tell: Callable[[float], None] = lambda share: None,
) -> tuple[Sequence[Example], list[Refusal]]:
    """Every row as an Example, or as a Refusal that says why it cannot be one.

    Parameters
    ----------
    first, system
        See `Reader`.
    tell
        Told the share of the rows that have been looked at; may raise to end it.
    """
    reader = Reader(layout, first, system)
    refused: list[Refusal] = []
    lazy = isinstance(rows, SpooledRows)
    examples: list[Example] = []
    good = np.ones(len(rows), bool)
    for place, row in enumerate(rows):
        if place % _LOOK_UP == 0:
            tell(place / len(rows))
        try:
            example = reader.read(row, place)
        except UnusableRowError as error:
            refused.append(Refusal(first + place, str(error)))
            good[place] = False
            continue
        if not lazy:
            examples.append(example)
    if isinstance(rows, SpooledRows):
        return LazyExamples(rows, np.flatnonzero(good), reader), refused
    return examples, refused
