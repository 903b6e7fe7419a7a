"""What differs between notebook hosts and between ipywidgets 7.7 and 8, and nowhere else."""

from __future__ import annotations

import functools
import sys
from collections.abc import Sequence
from typing import Any

import ipywidgets as widgets

IPYWIDGETS_MAJOR = int(widgets.__version__.split(".")[0])


def keep_clicks() -> None:
    """Have what a page says of its widgets arrive, and in the order in which it was said.

    JupyterLab sends it all to one subshell. ipykernel 7.4 hands it on to the shell that the kernel last sent
    something of that very widget from: what was typed and the click that followed it are then handled by two
    threads at a time, and where that shell was the subshell of a page that is gone, not at all. So all goes
    where its page asks for, but for the answers to a request (by its id) that a shell waits for.
    """
    module: Any = sys.modules.get("ipykernel.comm.comm")
    comm: Any = getattr(module, "BaseComm", None)
    own = getattr(comm, "_reply_subshell_for", None)
    if own is None or hasattr(own, "__wrapped__"):
        return
    request_id = getattr(module, "_request_id", lambda _: None)

    @functools.wraps(own)
    def as_asked(self: Any, data: Any, asked_for: str | None) -> str | None:
        awaited = request_id(data) in getattr(self, "_reply_subshell_ids", ())
        found: str | None = own(self, data, asked_for) if awaited else asked_for
        if found is None or self.kernel is None:
            return found
        there = self.kernel.shell_channel_thread.manager.list_subshell()
        return next((one for one in (found, asked_for) if one in there), None)

    comm._reply_subshell_for = as_asked


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
