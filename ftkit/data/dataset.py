"""A Recipe's data section to training and held-out Examples."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ftkit.data import dataset_info
from ftkit.data.example import Conversation, Example, Message, PreferencePair, RatedReply, Refusal
from ftkit.data.formats import Layout, recognise, to_examples
from ftkit.data.sources import read_rows, rows_in_memory, starter_set
from ftkit.errors import DataError
from ftkit.recipe import Data, Recipe

Progress = Callable[[str, float | None], None]


@dataclass(frozen=True)
class Dataset:
    """Examples to learn from, Examples held out, the rows refused, and how the rows were read.

    Attributes
    ----------
    format, format_reason, confidence, columns
        See `ftkit.data.formats.Layout`.
    found
        The columns of the source, in order.
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


def load(
    source: Data | str | Path | Any,
    *,
    offline: bool = False,
    progress: Progress | None = None,
    **settings: Any,
) -> Dataset:
    """Read rows, recognise their format, and split them.

    Parameters
    ----------
    source
        A Recipe's data section; or the path of a file or folder, a starter set or a Hub id; or rows: a list
        of objects, a DataFrame, a `datasets.Dataset`.
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
    rows = None
    if not isinstance(source, Data):
        in_memory = not isinstance(source, (str, Path))
        rows = rows_in_memory(source) if in_memory else None
        name = f"rows ({type(source).__name__})" if in_memory else str(source)
        source = Recipe(data={"source": name, **settings}).data
    config = source
    starter = starter_set(config.source) if rows is None else None
    tell(f"Reading {config.source}", None)
    if rows is None:
        rows, layout = _read(config, str(starter.train_path) if starter else config.source, offline)
    else:
        layout = _recognise(rows, config)
    rows = rows[: config.max_rows]
    examples, refused = to_examples(rows, layout)
    if not examples:
        raise DataError(
            f"None of the {len(rows)} rows of {config.source} can be used; row 0: {refused[0].reason}.",
            f"They were read as {layout.format} ({layout.reason}). Every row needs a question and an answer.",
        )
    held_out_source = config.held_out_source or (str(starter.held_out_path) if starter else None)
    if held_out_source:
        other = starter_set(held_out_source)
        held_out_path = str(other.held_out_path) if other else held_out_source
        held_out_rows, held_out_layout = _read(config, held_out_path, offline)
        held_out, refused_held_out = to_examples(held_out_rows, held_out_layout)
        refused += [Refusal(one.row, f"held out: {one.reason}") for one in refused_held_out]
    else:
        examples, held_out = _split(examples, config.held_out_fraction, config.seed)
    system = config.system_prompt
    return Dataset(
        train=[_with_system(example, system) for example in examples],
        held_out=[_with_system(example, system) for example in held_out],
        refused=tuple(refused),
        origin=config.source,
        format=layout.format,
        format_reason=layout.reason,
        confidence=layout.confidence,
        columns=layout.columns,
        found=tuple(dict.fromkeys(str(key) for row in rows[:100] if isinstance(row, Mapping) for key in row)),
    )


def _read(config: Data, source: str, offline: bool) -> tuple[list[Any], Layout]:
    """Rows and how to read them; a folder with a `dataset_info.json` says both itself."""
    listing = dataset_info.find(source)
    if listing is None:
        rows = read_rows(source, subset=config.subset, split=config.split, offline=offline)
        return rows, _recognise(rows, config)
    entry = dataset_info.entry(listing, config.subset)
    rows = read_rows(entry.source, subset=entry.subset, split=entry.split, offline=offline)
    rows = rows[: entry.num_samples]
    present = {str(key) for row in rows[:100] if isinstance(row, Mapping) for key in row}
    wanted = {role: column for role, column in entry.layout.columns.items() if column not in present}
    # like there: a column named by default may be missing, one that carries the answer may not
    needed = sorted(set(wanted) & {"messages", "response", "prompt", "chosen", "rejected", "rating", "text"})
    if needed:
        raise DataError(
            f"{listing}, {entry.name}: the rows have no column {wanted[needed[0]]!r} ({needed[0]}).",
            f"Found: {', '.join(sorted(present)) or 'none'}. Name it in columns.",
        )
    kept = {role: column for role, column in entry.layout.columns.items() if role not in wanted}
    return rows, replace(entry.layout, columns=kept)


def _recognise(rows: list[Any], config: Data) -> Layout:
    return recognise(rows, format=config.format, columns=config.columns, tags=config.tags)


def _split(examples: list[Example], fraction: float, seed: int) -> tuple[list[Example], list[Example]]:
    """The same seed holds the same rows out; at least one row stays on the training side."""
    count = min(round(len(examples) * fraction), len(examples) - 1)
    chosen = set(random.Random(seed).sample(range(len(examples)), count))
    kept = [example for place, example in enumerate(examples) if place not in chosen]
    return kept, [examples[place] for place in sorted(chosen)]


def _with_system(example: Example, system: str | None) -> Example:
    if system is None:
        return example
    first = Message("system", system)
    match example:
        case Conversation() | RatedReply() if example.messages[0].role != "system":
            return replace(example, messages=(first, *example.messages))
        case PreferencePair() if example.prompt[0].role != "system":
            return replace(example, prompt=(first, *example.prompt))
    return example
