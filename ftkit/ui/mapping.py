"""How the rows are read: the format, and which column plays which role; both can be changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import ipywidgets as widgets

from ftkit.ui import markup
from ftkit.ui.form import grid, label
from ftkit.ui.workspace import Workspace

_NONE = "(none)"


class MappingView(widgets.VBox):
    """Edits `data.format` and `data.columns` of a workspace's Recipe.

    Parameters
    ----------
    workspace
        Whose Recipe is edited.
    """

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self._settling = False
        self._roles: dict[str, widgets.Dropdown] = {}
        self._shown: tuple[Any, ...] = ()
        self._made_for: tuple[Any, ...] = ()
        self._format = widgets.Dropdown(description="Format", options=[("Recognised", "")])
        self._format.observe(self._format_chosen, "value")
        self._about = widgets.HTML()
        self._columns = grid([])
        super().__init__([_field(self._format), self._about, self._columns])

    def show(self, format: str, columns: Mapping[str, str], found: Sequence[str], about: str) -> None:
        """Show how rows were read.

        Parameters
        ----------
        format
            The format in use; empty when none was recognised.
        columns
            Role to column.
        found
            The columns there are.
        about
            The reason, for people.
        """
        from ftkit.data import FORMATS

        asked = self.workspace.recipe.data.format or ""
        # what was chosen while the rows were read counts: the reading is of before
        columns = {**columns, **self.workspace.recipe.data.columns}
        if (format, columns, tuple(found), asked, about) == self._shown:
            return
        self._shown = (format, columns, tuple(found), asked, about)
        recognised = f"Recognised: {format}" if format and not asked else "Recognise from the rows"
        self._settling = True
        try:
            self._format.options = [(recognised, ""), *((name, name) for name in FORMATS)]
            self._format.value = asked
            self._about.value = markup.muted(about)
            known = FORMATS.get(format)
            if (format, tuple(found)) != self._made_for:
                self._make(known, found)
                self._made_for = (format, tuple(found))
            for role, choice in self._roles.items():
                choice.value = columns.get(role, "") if columns.get(role, "") in found else ""
        finally:
            self._settling = False

    def _make(self, known: Any, found: Sequence[str]) -> None:
        """A choice a role. They stay while they fit: one made anew loses what is being chosen in it."""
        options = [(_NONE, ""), *((name, name) for name in found)]
        self._roles = {}
        for role in known.roles if known else ():
            choice = widgets.Dropdown(
                description=label(role) + (" *" if role in known.required else ""),
                options=options,
                value="",
            )
            choice.observe(self._column_chosen, "value")
            self._roles[role] = choice
        self._columns.children = tuple(map(_field, self._roles.values()))

    def columns(self) -> dict[str, str]:
        """Role to column, as chosen."""
        return {role: choice.value for role, choice in self._roles.items() if choice.value}

    def _format_chosen(self, change: Any) -> None:
        if not self._settling:
            self.workspace.edit({"data.format": change["new"] or None, "data.columns": {}})

    def _column_chosen(self, _: Any) -> None:
        if not self._settling:
            known = self.workspace.recipe.data.format or self._shown[0]
            self.workspace.edit({"data.format": known, "data.columns": self.columns()})


def _field(control: widgets.Widget) -> widgets.VBox:
    """A control with its label above it, as the forms have them."""
    box = widgets.VBox([control])
    box.add_class("ftk-field")
    return box
