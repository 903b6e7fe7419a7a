"""Closing a widget with all that it is made of: ipywidgets closes only the widget itself.

Every widget, and each one's layout and style, holds a channel to the page and a place in the kernel's memory
until it is closed; a Lab is made of some hundreds of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import ipywidgets as widgets

from ftkit.ui.ticker import Ticker, Worker


def close_all(*roots: widgets.Widget) -> None:
    """Close these widgets, their parts, what they keep out of sight, and end what they do in threads."""
    found = all_parts(*roots)
    for widget in found:
        _end_work(widget)
    for widget in found:
        if widget.comm is not None:
            widget.close()


def all_parts(*roots: widgets.Widget) -> list[widgets.Widget]:
    """These widgets, their parts with layouts and styles, and what they keep out of sight."""
    found: dict[int, widgets.Widget] = {}
    waiting = list(roots)
    while waiting:
        widget = waiting.pop()
        if id(widget) not in found:
            found[id(widget)] = widget
            waiting.extend(_parts(widget))
    return list(found.values())


def _parts(widget: widgets.Widget) -> Iterator[widgets.Widget]:
    shown = [getattr(widget, name, None) for name in ("children", "layout", "style")]
    kept = vars(widget).values() if type(widget).__module__.startswith("ftkit.") else ()
    for value in (*shown, *kept):
        yield from _widgets_in(value)


def _end_work(widget: widgets.Widget) -> None:
    for value in vars(widget).values():
        if isinstance(value, Worker):
            value.cancel()
        elif isinstance(value, Ticker):
            value.stop()


def _widgets_in(value: Any) -> Iterator[widgets.Widget]:
    if isinstance(value, widgets.Widget):
        yield value
    elif isinstance(value, list | tuple):
        yield from (each for each in value if isinstance(each, widgets.Widget))
    elif isinstance(value, dict):
        yield from (each for each in value.values() if isinstance(each, widgets.Widget))
