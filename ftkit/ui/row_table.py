"""The table of rows: one page of them, in which a click or the keyboard moves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anywidget
import traitlets

from ftkit.ui import front


class RowTable(anywidget.AnyWidget):
    """A page of rows.

    Parameters
    ----------
    on_step
        Called with how many rows to go on, or back (negative).
    on_place
        Called with the place of a row that was clicked.
    """

    _esm = front.esm("rows/widget.js")
    _css = front.css("rows/widget.css")

    rows = traitlets.List(traitlets.Dict()).tag(sync=True)
    """See `ftkit.ui.rows.cells`."""
    current = traitlets.Int(0).tag(sync=True)
    """Place of the row that is shown in full."""
    total = traitlets.Int(0).tag(sync=True)
    """Rows there are, on all pages."""
    page = traitlets.Int(5).tag(sync=True)
    """Rows on a page."""
    find = traitlets.Unicode("").tag(sync=True)
    """Text that is marked."""

    def __init__(
        self, on_step: Callable[[int], None], on_place: Callable[[int], None], **traits: Any
    ) -> None:
        super().__init__(**traits)
        self._on_step = on_step
        self._on_place = on_place
        self.on_msg(self._asked)

    def __repr__(self) -> str:
        return f"RowTable(rows={self.total}, current={self.current})"

    def _asked(self, _widget: Any, content: Any, _buffers: Any) -> None:
        """Every message is answered; the rows themselves come as traits."""
        if not isinstance(content, dict) or "id" not in content:
            return
        step, place = content.get("step"), content.get("place")
        understood = True
        if isinstance(step, int):
            self._on_step(step)
        elif isinstance(place, int):
            self._on_place(place)
        else:
            understood = False
        self.send({"id": content["id"], "ok": understood})
