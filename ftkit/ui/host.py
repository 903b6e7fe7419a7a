"""What differs between notebook hosts and between ipywidgets 7.7 and 8, and nowhere else."""

from __future__ import annotations

import functools
import sys
from collections.abc import Sequence
from typing import Any

import ipywidgets as widgets

IPYWIDGETS_MAJOR = int(widgets.__version__.split(".")[0])


def keep_clicks() -> None:
    """Have what a page says of a widget arrive, also once another page is gone.

    ipykernel 7.4 hands it to the subshell of the page that the kernel had heard of last when it sent the
    widget's state, and drops it where that subshell is deleted by now. JupyterLab deletes one each time it
    has opened a page of a running kernel, and when it closes one. Then it goes where its own page asks for.
    """
    comm: Any = getattr(sys.modules.get("ipykernel.comm.comm"), "BaseComm", None)
    own = getattr(comm, "_reply_subshell_for", None)
    if own is None or hasattr(own, "__wrapped__"):
        return

    @functools.wraps(own)
    def to_one_that_is_there(self: Any, data: Any, asked_for: str | None) -> str | None:
        found: str | None = own(self, data, asked_for)
        if found is None or self.kernel is None:
            return found
        there = self.kernel.shell_channel_thread.manager.list_subshell()
        return found if found in there else asked_for

    comm._reply_subshell_for = to_one_that_is_there


def set_titles(container: widgets.Accordion | widgets.Tab, titles: Sequence[str]) -> None:
    """Title the parts of a Tab or Accordion (a trait since ipywidgets 8, a method in 7)."""
    if IPYWIDGETS_MAJOR >= 8:
        container.titles = tuple(titles)
    else:
        for index, title in enumerate(titles):
            container.set_title(index, title)


def set_tooltip(widget: widgets.Widget, text: str) -> None:
    """Text shown on hover (in ipywidgets 7 labelled controls call it `description_tooltip`)."""
    widget.set_trait("tooltip" if widget.has_trait("tooltip") else "description_tooltip", text)
