"""Rows that hold a text, letter case aside. Linear, without a copy of the rows."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence

from ftkit.data.example import (
    Conversation,
    Example,
    LabelledText,
    Message,
    PlainText,
    PreferencePair,
    RatedReply,
    SpanAnswer,
)

_LOOK_UP = 512
"""Rows between two looks at whether to go on."""


def contents(example: Example) -> Iterator[str]:
    """Every text that an example says, its tool calls as JSON."""
    match example:
        case PlainText():
            yield example.text
        case LabelledText():
            yield from (example.text, example.label)
        case SpanAnswer():
            yield from (example.question, example.context, example.answer)
        case Conversation() | RatedReply():
            yield from _said(example.messages)
        case PreferencePair():
            yield from _said((*example.prompt, *example.chosen, *example.rejected))
        case _:
            yield from (" ".join(example.tokens), " ".join(example.tags))


def find_rows(
    examples: Sequence[Example], text: str, go_on: Callable[[], bool] = lambda: True
) -> list[int] | None:
    """Places in `examples` of the rows that hold `text`.

    Parameters
    ----------
    go_on
        Asked now and then; when it says no the search ends with None.
    """
    wanted = text.casefold()
    found = []
    for place, example in enumerate(examples):
        if place % _LOOK_UP == 0 and not go_on():
            return None
        if any(wanted in said.casefold() for said in contents(example)):
            found.append(place)
    return found


def _said(messages: Sequence[Message]) -> Iterator[str]:
    for message in messages:
        yield message.content
        if message.tool_calls:
            yield json.dumps([call["function"] for call in message.tool_calls], ensure_ascii=False)
