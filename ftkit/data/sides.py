"""What an objective reads of a row: one text, or the sides of a pair; of each, the turns that are trained on.

A side is a conversation whose earlier turns weigh nothing, so that the mask that is made of it, and shown in
the preview, covers the reply that is compared or rated and nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ftkit.data.example import (
    Conversation,
    Example,
    Message,
    PlainText,
    PreferencePair,
    RatedReply,
    UnusableRowError,
    as_conversation,
    refuse_images,
)
from ftkit.recipe import Objective

SIDES = ("chosen", "rejected")
"""The sides of a pair, in the order in which they are encoded."""
GOOD, BAD = 1, 0


def sides(example: Example, objective: Objective) -> tuple[Conversation | PlainText, ...]:
    """The texts that `objective` reads of an example: of a pair two, chosen and rejected.

    Raises
    ------
    UnusableRowError
        When the example is not of the kind that the objective learns from.
    """
    if objective.reads == "pairs":
        return _pair(example)
    if objective.reads == "rated":
        return _rated(example)
    if objective.reads == "prompts":
        return (_only_asked(question(example)),)
    return (as_conversation(example),)


def together(objective: Objective) -> int:
    """How many texts belong together: both sides of a pair are kept, or neither."""
    return 2 if objective.reads == "pairs" else 1


def train_on(objective: Objective) -> str:
    """Which turns of a text are trained on, of those that have weight."""
    if objective.reads == "texts":
        return getattr(objective, "train_on", "all")
    return "assistant"


def _pair(example: Example) -> tuple[Conversation, ...]:
    if not isinstance(example, PreferencePair):
        raise UnusableRowError("it has no two replies, of which one is preferred")
    refuse_images(example)
    read = _only_read(example.prompt)
    return tuple(
        Conversation((*read, *reply), example.row, example.extra, tools=example.tools)
        for reply in (example.chosen, example.rejected)
    )


def question(example: Example) -> Conversation:
    """A conversation whose last question the model answers itself; the row's own answer is the one expected.

    Raises
    ------
    UnusableRowError
        When there is no question in it.
    """
    if isinstance(example, PreferencePair):
        example = Conversation((*example.prompt, *example.chosen), example.row, example.extra)
    whole = as_conversation(replace(example, good=True) if isinstance(example, RatedReply) else example)
    if isinstance(whole, PlainText) or not any(turn.role == "user" for turn in whole.messages):
        raise UnusableRowError("there is no question in it that could be answered")
    return whole


def _only_asked(whole: Conversation) -> Conversation:
    """Up to its last question, and the reply still to come: nothing of a prompt is trained on."""
    last = max(place for place, turn in enumerate(whole.messages) if turn.role == "user")
    return replace(whole, messages=_only_read(whole.messages[: last + 1]), unanswered=True)


def _rated(example: Example) -> tuple[Conversation, ...]:
    """A pair is two rated replies: the chosen one is good, the rejected one bad."""
    if isinstance(example, PreferencePair):
        return tuple(
            replace(side, rated=label) for side, label in zip(_pair(example), (GOOD, BAD), strict=True)
        )
    if not isinstance(example, RatedReply):
        raise UnusableRowError("its reply is not rated good or bad")
    refuse_images(example)
    *earlier, reply = example.messages
    turns = (*_only_read(earlier), reply)
    rated = GOOD if example.good else BAD
    return (Conversation(turns, example.row, example.extra, tools=example.tools, rated=rated),)


def _only_read(messages: Sequence[Message]) -> tuple[Message, ...]:
    return tuple(replace(message, weight=0.0) for message in messages)
