"""(ids, mask): the one truth of what is trained on. Trainer, preview and checks read these same arrays."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ftkit.data.encoded import Chunk, Encoded, Limits, TooLong
from ftkit.data.example import (
    Conversation,
    Example,
    PlainText,
    Refusal,
    UnusableRowError,
    as_conversation,
)
from ftkit.data.token_store import EncodedRows, Writer, lengths
from ftkit.errors import DataError, TemplateError
from ftkit.recipe import SFT, Objective

if TYPE_CHECKING:
    from ftkit.data.template import Template

CHUNK = 256
"""Rows tokenised together."""
UNTRAINED = "no token of it would be trained"
"""Why a row is refused that holds nothing to learn."""
CACHED_FROM = 1000
"""Rows from which on keeping the tokens on disk is worth the files."""
Progress = Callable[[str, float | None], None]


@dataclass(frozen=True)
class EncodedSet:
    """The rows that are trained on, and those left out with the reason."""

    rows: Sequence[Encoded]
    refused: tuple[Refusal, ...]
    shortened: tuple[int, ...] = ()
    """Numbers of the rows of which something was left out because they were too long."""

    @property
    def untrained(self) -> tuple[int, ...]:
        """Numbers of the rows that hold nothing to learn."""
        return tuple(one.row for one in self.refused if one.reason == UNTRAINED)

    @property
    def tokens(self) -> int:
        """Tokens in all rows."""
        return int(self.lengths.sum())

    @property
    def trained_tokens(self) -> int:
        """Tokens the loss is taken over."""
        if isinstance(self.rows, EncodedRows):
            return int(np.count_nonzero(self.rows.mask))
        return sum(int(row.mask.sum()) for row in self.rows)

    @property
    def lengths(self) -> np.ndarray:
        """(rows,) tokens of each row."""
        return lengths(self.rows)


def encode_all(
    examples: Sequence[Example],
    template: Template,
    *,
    objective: Objective,
    max_length: int,
    too_long: TooLong,
    progress: Progress | None = None,
    cache: Path | None = None,
    processes: int | None = None,
) -> EncodedSet:
    """Encode every example; rows longer than `max_length` tokens are left out, shortened or refused.

    Parameters
    ----------
    cache
        A folder in which the tokens of many rows are kept, and found again where nothing has changed. The
        rows are then mapped from there, so that they take next to no memory.
    processes
        How many to use. None: decided by how long it takes.

    Raises
    ------
    DataError
        When no row is left, or a row is too long and `too_long` is "error".
    """
    from ftkit.data.chunks import encode_chunks

    limits = Limits(objective, max_length, too_long)
    if cache is not None and len(examples) >= CACHED_FROM:
        kept = _through(cache, examples, template, limits, progress, processes)
        if kept is not None:
            return kept
    found = _collected(encode_chunks(examples, template, limits, progress, processes))
    if not found.rows:
        raise _nothing_left(found.refused)
    return found


def _collected(chunks: Iterable[Chunk]) -> EncodedSet:
    """In flat arrays: an object for each row would cost more memory than its tokens."""
    parts, refused, shortened = [], [], []
    for chunk in chunks:
        parts.append(EncodedRows.joined([chunk.rows]))
        refused += chunk.refused
        shortened += chunk.shortened
    return EncodedSet(EncodedRows.joined(parts), tuple(refused), tuple(shortened))


def _through(
    cache: Path,
    examples: Sequence[Example],
    template: Template,
    limits: Limits,
    progress: Progress | None,
    processes: int | None,
) -> EncodedSet | None:
    """The rows from the cache, put there first where needed; None where it cannot be written to."""
    from ftkit.data import entries, token_cache
    from ftkit.data.chunks import encode_chunks

    settings = {**vars(limits), "objective": limits.objective.model_dump()}
    name = token_cache.key(examples, template, settings)
    found = token_cache.read(cache, name) if name is not None else None
    if name is None or found is not None:
        return found
    refused: list[Refusal] = []
    shortened: list[int] = []
    try:
        writer = Writer(cache / name)
    except OSError:
        return None
    try:
        for chunk in encode_chunks(examples, template, limits, progress, processes):
            refused += chunk.refused
            shortened += chunk.shortened
            try:
                writer.add(chunk.rows)
            except OSError:  # the disk is full: memory it is
                return None
        if not writer.rows:
            raise _nothing_left(refused)
        try:
            writer.finish({"refused": [(one.row, one.reason) for one in refused], "shortened": shortened})
        except OSError:
            return None
    finally:
        writer.close()
    entries.clean(cache, name, token_cache.LIMIT_BYTES)
    return token_cache.read(cache, name)


def _nothing_left(refused: Sequence[Refusal]) -> DataError:
    first = f"row {refused[0].row}: {refused[0].reason}" if refused else "there are no rows"
    advice = "Raise data.max_length, or mend the rows."
    if all(one.reason == UNTRAINED for one in refused):
        advice = "Look at the role names, the messages' weights and what is trained on (objective.train_on)."
    return DataError(f"No row can be trained on ({first}).", advice)


def encode_each(
    examples: Sequence[Example],
    template: Template,
    objective: Objective,
    progress: Progress | None = None,
) -> EncodedSet:
    """Every example as long as it is, to look at; the same arrays as `encode_all` makes."""
    from ftkit.data.chunks import encode_chunks

    limits = Limits(objective, sys.maxsize, "drop")
    chunks = encode_chunks(examples, template, limits, progress, processes=1, text="Counting tokens")
    return _collected(chunks)


def usable(
    examples: Sequence[Example], template: Template, limits: Limits, refused: list[Refusal]
) -> list[Conversation | PlainText]:
    """What there is to imitate in each example; those without are added to `refused`.

    Raises
    ------
    TemplateError
        When there are turns and the model has no chat template: one error, not one a row.
    DataError
        When a row has too many characters, and that is an error.
    """
    found: list[Conversation | PlainText] = []
    most = (
        template.most_characters(limits.max_length) if limits.too_long in ("drop", "error") else sys.maxsize
    )
    for example in examples:
        try:
            one = as_conversation(example)
        except UnusableRowError as error:
            refused.append(Refusal(example.row, str(error)))
            continue
        count = (
            len(one.text) if isinstance(one, PlainText) else sum(len(turn.content) for turn in one.messages)
        )
        if count <= most:
            found.append(one)
            continue
        reason = f"{count:,} characters, the cut-off is {limits.max_length} tokens"  # never tokenised
        if limits.too_long == "error":
            raise DataError(f"Row {example.row} is too long: {reason}.", "Raise data.max_length.")
        refused.append(Refusal(example.row, reason))
    if any(isinstance(example, Conversation) for example in found):
        template.source  # noqa: B018  raises where there is none
    return found


def paired(
    examples: Sequence[Conversation | PlainText],
    found: Sequence[Encoded | TemplateError],
    refused: list[Refusal],
) -> list[tuple[Conversation | PlainText, Encoded]]:
    """Each example with its tokens; those that could not be encoded are added to `refused`."""
    done = []
    for one, encoded in zip(examples, found, strict=True):
        if isinstance(encoded, Encoded):
            done.append((one, encoded))
        else:
            refused.append(Refusal(one.row, encoded.message))
    return done


def over_the_limit(
    example: Conversation | PlainText,
    encoded: Encoded,
    template: Template,
    limits: Limits,
    refused: list[Refusal],
) -> list[Encoded]:
    """What is kept of a row that is too long; nothing where it is added to `refused`.

    Raises
    ------
    DataError
        When that is an error.
    """
    from ftkit.data.truncate import shorten

    reason = f"{len(encoded.ids)} tokens, the cut-off is {limits.max_length}"
    if limits.too_long == "error":
        raise DataError(f"Row {example.row} is too long: {reason}.", "Raise data.max_length.")
    if limits.too_long == "drop":
        refused.append(Refusal(example.row, reason))
        return []
    try:
        return shorten(
            example,
            encoded,
            lambda part: encode(part, template, limits.objective),
            limit=limits.max_length,
            policy=limits.too_long,
        )
    except UnusableRowError as error:
        refused.append(Refusal(example.row, str(error)))
        return []


def train_on(objective: Objective) -> str:
    """Which turns are trained on."""
    return objective.train_on if isinstance(objective, SFT) else "all"


def encode(example: Example, template: Template, objective: Objective) -> Encoded:
    """One example under `objective`.

    Raises
    ------
    UnusableRowError
        When it holds nothing that `objective` could learn.
    TemplateError
        When the chat template cannot render it.
    """
    return template.encode(as_conversation(example), train_on(objective))


@dataclass(frozen=True)
class RowTokens:
    """A row for display.

    Attributes
    ----------
    tokens
        One dict a token, at most as many as asked for: `id`, `text`, `trained`, `special`.
    text
        All of it as text.
    count, trained
        Tokens of the whole row, and those of them that are trained.
    """

    tokens: list[dict[str, Any]]
    text: str
    count: int
    trained: int


def row_tokens(
    example: Example, template: Template, objective: Objective, *, limit: int | None = None
) -> RowTokens:
    """The tokens of `encode` for display, the first `limit` of them one by one."""
    encoded = encode(example, template, objective)
    tokenizer = template.tokenizer
    special = set(tokenizer.all_special_ids)
    ids = encoded.ids.tolist()
    tokens = [
        {"id": token, "text": tokenizer.decode([token]), "trained": trained, "special": token in special}
        for token, trained in zip(ids[:limit], encoded.mask.tolist(), strict=False)
    ]
    return RowTokens(tokens, tokenizer.decode(ids), len(ids), int(encoded.mask.sum()))


def preview_tokens(example: Example, template: Template, objective: Objective) -> list[dict[str, Any]]:
    """The tokens of `encode` for display: `id`, `text`, `trained`, `special`."""
    return row_tokens(example, template, objective).tokens
