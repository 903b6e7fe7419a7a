"""(ids, mask): the one truth of what is trained on. Trainer, preview and checks read these same arrays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ftkit.data.example import (
    Conversation,
    Example,
    PlainText,
    Refusal,
    UnusableRowError,
    as_conversation,
)
from ftkit.errors import DataError
from ftkit.recipe import SFT, Objective

if TYPE_CHECKING:
    from ftkit.data.template import Template

CHUNK = 256
"""Rows tokenised together."""
UNTRAINED = "no token of it would be trained"
"""Why a row is refused that holds nothing to learn."""
TooLong = Literal["drop", "error", "keep_end", "keep_start", "split"]


@dataclass(frozen=True)
class Encoded:
    """A row as tokens: `ids` (n,) int32, `mask` (n,) bool, true where the token is trained on."""

    ids: np.ndarray
    mask: np.ndarray
    row: int


@dataclass(frozen=True)
class EncodedSet:
    """The rows that are trained on, and those left out with the reason."""

    rows: list[Encoded]
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
        return sum(len(row.ids) for row in self.rows)

    @property
    def trained_tokens(self) -> int:
        """Tokens the loss is taken over."""
        return sum(int(row.mask.sum()) for row in self.rows)


def encode_all(
    examples: Sequence[Example],
    template: Template,
    *,
    objective: Objective,
    max_length: int,
    too_long: TooLong,
    progress: Callable[[str, float | None], None] | None = None,
) -> EncodedSet:
    """Encode every example; rows longer than `max_length` tokens are left out, shortened or refused.

    Raises
    ------
    DataError
        When no row is left, or a row is too long and `too_long` is "error".
    """
    if any(not isinstance(example, PlainText) for example in examples):
        template.source  # noqa: B018  a model without a template is one error, not one a row
    rows: list[Encoded] = []
    refused: list[Refusal] = []
    shortened: list[int] = []
    for at in range(0, len(examples), CHUNK):
        if progress is not None:
            progress("Turning the rows into tokens", at / len(examples))
        for example, encoded in _encode_chunk(examples[at : at + CHUNK], template, objective, refused):
            if len(encoded.ids) > max_length:
                parts = _too_long(example, encoded, template, objective, max_length, too_long, refused)
                shortened += [example.row] if parts else []
                rows += parts
            elif not encoded.mask[1:].any():
                refused.append(Refusal(example.row, UNTRAINED))
            else:
                rows.append(encoded)
    if not rows:
        first = f"row {refused[0].row}: {refused[0].reason}" if refused else "there are no rows"
        advice = "Raise data.max_length, or mend the rows."
        if all(one.reason == UNTRAINED for one in refused):
            advice = (
                "Look at the role names, the messages' weights and what is trained on (objective.train_on)."
            )
        raise DataError(f"No row can be trained on ({first}).", advice)
    return EncodedSet(rows, tuple(refused), tuple(shortened))


def encode_each(
    examples: Sequence[Example],
    template: Template,
    objective: Objective,
    progress: Callable[[str, float | None], None] | None = None,
) -> EncodedSet:
    """Every example as long as it is, to look at; the same arrays as `encode_all` makes."""
    rows: list[Encoded] = []
    refused: list[Refusal] = []
    for at in range(0, len(examples), CHUNK):
        if progress is not None:
            progress("Counting tokens", at / len(examples))
        for example, encoded in _encode_chunk(examples[at : at + CHUNK], template, objective, refused):
            if encoded.mask[1:].any():
                rows.append(encoded)
            else:
                refused.append(Refusal(example.row, UNTRAINED))
    return EncodedSet(rows, tuple(refused))


def _encode_chunk(
    examples: Sequence[Example], template: Template, objective: Objective, refused: list[Refusal]
) -> list[tuple[Conversation | PlainText, Encoded]]:
    usable: list[Conversation | PlainText] = []
    for example in examples:
        try:
            usable.append(as_conversation(example))
        except UnusableRowError as error:
            refused.append(Refusal(example.row, str(error)))
    done = []
    for one, encoded in zip(usable, template.encode_many(usable, _train_on(objective)), strict=True):
        if isinstance(encoded, Encoded):
            done.append((one, encoded))
        else:
            refused.append(Refusal(one.row, encoded.message))
    return done


def _too_long(
    example: Conversation | PlainText,
    encoded: Encoded,
    template: Template,
    objective: Objective,
    limit: int,
    policy: TooLong,
    refused: list[Refusal],
) -> list[Encoded]:
    from ftkit.data.truncate import shorten

    reason = f"{len(encoded.ids)} tokens, the cut-off is {limit}"
    if policy == "error":
        raise DataError(f"Row {example.row} is too long: {reason}.", "Raise data.max_length.")
    if policy == "drop":
        refused.append(Refusal(example.row, reason))
        return []
    try:
        return shorten(
            example,
            encoded,
            lambda part: encode(part, template, objective),
            limit=limit,
            policy=policy,
        )
    except UnusableRowError as error:
        refused.append(Refusal(example.row, str(error)))
        return []


def _train_on(objective: Objective) -> str:
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
    return template.encode(
        as_conversation(example), objective.train_on if isinstance(objective, SFT) else "all"
    )


def preview_tokens(example: Example, template: Template, objective: Objective) -> list[dict[str, Any]]:
    """The tokens of `encode` for display: `id`, `text`, `trained`, `special`."""
    encoded = encode(example, template, objective)
    special = set(template.tokenizer.all_special_ids)
    return [
        {
            "id": token,
            "text": template.tokenizer.decode([token]),
            "trained": trained,
            "special": token in special,
        }
        for token, trained in zip(encoded.ids.tolist(), encoded.mask.tolist(), strict=True)
    ]
