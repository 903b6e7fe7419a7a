"""Exact match: how many held-out rows the model answers word for word."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from ftkit.errors import DataError
from ftkit.evaluate.generate import greedy_replies
from ftkit.evaluate.score import FieldScores, field_scores, is_exact

if TYPE_CHECKING:
    from ftkit.chat.inference import Which
    from ftkit.data import Conversation, Example, Message, Template
    from ftkit.models import LoadedModel

MAX_GROUPS = 4
"""A column with more values than this is left out of `by` unless it is asked for."""


@dataclass(frozen=True)
class Evaluation:
    """The answers to held-out rows, and how many are right."""

    score: float
    """Share of rows answered exactly."""
    rows: list[dict[str, Any]] = field(repr=False)
    """In the order of the examples: `row`, `prompt`, `expected`, `got`, `correct`, `extra`."""
    by: dict[str, float]
    """The same share by the values of the rows' extra columns, such as `seen_form: yes`."""
    counts: dict[str, int] = field(repr=False)
    """How many rows each share of `by` is over."""
    json: FieldScores | None = None
    """Valid JSON and accuracy by field; None unless every expected answer is a JSON object."""
    seconds: float = 0.0
    """Time it took, waiting for training steps included."""
    complete: bool = True
    """False when it was cancelled: `rows` then holds those that were answered."""


def exact_match(
    loaded: LoadedModel,
    examples: Sequence[Example],
    *,
    which: Which = "adapter",
    max_new_tokens: int = 96,
    batch_size: int = 16,
    by: Sequence[str] | None = None,
    template: Template | None = None,
    progress: Callable[[str, float | None], Any] | None = None,
    cancelled: threading.Event | None = None,
) -> Evaluation:
    """Answer each conversation up to its last assistant message, greedily, and compare.

    Takes turns at `loaded.gate` batch by batch, so it may be called while the model trains.

    Parameters
    ----------
    examples
        Conversations that end with the assistant's answer.
    which
        `adapter`: the model as trained so far; `base`: the same weights, the adapter switched off.
    max_new_tokens
        A longer answer is cut off there, and wrong.
    by
        Extra columns to score apart. Default: every column with two to four different values.
    template
        Renders the conversations. Default: the tokenizer's own chat template.
    progress
        Called with a text and a fraction after each batch.
    cancelled
        Set it from any thread to end early.

    Raises
    ------
    DataError
        When there are no rows, or one has no answer to compare with.
    """
    from ftkit.data import Template

    begun = time.monotonic()
    if not examples:
        raise DataError("There are no rows to evaluate on.", "Give at least one held-out conversation.")
    tasks = [_task(example) for example in examples]
    renderer = template or Template(loaded.tokenizer)
    prompts = [renderer.prompt_ids(question) for _, question, _ in tasks]
    answers = dict(
        greedy_replies(
            loaded,
            prompts,
            which=which,
            max_new_tokens=max_new_tokens,
            batch_size=batch_size,
            progress=progress,
            cancelled=cancelled,
        )
    )
    rows = [
        _row(*tasks[index], str(loaded.tokenizer.decode(answers[index], skip_special_tokens=True)))
        for index in sorted(answers)
    ]
    groups = _groups(rows, by)
    return Evaluation(
        score=_share(rows),
        rows=rows,
        by={name: _share(group) for name, group in groups.items()},
        counts={name: len(group) for name, group in groups.items()},
        json=field_scores([row["expected"] for row in rows], [row["got"] for row in rows]),
        seconds=time.monotonic() - begun,
        complete=len(rows) == len(examples),
    )


def _task(example: Example) -> tuple[Conversation, list[Message], str]:
    """The row, what is asked and what is expected."""
    messages = list(getattr(example, "messages", ()))
    if not hasattr(example, "messages") or len(messages) < 2 or messages[-1].role != "assistant":
        msg = (
            f"Row {example.row} does not end with an assistant's answer, so there is nothing to compare with."
        )
        raise DataError(msg, "Evaluate on conversations whose last message is the assistant's.")
    return cast("Conversation", example), messages[:-1], messages[-1].content


def _row(example: Conversation, question: list[Message], expected: str, got: str) -> dict[str, Any]:
    return {
        "row": example.row,
        "prompt": next((m.content for m in reversed(question) if m.role == "user"), question[-1].content),
        "expected": expected,
        "got": got,
        "correct": is_exact(expected, got),
        "extra": dict(example.extra),
    }


def _groups(rows: list[dict[str, Any]], by: Sequence[str] | None) -> dict[str, list[dict[str, Any]]]:
    columns = by if by is not None else dict.fromkeys(name for row in rows for name in row["extra"])
    groups: dict[str, list[dict[str, Any]]] = {}
    for column in columns:
        having = [row for row in rows if isinstance(row["extra"].get(column), str | bool | int)]
        found: dict[str, list[dict[str, Any]]] = {}
        for row in having:
            found.setdefault(f"{column}: {_plain(row['extra'][column])}", []).append(row)
        if by is not None or 2 <= len(found) <= MAX_GROUPS:
            groups |= dict(sorted(found.items(), reverse=True))
    return groups


def _plain(value: str | int) -> str:
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def _share(rows: list[dict[str, Any]]) -> float:
    return sum(row["correct"] for row in rows) / len(rows) if rows else 0.0
