"""The method or the objective of a Recipe: cards to choose from, then the fields of the one chosen."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import ipywidgets as widgets

from ftkit.errors import RecipeError
from ftkit.recipe import Recipe, presets
from ftkit.recipe.cards import card, cards, clashes, kinds, why_not
from ftkit.ui import host, markup
from ftkit.ui.form import Field, folded, grid, label, section_form
from ftkit.ui.panels.base import row
from ftkit.ui.workspace import Workspace

if TYPE_CHECKING:
    from ftkit.ui.cards import Cards


class UnionForm(widgets.VBox):
    """Choose one class of a union and set its fields. What was set for a class comes back with it.

    The cards are made when they are first looked at. Those that this machine cannot do, or that do not go
    with the rest of the Recipe, are greyed out with the reason.

    Parameters
    ----------
    workspace
        Whose Recipe is edited.
    section
        `method` or `objective`.
    title, about
        Heading, and a line below it.
    """

    def __init__(self, workspace: Workspace, section: str, title: str = "", about: str = "") -> None:
        self.workspace = workspace
        self.section = section
        self.cards: Cards | None = None
        self._kept: dict[str, Any] = {}
        self._forms: dict[str, widgets.Widget] = {}
        self._head = widgets.HTML(markup.heading(title or label(section), about))
        self._chosen = widgets.HTML()
        self._chosen.add_class("ftk-grow")
        self.others = widgets.ToggleButton(description=f"Choose another {section}", value=False)
        host.set_tooltip(self.others, f"All {len(kinds(section))} of them, with a sentence and a paper each")
        self.others.observe(lambda _: self._unfold(), "value")
        self._row = row(self._chosen, self.others)
        self._row.add_class("ftk-pick-row")
        self._wrong = widgets.HTML()
        self._wrong.add_class("ftk-wrong")
        super().__init__()
        self._recipe_changed(None)
        workspace.observe(self._recipe_changed, "recipe")

    def __repr__(self) -> str:
        return f"UnionForm({self.section!r})"

    @property
    def current(self) -> str:
        """The type chosen."""
        return str(getattr(self.workspace.recipe, self.section).type)

    def choose(self, name: str) -> None:
        """Take another type. Where the Recipe was that of a preset it stays so: the numbers follow.

        Raises
        ------
        RecipeError
            When this machine cannot do it, or it does not go with the rest of the Recipe.
        """
        if name == self.current:
            return
        if reason := why_not(self.section, name):
            raise RecipeError(f"{card(self.section, name).title} {reason}.")

        def with_type(recipe: Recipe) -> Recipe:
            preset = presets.matching(recipe)
            changed = recipe.replace({self.section: self._values(name)})
            self._kept[self.current] = getattr(recipe, self.section).model_dump()
            return presets.apply(changed, preset) if preset else changed

        self.workspace.change(with_type)

    def _values(self, name: str) -> dict[str, Any]:
        return self._kept.get(name, {"type": name})

    def _unfold(self) -> None:
        """Show the cards, or put them away."""
        if self.others.value and self.cards is None:
            from ftkit.ui.cards import Cards

            self.cards = Cards(cards(self.section), label(self.section), self.current)
            self.cards.observe(self._picked, "value")
        self.others.description = "Done" if self.others.value else f"Choose another {self.section}"
        self._recipe_changed(None)

    def _picked(self, change: Any) -> None:
        if change["new"] == self.current:
            return
        try:
            self.choose(change["new"])
            self._wrong.value = ""
        except (RecipeError, KeyError) as error:
            text = error.message if isinstance(error, RecipeError) else "There is no such choice."
            self._wrong.value = f'<span role="alert">{markup.escape(text)}</span>'
            assert self.cards is not None
            self.cards.value = self.current

    def _recipe_changed(self, _: Any) -> None:
        kind = getattr(self.workspace.recipe, self.section)
        if kind.type not in self._forms:
            self._forms[kind.type] = _fields(self.workspace, self.section, kind)
        self._show_chosen(kind.type)
        unfolded = [self.cards] if self.cards is not None and self.others.value else []
        if unfolded:
            self._grey_out(self.workspace.recipe)
        shown = (self._head, self._row, *unfolded, self._wrong, self._forms[kind.type])
        if self.children != shown:
            self.children: tuple[widgets.Widget, ...] = shown

    def _show_chosen(self, name: str) -> None:
        reason = why_not(self.section, name)
        below = markup.muted("Choose one: its settings are below.")
        text = below if self.others.value else markup.choice(card(self.section, name))
        if reason:
            text += markup.note(f"This machine cannot do it: {reason}.", "warn")
        if self._chosen.value != text:
            self._chosen.value = text

    def _grey_out(self, recipe: Recipe) -> None:
        assert self.cards is not None
        others = {name: self._values(name) for name in kinds(self.section) if name != self.current}
        reasons = clashes(recipe, self.section, others)
        reasons |= {
            name: f"{reason[0].upper()}{reason[1:]}"
            for name in kinds(self.section)
            if (reason := why_not(self.section, name))
        }
        self.cards.grey_out(reasons)
        self.cards.value = self.current


def _fields(workspace: Workspace, section: str, kind: Any) -> widgets.Widget:
    """The fields of one class: those that matter first with their help, the others folded."""
    own = vars(type(kind)).get("__annotations__", {})
    names = [name for name in type(kind).model_fields if name != "type"]
    names.sort(key=lambda name: name not in own)  # what all share comes last
    first = list(kind.main) or names
    rest = [name for name in names if name not in first]
    shown = grid([Field(workspace, f"{section}.{name}", explain=True) for name in first], few=True)
    if not rest:
        return shown
    title = f"More settings of the {section}"
    return widgets.VBox([shown, folded({title: lambda: section_form(workspace, section, rest)})])
