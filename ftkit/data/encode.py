"""(ids, mask): the one truth of what is trained on. Trainer, preview and checks read these same arrays."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ftkit.data.encoded import Chunk, Encoded, Limits, TooLong
from ftkit.data.example import Conversation, Example, PlainText, Refusal, UnusableRowError
from ftkit.data.sides import BAD, GOOD, SIDES, sides, together, train_on
from ftkit.data.token_store import EncodedRows, Writer, lengths
from ftkit.errors import DataError
from ftkit.recipe import Objective

if TYPE_CHECKING:
    from ftkit.data.template import Template

CHUNK = 256
"""Rows tokenised together."""
UNTRAINED = "no token of it would be trained"
"""Why a row is refused that holds nothing to learn."""
SAME = "chosen and rejected are the same tokens"
"""Why a pair is refused that has nothing to prefer."""
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
        raise _nothing_left(found.refused, objective)
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
            raise _nothing_left(refused, limits.objective)
        try:
            writer.finish({"refused": [(one.row, one.reason) for one in refused], "shortened": shortened})
        except OSError:
            return None
    finally:
        writer.close()
    entries.clean(cache, name, token_cache.LIMIT_BYTES)
    return token_cache.read(cache, name)


_NEEDED = {
    "pairs": "needs rows with a chosen and a rejected reply (such as format `preference`)",
    "rated": "needs replies rated good or bad (such as format `rated`), or pairs of which one is preferred",
}


def _nothing_left(refused: Sequence[Refusal], objective: Objective) -> DataError:
    first = f"row {refused[0].row}: {refused[0].reason}" if refused else "there are no rows"
    advice = "Raise data.max_length, or mend the rows."
    if all(one.reason == UNTRAINED for one in refused):
        advice = "Look at the role names, the messages' weights and what is trained on (objective.train_on)."
    elif objective.reads in _NEEDED:
        needed = f"Objective {objective.type!r} {_NEEDED[objective.reads]}"
        advice = f"{needed}; rows longer than data.max_length are left out."
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
    """What there is to learn in each example, its texts in a row; those without are added to `refused`.

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
            texts = sides(example, limits.objective)
        except UnusableRowError as error:
            refused.append(Refusal(example.row, str(error)))
            continue
        count = max(map(_characters, texts))
        if count <= most:
            found += texts
            continue
        reason = f"{count:,} characters, the cut-off is {limits.max_length} tokens"  # never tokenised
        if limits.too_long == "error":
            raise DataError(f"Row {example.row} is too long: {reason}.", "Raise data.max_length.")
        refused.append(Refusal(example.row, reason))
    if any(isinstance(example, Conversation) for example in found):
        template.source  # noqa: B018  raises where there is none
    return found


def _characters(one: Conversation | PlainText) -> int:
    return len(one.text) if isinstance(one, PlainText) else sum(len(turn.content) for turn in one.messages)


def over_the_limit(
    texts: Sequence[Conversation | PlainText],
    encoded: Sequence[Encoded],
    template: Template,
    limits: Limits,
    refused: list[Refusal],
) -> list[Encoded]:
    """What is kept of a row that is too long; nothing where it is added to `refused`.

    Parameters
    ----------
    texts, encoded
        What belongs together: a text, or both sides of a pair.

    Raises
    ------
    DataError
        When that is an error.
    """
    from ftkit.data.truncate import shorten, shorten_together

    row = texts[0].row
    reason = f"{max(len(one.ids) for one in encoded)} tokens, the cut-off is {limits.max_length}"
    if limits.too_long == "error":
        raise DataError(f"Row {row} is too long: {reason}.", "Raise data.max_length.")
    if limits.too_long == "drop":
        refused.append(Refusal(row, reason))
        return []

    def again(part: Conversation | PlainText) -> Encoded:
        return template.encode(part, train_on(limits.objective))

    try:
        if limits.objective.reads != "texts":
            talks = [one for one in texts if isinstance(one, Conversation)]
            return shorten_together(talks, again, limit=limits.max_length)
        return shorten(texts[0], encoded[0], again, limit=limits.max_length, policy=limits.too_long)
    except UnusableRowError as error:
        refused.append(Refusal(row, str(error)))
        return []


def encode(example: Example, template: Template, objective: Objective) -> Encoded:
    """One example under `objective`; of a pair the chosen side.

    Raises
    ------
    UnusableRowError
        When it holds nothing that `objective` could learn.
    TemplateError
        When the chat template cannot render it.
    """
    return encode_sides(example, template, objective)[0]


def encode_sides(example: Example, template: Template, objective: Objective) -> list[Encoded]:
    """All that `objective` reads of one example: of a pair the chosen side, then the rejected one."""
    return [template.encode(one, train_on(objective)) for one in sides(example, objective)]


@dataclass(frozen=True)
class RowTokens:
    """A row, or one side of it, for display.

    Attributes
    ----------
    tokens
        One dict a token, at most as many as asked for: `id`, `text`, `trained`, `special`.
    text
        All of it as text.
    count, trained
        Tokens of the whole row, and those of them that are trained.
    side
        What it is of the row: `chosen` or `rejected`, `rated good` or `rated bad`, `the prompt`; else empty.
    """

    tokens: list[dict[str, Any]]
    text: str
    count: int
    trained: int
    side: str = ""


def row_tokens(
    example: Example, template: Template, objective: Objective, *, limit: int | None = None
) -> list[RowTokens]:
    """The tokens of `encode_sides` for display, of each side the first `limit` of them one by one."""
    found = encode_sides(example, template, objective)
    whole = "the prompt" if objective.reads == "prompts" else ""
    names = SIDES if together(objective) > 1 else [_RATINGS.get(one.label, whole) for one in found]
    return [_shown(one, template.tokenizer, name, limit) for one, name in zip(found, names, strict=True)]


_RATINGS = {GOOD: "rated good", BAD: "rated bad"}


def _shown(encoded: Encoded, tokenizer: Any, side: str, limit: int | None) -> RowTokens:
    special = set(tokenizer.all_special_ids)
    ids = encoded.ids.tolist()
    tokens = [
        {"id": token, "text": tokenizer.decode([token]), "trained": trained, "special": token in special}
        for token, trained in zip(ids[:limit], encoded.mask.tolist(), strict=False)
    ]
    return RowTokens(tokens, tokenizer.decode(ids), len(ids), int(encoded.mask.sum()), side)


def preview_tokens(example: Example, template: Template, objective: Objective) -> list[dict[str, Any]]:
    """The tokens of `encode` for display: `id`, `text`, `trained`, `special`; of a pair the chosen side's."""
    return row_tokens(example, template, objective)[0].tokens
