"""What differs between notebook hosts and between ipywidgets 7.7 and 8, and nowhere else."""

from __future__ import annotations

from collections.abc import Sequence

import ipywidgets as widgets

IPYWIDGETS_MAJOR = int(widgets.__version__.split(".")[0])


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
