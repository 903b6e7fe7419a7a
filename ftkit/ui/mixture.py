"""Further datasets in the same run: a list to add to, how they are mixed, and their weights."""

from __future__ import annotations

from typing import Any

import ipywidgets as widgets

from ftkit.errors import RecipeError
from ftkit.ui import host, markup
from ftkit.ui.panels.base import button, row
from ftkit.ui.workspace import Workspace

_WAYS = [
    ("All rows of each", "concat"),
    ("Drawn by weights until the first is used up", "interleave_under"),
    ("Drawn by weights until all are seen, repeating", "interleave_over"),
]
_ABOUT = (
    "The rows above can be learned together with those of other datasets, each of any format. The rows are "
    "numbered through, and a share of each is held out."
)


class MixtureView(widgets.VBox):
    """Edits `data.mixed_with`, `data.mix` and the weights of a workspace's Recipe.

    Parameters
    ----------
    workspace
        Whose Recipe is edited.
    """

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self._settling = False
        self._shown: Any = None
        self.source = widgets.Combobox(
            description="Add", placeholder="file, starter set or Hub id", ensure_option=False
        )
        self.source.add_class("ftk-inline")
        self.add = button("Add dataset", "Learn the rows of this dataset, too", self._add)
        self.how = widgets.Dropdown(description="Mix", options=_WAYS)
        self.how.add_class("ftk-inline")
        self.how.observe(self._how_chosen, "value")
        self.listed = widgets.VBox([])
        self.wrong = widgets.HTML()
        self.wrong.add_class("ftk-wrong")
        super().__init__(
            [
                widgets.HTML(markup.muted(_ABOUT)),
                self.listed,
                row(self.source, self.add, self.how),
                self.wrong,
            ]
        )
        workspace.observe(lambda _: self._show(), "recipe")
        self._show()

    def offer(self, sources: list[str]) -> None:
        """Sources to choose from."""
        self.source.options = tuple(sources)

    def _show(self) -> None:
        data = self.workspace.recipe.data
        shown = (data.source, data.subset, data.weight, data.mix, data.mixed_with)
        if shown == self._shown:
            return
        self._shown = shown
        self._settling = True
        try:
            self.how.value = data.mix
        finally:
            self._settling = False
        self.how.layout.display = None if data.mixed_with else "none"
        self.listed.children = tuple(
            self._line(place, one) for place, one in enumerate((data, *data.mixed_with)) if data.mixed_with
        )

    def _line(self, place: int, one: Any) -> widgets.Box:
        name = one.source + (f": {one.subset}" if one.subset else "")
        weight = widgets.FloatText(value=one.weight, description="Weight", step=0.1, continuous_update=False)
        host.set_tooltip(weight, "How often its rows are drawn, beside the others")
        weight.add_class("ftk-inline")
        weight.layout.display = "none" if self.workspace.recipe.data.mix == "concat" else None
        weight.observe(lambda change: self._weigh(place, change["new"]), "value")
        parts: list[widgets.Widget] = [widgets.HTML(f"<b>{markup.escape(name)}</b>"), weight]
        if place:
            parts.append(button("Remove", f"Do not learn {name}", lambda: self._remove(place)))
        return row(*parts)

    def _edit(self, changes: dict[str, Any]) -> None:
        try:
            self.workspace.edit(changes)
            self.wrong.value = ""
        except RecipeError as error:
            self.wrong.value = f'<span role="alert">{markup.escape(error.message)}</span>'

    def _others(self) -> list[dict[str, Any]]:
        return [one.model_dump() for one in self.workspace.recipe.data.mixed_with]

    def _add(self) -> None:
        source = self.source.value.strip()
        if not source:
            self.wrong.value = '<span role="alert">Name a file, a starter set or a Hub id first.</span>'
            return
        self._edit({"data.mixed_with": [*self._others(), {"source": source}]})
        self.source.value = ""

    def _remove(self, place: int) -> None:
        others = self._others()
        del others[place - 1]
        alone = {} if others else {"data.mix": "concat", "data.weight": 1.0}
        self._edit({"data.mixed_with": others, **alone})

    def _how_chosen(self, change: Any) -> None:
        if self._settling:
            return
        changes: dict[str, Any] = {"data.mix": change["new"]}
        if change["new"] == "concat":  # weights mean nothing there
            changes |= {
                "data.weight": 1.0,
                "data.mixed_with": [one | {"weight": 1.0} for one in self._others()],
            }
        self._edit(changes)

    def _weigh(self, place: int, weight: float) -> None:
        if place == 0:
            self._edit({"data.weight": weight})
            return
        others = self._others()
        others[place - 1]["weight"] = weight
        self._edit({"data.mixed_with": others})
