"""The canonical rows, whatever the source format was."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

ROLES = ("system", "user", "assistant", "tool")
IMAGE = "<image>"
"""Stands in a message's text where an image belongs."""


@dataclass(frozen=True)
class Message:
    """One turn.

    Attributes
    ----------
    role
        One of `ROLES`.
    content
        What was said; empty where the turn is tool calls alone.
    tool_calls
        The assistant's calls, each `{"type": "function", "function": {"name": ..., "arguments": ...}}`.
    weight
        0: the turn is read but not trained on.
    tool_call_id, name
        Of a tool's result: the call that it answers, and the tool; empty where the source names none.
    images
        Paths or addresses of the images that belong to it, one for each `IMAGE` in its content.
    """

    role: str
    content: str
    tool_calls: tuple[Mapping[str, Any], ...] = ()
    weight: float = 1.0
    tool_call_id: str = ""
    name: str = ""
    images: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """The message in OpenAI's form, as chat templates take it."""
        turn: dict[str, Any] = {"role": self.role, "content": self.content}
        if self.tool_calls:
            turn["tool_calls"] = [dict(call) for call in self.tool_calls]
        for key in ("tool_call_id", "name"):
            if value := getattr(self, key):
                turn[key] = value
        return turn


@dataclass(frozen=True)
class Conversation:
    """A conversation.

    Attributes
    ----------
    row
        Its number in the source, from 0.
    extra
        The columns that are not part of it.
    tools
        Descriptions of the functions that the assistant may call.
    rated
        Of a rated reply: 1 where it is good, 0 where it is bad; else -1.
    unanswered
        Whether the model is to give the reply to its last turn itself.
    """

    messages: tuple[Message, ...]
    row: int = 0
    extra: Mapping[str, Any] = field(default_factory=dict)
    tools: tuple[Any, ...] = ()
    rated: int = -1
    unanswered: bool = False


@dataclass(frozen=True)
class PlainText:
    """A piece of text without turns."""

    text: str
    row: int = 0
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class PreferencePair:
    """Two replies to one prompt, of which `chosen` is the better one."""

    prompt: tuple[Message, ...]
    chosen: tuple[Message, ...]
    rejected: tuple[Message, ...]
    row: int = 0
    extra: Mapping[str, Any] = field(default_factory=dict)
    tools: tuple[Any, ...] = ()


@dataclass(frozen=True)
class RatedReply:
    """A conversation whose last reply was rated good or bad (KTO)."""

    messages: tuple[Message, ...]
    good: bool
    row: int = 0
    extra: Mapping[str, Any] = field(default_factory=dict)
    tools: tuple[Any, ...] = ()


@dataclass(frozen=True)
class LabelledText:
    """A text, or a pair of texts, and its class."""

    text: str
    label: str
    row: int = 0
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class TaggedTokens:
    """Words, each with a tag such as B-PER."""

    tokens: tuple[str, ...]
    tags: tuple[str, ...]
    row: int = 0
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class SpanAnswer:
    """A question whose answer is a piece of `context`: `answer` begins at character `start`."""

    question: str
    context: str
    answer: str
    start: int
    row: int = 0
    extra: Mapping[str, Any] = field(default_factory=dict)


Example = Conversation | PlainText | PreferencePair | RatedReply | LabelledText | TaggedTokens | SpanAnswer


class UnusableRowError(ValueError):
    """A row that cannot be an Example, or cannot be used as asked; the text says why."""


@dataclass(frozen=True)
class Refusal:
    """A row that is left out, by its number from 0, and why."""

    row: int
    reason: str


def images_of(example: Example) -> tuple[str, ...]:
    """Paths or addresses of all images of an example, in order."""
    match example:
        case Conversation() | RatedReply():
            turns = example.messages
        case PreferencePair():
            turns = (*example.prompt, *example.chosen, *example.rejected)
        case _:
            return ()
    return tuple(image for message in turns for image in message.images)


def refuse_images(example: Example) -> None:
    """Let a row without images pass.

    Raises
    ------
    UnusableRowError
        When it has some.
    """
    found = images_of(example)
    if found:
        raise UnusableRowError(
            f"it has {len(found)} image{'s' if len(found) > 1 else ''}: training on text alone would teach "
            "to talk about what cannot be seen"
        )


def as_conversation(example: Example, *, images: bool = False) -> Conversation | PlainText:
    """What supervised fine-tuning learns of an example: of a pair the chosen reply, of rated ones the good.

    Parameters
    ----------
    images
        Whether a conversation with images will do.

    Raises
    ------
    UnusableRowError
        When there is nothing in it to imitate, or it has images that text alone cannot show.
    """
    if not images:
        refuse_images(example)
    match example:
        case Conversation() | PlainText():
            return example
        case PreferencePair():
            return Conversation(
                (*example.prompt, *example.chosen), example.row, example.extra, tools=example.tools
            )
        case RatedReply():
            if not example.good:
                raise UnusableRowError("the reply is rated bad: supervised fine-tuning does not imitate it")
            return Conversation(example.messages, example.row, example.extra, tools=example.tools)
        case SpanAnswer():
            asked = Message("user", f"{example.context}\n\n{example.question}")
            answer = Message("assistant", example.answer)
            return Conversation((asked, answer), example.row, example.extra)
        case LabelledText():
            turns = (Message("user", example.text), Message("assistant", example.label))
            return Conversation(turns, example.row, example.extra)
        case TaggedTokens():
            raise UnusableRowError("token tags have no answer to imitate")
