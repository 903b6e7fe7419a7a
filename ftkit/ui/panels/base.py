"""What the panels have in common: the theme, a workspace, and the way on to the next panel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ipywidgets as widgets

from ftkit.ui import front, host
from ftkit.ui.closing import all_parts, close_all
from ftkit.ui.reopened import Reopened
from ftkit.ui.workspace import Workspace

WHERE = ("launch", "processes", "engine_config")
"""What of `compute` says where a run lives: the Train panel asks for it, the Model panel for the rest."""


class Panel(widgets.VBox):
    """A panel of the Lab that also stands alone in a cell.

    Parameters
    ----------
    workspace
        What it shares with other panels; a new one when left out.
    """

    def __init__(self, workspace: Workspace | None = None) -> None:
        host.keep_clicks()
        self.workspace = workspace or Workspace()
        super().__init__()
        self.add_class("ftk-panel")

    def __repr__(self) -> str:
        recipe = self.workspace.recipe
        return f"{type(self).__name__}(model={recipe.model.source!r}, data={recipe.data.source!r})"

    def fill(self, children: Sequence[widgets.Widget]) -> None:
        """Put the panel's contents below the theme."""
        self.children = (front.theme(), Reopened(self.reopened), *children)

    def shown(self) -> None:
        """Called by the Lab when the panel comes to the front."""

    def reopened(self) -> None:
        """Called when a page shows the panel again: say once more what it shows (see `ftkit.ui.reopened`)."""
        for part in all_parts(self):
            if part.comm is not None and not hasattr(part, "plotly_restyle"):  # a chart draws itself
                part.send_state()

    def close(self) -> None:
        """Take the panel off the page, with all that it is made of."""
        if self.comm is not None:
            super().close()
            close_all(self)


def card(*children: widgets.Widget) -> widgets.VBox:
    """A framed part of a panel."""
    box = widgets.VBox(list(children))
    box.add_class("ftk-card")
    return box


def row(*children: widgets.Widget) -> widgets.Box:
    """Things beside each other, wrapping where there is no room."""
    box = widgets.Box(list(children))
    box.add_class("ftk-row")
    return box


def button(text: str, tooltip: str, on_click: Any = None, **traits: Any) -> widgets.Button:
    """A button with text and tooltip."""
    made = widgets.Button(description=text, **traits)
    host.set_tooltip(made, tooltip)
    if on_click is not None:
        made.on_click(lambda _: on_click())
    return made


def line(label: str, placeholder: str, tooltip: str) -> widgets.Text:
    """A box for a few words or a number, its label beside it."""
    made = widgets.Text(description=label, placeholder=placeholder)
    made.add_class("ftk-inline")
    host.set_tooltip(made, tooltip)
    return made


def choices(
    options: list[tuple[str, str]], value: str, tooltips: list[str], label: str
) -> widgets.ToggleButtons:
    """A row of buttons of which one is pressed."""
    made = widgets.ToggleButtons(options=options, value=value, tooltips=tooltips, description=label)
    made.style.button_width = "auto"
    made.add_class("ftk-choices")
    return made


def leads_to(workspace: Workspace, tab: str, text: str) -> widgets.Box:
    """The way on: a button to the next panel, seen only inside a Lab."""
    box = widgets.Box([button(text, f"Open the {tab} panel", lambda: workspace.set_trait("tab", tab))])
    box.add_class("ftk-foot")

    def follow(_: Any) -> None:
        box.layout.display = None if workspace.guided else "none"

    follow(None)
    workspace.observe(follow, "guided")
    return box
