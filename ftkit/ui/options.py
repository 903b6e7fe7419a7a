"""A list to choose from that greys out what this machine cannot do."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import anywidget
import traitlets

from ftkit.ui import front


class Options(anywidget.AnyWidget):
    """What ipywidgets' Dropdown is, with choices that cannot be chosen.

    Parameters
    ----------
    options
        Text and value of each choice; None is a value, too.
    description
        The label.
    """

    _esm = front.esm("options/widget.js")

    options = traitlets.List().tag(sync=True)
    """Pairs of text and value."""
    value = traitlets.Any(None, allow_none=True).tag(sync=True)
    """The value chosen."""
    blocked = traitlets.Dict().tag(sync=True)
    """Value to a few words that say why it cannot be chosen."""
    description = traitlets.Unicode("").tag(sync=True)
    """The label."""
    tooltip = traitlets.Unicode("").tag(sync=True)
    """Text shown on hover."""

    def __init__(self, options: Iterable[tuple[str, Any]], description: str = "", **traits: Any) -> None:
        super().__init__(
            options=[[text, value] for text, value in options], description=description, **traits
        )

    def __repr__(self) -> str:
        return f"Options({self.description!r}, value={self.value!r})"
