"""A piece of code with a button that copies it."""

from __future__ import annotations

from typing import Any

import anywidget
import traitlets

from ftkit.ui import front


class CodeView(anywidget.AnyWidget):
    """Code to read and to copy.

    Parameters
    ----------
    text
        The code.
    """

    _esm = front.asset("code/widget.js")
    _css = front.css("code/widget.css")

    text = traitlets.Unicode("").tag(sync=True)
    """The code."""

    def __init__(self, text: str = "", **traits: Any) -> None:
        super().__init__(text=text, **traits)

    def __repr__(self) -> str:
        return f"CodeView(lines={len(self.text.splitlines())})"
