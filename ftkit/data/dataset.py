"""A Recipe's data section to training and held-out Examples."""

from __future__ import annotations

import bisect
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ftkit.data import dataset_info, mixing
from ftkit.data.example import Example, Refusal
from ftkit.data.examples import chosen, to_examples
from ftkit.data.formats import Layout, recognise
from ftkit.data.sources import held_rows, read_rows, starter_set
from ftkit.errors import DataError
from ftkit.recipe import Data, Recipe, Source
from ftkit.recipe.schema import section_of

Progress = Callable[[str, float | None], None]
_SAMPLE = 100
"""Rows that a format is recognised by."""


@dataclass(frozen=True)
class Part:
    """One source of a Dataset.

    Attributes
    ----------
    name
        The source, for people.
    first, rows
        The number of its first row, and how many rows it has: the rows of all parts are numbered through.
    layout
        How it was read.
    """

    name: str
    first: int
    rows: int
    layout: Layout


@dataclass(frozen=True)
class Dataset:
    """Examples to learn from, Examples held out, the rows refused, and how the rows were read.

    Attributes
    ----------
    train, held_out
        Lists; or, of rows that would not fit in memory, sequences that read each when it is asked for.
    format, format_reason, confidence, columns
        See `ftkit.data.formats.Layout`; of the first part.
    found
        The columns of the first part, in order.
    parts
        The sources, in order.
    """

    train: Sequence[Example]
    held_out: Sequence[Example]
    refused: tuple[Refusal, ...]
    origin: str
    format: str
    format_reason: str
    confidence: float = 1.0
    columns: Mapping[str, str] = field(default_factory=dict)
    found: tuple[str, ...] = ()
    parts: tuple[Part, ...] = ()

    def where(self, row: int) -> str:
        """Where a row stands, for people: its number, and of several sources which."""
        if len(self.parts) < 2:
            return f"row {row}"
        part = self.parts[bisect.bisect_right([part.first for part in self.parts], row) - 1]
        return f"row {row} ({part.name}, row {row - part.first})"


def load(
    source: Data | str | Path | Any,
    *,
    offline: bool = False,
    progress: Progress | None = None,
    **settings: Any,
) -> Dataset:
    """Read rows, recognise their format, split and mix them.

    Parameters
    ----------
    source
        A Recipe's data section; or the path of a file or folder, a starter set or a Hub id, or a list of
        these; or rows: a list of objects, a DataFrame, a `datasets.Dataset`.
    progress
        Told how far it is; may raise to end it.
    settings
        Fields of the data section, where `source` is not one: `format="alpaca"`, `held_out_fraction=0`.

    Raises
    ------
    DataError
        When it is missing, broken, empty, of an unknown format, or no row can be used.
    RecipeError
        When a setting is wrong.

    Examples
    --------
    >>> ftkit.data.load("chats.jsonl").format_reason                                   # doctest: +SKIP
    """
    tell = progress or (lambda text, fraction: None)
    config, rows = _config(source, settings)
    reading = _Reading(config, offline, tell)
    if rows is not None:
        held = held_rows(rows, config.max_rows, tell)
        reading.add(config, config.source, held, _recognise(held, config))
    else:
        for one in (config, *config.mixed_with):
            reading.source(one)
    return reading.dataset()


def _config(source: Any, settings: dict[str, Any]) -> tuple[Data, Any]:
    """The data section, and the rows where they are given themselves."""
    if isinstance(source, Data):
        return source, None
    section = section_of(source)
    if section is not None:
        return Recipe(data=section | settings).data, None
    return Recipe(data={"source": f"rows ({type(source).__name__})", **settings}).data, source


