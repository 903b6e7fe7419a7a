"""The one canonical row, whatever the source format was."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

ROLES = ("system", "user", "assistant", "tool")


@dataclass(frozen=True)
class Message:
    """One turn: a role of `ROLES` and what was said."""

    role: str
    content: str


@dataclass(frozen=True)
class Conversation:
    """A conversation; `row` is its number in the source from 0, `extra` the columns that are not messages."""

    messages: tuple[Message, ...]
    row: int = 0
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class PlainText:
    """A piece of text without turns."""

    text: str
    row: int = 0
    extra: Mapping[str, Any] = field(default_factory=dict)


Example = Conversation | PlainText


@dataclass(frozen=True)
class Refusal:
    """A row that is left out, by its number from 0, and why."""

    row: int
    reason: str
