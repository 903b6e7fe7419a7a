"""A Recipe's data section to training and held-out Examples."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from ftkit.data.example import Conversation, Example, Message, Refusal
from ftkit.data.formats import recognise, to_examples
from ftkit.data.sources import read_rows, starter_set
from ftkit.errors import DataError
from ftkit.recipe import Data

Progress = Callable[[str, float | None], None]


@dataclass(frozen=True)
class Dataset:
    """Examples to learn from, Examples held out, the rows refused, and how the format was recognised."""

    train: Sequence[Example]
    held_out: Sequence[Example]
    refused: tuple[Refusal, ...]
    origin: str
    format: str
    format_reason: str


def load(config: Data, *, offline: bool = False, progress: Progress | None = None) -> Dataset:
    """Read the data that `config` names and split it.

    Raises
    ------
    DataError
        When it is missing, broken, empty, of an unknown format, or no row can be used.
    """
    tell = progress or (lambda text, fraction: None)
    starter = starter_set(config.source)
    source = str(starter.train_path) if starter else config.source
    tell(f"Reading {config.source}", None)
    rows = read_rows(source, subset=config.subset, split=config.split, offline=offline)[: config.max_rows]
    known, reason = recognise(rows)
    examples, refused = to_examples(rows, known)
    if not examples:
        raise DataError(
            f"None of the {len(rows)} rows of {config.source} can be used; row 0: {refused[0].reason}.",
            "Every row needs a question and an answer.",
        )
    held_out_source = config.held_out_source or (str(starter.held_out_path) if starter else None)
    if held_out_source:
        other = starter_set(held_out_source)
        held_out_path = str(other.held_out_path) if other else held_out_source
        held_out_rows = read_rows(held_out_path, subset=config.subset, split=config.split, offline=offline)
        held_out, _ = to_examples(held_out_rows, recognise(held_out_rows)[0])
    else:
        examples, held_out = _split(examples, config.held_out_fraction, config.seed)
    system = config.system_prompt
    return Dataset(
        train=[_with_system(example, system) for example in examples],
        held_out=[_with_system(example, system) for example in held_out],
        refused=tuple(refused),
        origin=config.source,
        format=known.name,
        format_reason=reason,
    )


def _split(examples: list[Example], fraction: float, seed: int) -> tuple[list[Example], list[Example]]:
    """The same seed holds the same rows out; at least one row stays on the training side."""
    count = min(round(len(examples) * fraction), len(examples) - 1)
    chosen = set(random.Random(seed).sample(range(len(examples)), count))
    kept = [example for place, example in enumerate(examples) if place not in chosen]
    return kept, [examples[place] for place in sorted(chosen)]


def _with_system(example: Example, system: str | None) -> Example:
    if system is None or not isinstance(example, Conversation) or example.messages[0].role == "system":
        return example
    return replace(example, messages=(Message("system", system), *example.messages))