class _Reading:
    """The parts of a Dataset as they are read."""

    def __init__(self, config: Data, offline: bool, tell: Progress) -> None:
        self.config, self.offline, self.tell = config, offline, tell
        self.parts: list[Part] = []
        self.weights: list[float] = []
        self.train: list[Sequence[Example]] = []
        self.held_out: list[Sequence[Example]] = []
        self.refused: list[Refusal] = []
        self.found: tuple[str, ...] = ()

    def source(self, one: Source) -> None:
        """Read one source; of a `dataset_info.json` each dataset that is named."""
        self.tell(f"Reading {one.source}", None)
        starter = starter_set(one.source)
        path = str(starter.train_path) if starter else one.source
        listed = dataset_info.find(path) is not None
        subsets = dataset_info.names(one.subset) if listed else [one.subset]
        for subset in subsets:
            rows, layout = self._read(one, path, subset)
            name = f"{one.source}: {subset}" if listed and subset else one.source
            self.add(one, name, rows, layout)

    def add(self, one: Source, name: str, rows: Sequence[Any], layout: Layout) -> None:
        """Take the rows of one part in."""
        first = self.parts[-1].first + self.parts[-1].rows if self.parts else 0
        examples, refused = self._examples(name, rows, layout, first)
        if not len(examples):
            raise DataError(
                f"None of the {len(rows)} rows of {name} can be used; row 0: {refused[0].reason}.",
                f"They were read as {layout.format} ({layout.reason}). "
                "Every row needs a question and an answer.",
            )
        starter = starter_set(one.source) if self.config.held_out_source is None else None
        train: Sequence[Example] = examples
        held_out: Sequence[Example] = ()
        if starter is not None:
            held_out = self._aside(one, str(starter.held_out_path))
        elif self.config.held_out_source is None:
            train, held_out = _split(examples, self.config.held_out_fraction, self.config.seed)
        if not self.parts:
            self.found = _columns(rows)
        self.parts.append(Part(name, first, len(rows), layout))
        self.weights.append(one.weight)
        self.train.append(train)
        self.held_out.append(held_out)
        self.refused += refused

    def dataset(self) -> Dataset:
        """All parts together."""
        if self.config.held_out_source is not None:
            other = starter_set(self.config.held_out_source)
            path = str(other.held_out_path) if other else self.config.held_out_source
            self.held_out = [self._aside(self.config, path)]
        sizes = [len(part) for part in self.train]
        train = self.train[0]
        if len(sizes) > 1:
            train = chosen(self.train, *mixing.order(sizes, self.weights, self.config.mix, self.config.seed))
        aside = [part for part in self.held_out if len(part)]
        held_out: Sequence[Example] = aside[0] if len(aside) == 1 else []
        if len(aside) > 1:
            held_out = chosen(aside, *mixing.order([len(part) for part in aside], [], "concat", 0))
        layout = self.parts[0].layout
        several = len(self.parts) > 1
        return Dataset(
            train=train,
            held_out=held_out,
            refused=tuple(self.refused),
            origin=" + ".join(part.name for part in self.parts),
            format=layout.format,
            format_reason=f"{self.parts[0].name}: {layout.reason}" if several else layout.reason,
            confidence=layout.confidence,
            columns=layout.columns,
            found=self.found,
            parts=tuple(self.parts),
        )

    def _read(self, one: Source, path: str, subset: str | None) -> tuple[Sequence[Any], Layout]:
        """Rows and how to read them; a folder with a `dataset_info.json` says both itself."""
        listing = dataset_info.find(path)
        if listing is None:
            rows = self._rows(path, subset, one.split, one.max_rows)
            return rows, _recognise(rows, one)
        entry = dataset_info.entry(listing, subset)
        limits = [limit for limit in (entry.num_samples, one.max_rows) if limit is not None]
        most = min(limits, default=None)
        rows = self._rows(entry.source, entry.subset, entry.split, most, on_hub=entry.on_hub)
        present = set(_columns(rows))
        wanted = {role: column for role, column in entry.layout.columns.items() if column not in present}
        # like there: a column named by default may be missing, one that carries the answer may not
        needed = sorted(
            set(wanted) & {"messages", "response", "prompt", "chosen", "rejected", "rating", "text"}
        )
        if needed:
            raise DataError(
                f"{listing}, {entry.name}: the rows have no column {wanted[needed[0]]!r} ({needed[0]}).",
                f"Found: {', '.join(sorted(present)) or 'none'}. Name it in columns.",
            )
        kept = {role: column for role, column in entry.layout.columns.items() if role not in wanted}
        return rows, replace(entry.layout, columns=kept)

    def _rows(
        self, source: str, subset: str | None, split: str, limit: int | None, on_hub: bool | None = None
    ) -> Sequence[Any]:
        return read_rows(
            source,
            on_hub=on_hub,
            subset=subset,
            split=split,
            offline=self.offline,
            limit=limit,
            progress=self.tell,
        )

    def _examples(
        self, name: str, rows: Sequence[Any], layout: Layout, first: int = 0
    ) -> tuple[Sequence[Example], list[Refusal]]:
        return to_examples(
            rows,
            layout,
            first=first,
            system=self.config.system_prompt,
            tell=lambda share: self.tell(f"Looking at the rows of {name}", share),
        )

    def _aside(self, one: Source, path: str) -> Sequence[Example]:
        """The rows of a source of its own that are held out."""
        whole = one.model_copy(update={"max_rows": None})
        rows, layout = self._read(whole, path, one.subset)
        examples, refused = self._examples(path, rows, layout)
        self.refused += [Refusal(one.row, f"held out: {one.reason}") for one in refused]
        return examples


def _columns(rows: Sequence[Any]) -> tuple[str, ...]:
    sample = (row for row in rows[:_SAMPLE] if isinstance(row, Mapping))
    names = dict.fromkeys(str(key) for row in sample for key in row)
    return tuple(name.encode(errors="replace").decode() for name in names)


def _recognise(rows: Sequence[Any], one: Source) -> Layout:
    return recognise(rows[:_SAMPLE], format=one.format, columns=one.columns, tags=one.tags)


def _split(
    examples: Sequence[Example], fraction: float, seed: int
) -> tuple[Sequence[Example], Sequence[Example]]:
    """The same seed holds the same rows out; at least one row stays on the training side."""
    count = min(round(len(examples) * fraction), len(examples) - 1)
    if not count:
        return examples, []
    aside = np.array(sorted(random.Random(seed).sample(range(len(examples)), count)))
    kept = np.setdiff1d(np.arange(len(examples)), aside, assume_unique=True)
    train, held_out = (chosen([examples], np.zeros(len(at), np.int64), at) for at in (kept, aside))
    return train, held_out
