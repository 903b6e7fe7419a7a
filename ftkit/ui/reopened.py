"""A panel that is opened again is told once more what it shows.

A page that opens asks for the state of all widgets, makes its models, and only then hears of changes: on a
slow machine that is seconds later. What changed in between would never be seen where it was the last change,
such as that a run has finished.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anywidget
import ipywidgets as widgets

from ftkit.ui import front


def on_reopening(widget: widgets.Widget, function: Callable[[], Any]) -> None:
    """Call `function` each time but the first that a page says to show `widget`.

    The first page gets a widget and its changes in order, and misses nothing.
    """
    shown = False

    def on_page(_widget: Any, content: Any, _buffers: Any) -> None:
        nonlocal shown
        if isinstance(content, dict) and content.get("shown"):
            if shown:
                function()
            shown = True

    widget.on_msg(on_page)


class Reopened(anywidget.AnyWidget):
    """Invisible: calls `function` when the panel that it lies in is opened again."""

    _esm = front.asset("reopened/widget.js")

    def __init__(self, function: Callable[[], Any]) -> None:
        super().__init__()
        on_reopening(self, function)

    def __repr__(self) -> str:
        return "Reopened()"
