"""What a run's own rows say about how to talk to its model: the system prompt, and a few things to ask."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ftkit.errors import FtkitError

if TYPE_CHECKING:
    from ftkit.data import Conversation
    from ftkit.recipe import Recipe


@dataclass(frozen=True)
class Hints:
    """How the rows that a model learned from begin."""

    system_prompt: str = ""
    """The system message that most rows have; empty when most have none."""
    prompts: tuple[str, ...] = ()
    """First user messages of held-out rows."""


_READ = 500
"""Rows that hints are taken from."""


def hints(recipe: Recipe, limit: int = 4) -> Hints:
    """Read the rows of `recipe` without touching the network; no rows, no hints.

    Parameters
    ----------
    limit
        At most so many prompts.
    """
    from ftkit.data import Conversation, load

    try:
        dataset = load(recipe.data.head(_READ), offline=True)
    except FtkitError:
        return Hints(recipe.data.system_prompt or "")
    rows = [row for row in (*dataset.held_out, *dataset.train) if isinstance(row, Conversation)]
    if not rows:
        return Hints(recipe.data.system_prompt or "")
    systems = Counter(_first(row, "system") or recipe.data.system_prompt or "" for row in rows)
    prompts = dict.fromkeys(_first(row, "user") for row in rows)
    return Hints(systems.most_common(1)[0][0], tuple(text for text in prompts if text)[:limit])


def _first(row: Conversation, role: str) -> str:
    return next((message.content for message in row.messages if message.role == role), "")
