"""Where the rows come from: a starter set, files or rows of the notebook, an upload, the Hub."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ipywidgets as widgets

from ftkit.ui import markup, nearby
from ftkit.ui.form import Field, grid
from ftkit.ui.nearby import Found
from ftkit.ui.panels.base import button, card, choices, row
from ftkit.ui.ticker import Worker
from ftkit.ui.upload import Upload
from ftkit.ui.workspace import Workspace

_KINDS = [("Starter set", "starter"), ("Your data", "file"), ("Hub dataset", "hub")]
_TOOLTIPS = [
    "Small sets that come with ftkit, each with a measurable task",
    "Files on this machine, rows of this notebook, or an upload",
    "A dataset of the Hugging Face Hub, by its id",
]
_ASK = {
    "file": ("File or folder", "chats.jsonl"),
    "hub": ("Hub id", "organisation/dataset"),
}
_CHOOSE = "Choose …"
_EMPTY = {
    "file": "Nothing is chosen yet: choose a file or rows of this notebook, drop a file, or type a path.",
    "hub": "Nothing is chosen yet: type the id of a dataset of the Hub, such as organisation/dataset.",
}


def kind_of(source: str) -> str:
    """`starter`, `file` or `hub`."""
    if source.startswith("starter:"):
        return "starter"
    from ftkit.data.sources import is_local

    return "file" if is_local(source) or "/" not in source else "hub"


class SourcePicker(widgets.VBox):
    """Edits `data.source` and what belongs to it.

    Parameters
    ----------
    workspace
        Whose Recipe is edited.
    choose
        Takes another source, with the subset where there is one.
    """

    def __init__(self, workspace: Workspace, choose: Callable[[str, str | None], Any]) -> None:
        self.workspace = workspace
        self._choose = choose
        self._settling = False
        self._typed: dict[str, str] = {}
        self._found: list[Found] = []
        self._looking: Worker[list[Found]] = Worker(self._show_found, lambda _: None)
        self._saving: Worker[Path] = Worker(self._saved, self._not_saved)
        self.kind = choices(_KINDS, "starter", _TOOLTIPS, "Rows from")
        self.kind.observe(self._kind_chosen, "value")
        self.sets = widgets.Box([])
        self.sets.add_class("ftk-grid")
        self.sets.add_class("ftk-broad")
        self.field = Field(workspace, "data.source", title="File or folder", suggest=True)
        self.field.add_class("ftk-wide")
        self._hub = [Field(workspace, "data.subset"), Field(workspace, "data.split")]
        self._fields = grid([self.field, *self._hub])
        self.found = widgets.Dropdown(description="Found here", options=[(_CHOOSE, -1)])
        self.found.add_class("ftk-inline")
        self.found.observe(self._found_chosen, "value")
        self.look = button("Look again", "Look for files and rows of this notebook again", self.refresh)
        self.upload = Upload(self._uploaded)
        self.says = widgets.HTML()
        self._empty = widgets.HTML()
        self._yours = widgets.VBox([row(self.found, self.look), self.upload])
        super().__init__([self.kind, self.sets, self._empty, self._yours, self._fields, self.says])
        self.show_source()

    def __repr__(self) -> str:
        return f"SourcePicker({self.workspace.recipe.data.source!r})"

    @property
    def chosen(self) -> bool:
        """Whether the Recipe names something of the kind that is shown."""
        return bool(self.kind.value == kind_of(self.workspace.recipe.data.source))

    def show_source(self) -> None:
        """Show what the Recipe names."""
        kind = kind_of(self.workspace.recipe.data.source)
        self._settling = True
        try:
            self.kind.value = kind
        finally:
            self._settling = False
        if kind in _ASK:
            self.field.control.description, self.field.control.placeholder = _ASK[kind]
        if kind == "file" and not self._found:
            self.refresh()
        self.show_kind()

    def show_kind(self) -> None:
        """Show the controls of the kind that is chosen."""
        kind = self.kind.value
        self.sets.layout.display = None if kind == "starter" else "none"
        self._fields.layout.display = "none" if kind == "starter" else None
        self._yours.layout.display = None if kind == "file" else "none"
        source = self.workspace.recipe.data.source
        until = f"Until then the rows are those of {source}."
        self._empty.value = "" if self.chosen else markup.note(f"{_EMPTY.get(kind, '')} {until}", "run")
        self._empty.layout.display = "none" if self.chosen else None
        self._suggest()
        for field in self._hub:
            field.layout.display = None if kind == "hub" else "none"
        if kind == "starter":
            self.sets.children = self._starter_cards()

    def _suggest(self) -> None:
        self.field.control.options = tuple(self.files()) if self.kind.value == "file" else ()

    def refresh(self) -> None:
        """Look for files near the notebook and for rows in its variables. Returns at once."""
        space = nearby.notebook_space()
        self._looking.submit(lambda: nearby.variables(space) + nearby.files())

    def files(self) -> list[str]:
        """Files found nearby."""
        return [one.source for one in self._found if one.source and one.subset is None]

    def wait(self, timeout: float | None = 30.0) -> None:
        """Wait until the files nearby are listed and rows of the notebook are written."""
        self._looking.wait(timeout)
        self._saving.wait(timeout)

    def _starter_cards(self) -> tuple[widgets.Widget, ...]:
        from ftkit.data import STARTER_SETS

        current = self.workspace.recipe.data.source
        cards = []
        for name, one in STARTER_SETS.items():
            source = f"starter:{name}"
            text = (
                f'<div class="ftk-h">{markup.escape(one.title)}</div>'
                f"<div>{markup.escape(one.description)}</div>"
                f'<div class="ftk-muted">Measured: {markup.escape(_measures(one))}</div>'
            )
            use = button(
                "In use" if source == current else f"Use {one.title}",
                f"Train on the starter set {one.title}",
                lambda source=source: self._choose(source, None),
                disabled=source == current,
            )
            box = card(widgets.HTML(text), use)
            box.add_class("ftk-choice")
            if source == current:
                box.add_class("ftk-chosen")
            cards.append(box)
        return tuple(cards)

    def _kind_chosen(self, change: Any) -> None:
        if self._settling:
            return
        source, kind = self.workspace.recipe.data.source, change["new"]
        self._typed[kind_of(source)] = source
        if kind == "file":
            self.refresh()
        if kind in self._typed:
            self.workspace.edit({"data.source": self._typed[kind]})
        elif kind != "starter":
            self.field.ask(*_ASK[kind])
        self.show_kind()

    # Found nearby

    def _show_found(self, found: list[Found]) -> None:
        self._found = found
        first = _CHOOSE if found else "No data files here: upload one, or type its path"
        self._settling = True
        try:
            self.found.options = [(first, -1), *((one.label, place) for place, one in enumerate(found))]
            self.found.value = -1
        finally:
            self._settling = False
        self._suggest()

    def _found_chosen(self, change: Any) -> None:
        if self._settling or change["new"] is None or change["new"] < 0:
            return
        one = self._found[change["new"]]
        if one.variable:
            self._save(one.variable)
        else:
            self.says.value = ""
            self._choose(one.source, one.subset)

    def _save(self, name: str) -> None:
        from ftkit.recipe.rows import save_rows

        rows = nearby.notebook_space().get(name)
        self.says.value = markup.muted(f"Writing the rows of {name} to a file, so that the run keeps them …")
        self._saving.submit(lambda: save_rows(rows, name))

    def _saved(self, path: Path) -> None:
        self.says.value = ""
        self._choose(str(path), None)

    def _not_saved(self, error: Exception) -> None:
        self.says.value = markup.failure(error)

    def _uploaded(self, paths: Sequence[Path]) -> None:
        self.refresh()
        self.says.value = ""
        first, *others = map(str, paths)
        if others:
            self.workspace.edit({"data.mixed_with": [{"source": one} for one in others]})
        self._choose(first, None)


def _measures(one: Any) -> str:
    return getattr(one, "measures", "") or getattr(one, "measured", "")
