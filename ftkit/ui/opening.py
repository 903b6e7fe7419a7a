"""A box to paste a recipe into: ftkit's own, or a file of LLaMA-Factory, which says what each key becomes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import ipywidgets as widgets

from ftkit.errors import FtkitError, RecipeError
from ftkit.recipe import Recipe, llamafactory
from ftkit.recipe.llamafactory import Import
from ftkit.ui import markup
from ftkit.ui.panels.base import button, row
from ftkit.ui.workspace import Workspace

_FILES = (".yaml", ".yml", ".json")
_PLACEHOLDER = "The YAML of a recipe or of LLaMA-Factory, or the path of such a file"


class OpenBox(widgets.VBox):
    """Paste a recipe, see what it becomes, use it. What is pasted stays as it is, whatever is wrong with it.

    Parameters
    ----------
    workspace
        Whose Recipe is replaced by "Use it".
    """

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self._recipe: Recipe | None = None
        self._text = widgets.Textarea(
            description="Recipe or LLaMA-Factory file",
            placeholder=_PLACEHOLDER,
            rows=9,
            continuous_update=False,
        )
        field = widgets.VBox([self._text])
        field.add_class("ftk-field")
        field.add_class("ftk-code-field")
        self._look = button("Show what it becomes", "Read the text; nothing is changed yet", self.look)
        self._use = button(
            "Use it", "Set every panel to this recipe", self._use_clicked, button_style="primary"
        )
        self._use.disabled = True
        self._said = widgets.HTML()
        super().__init__([field, row(self._look, self._use), self._said])
        self._text.observe(lambda _: self.look(), "value")

    def __repr__(self) -> str:
        return f"OpenBox(ready={self._recipe is not None})"

    @property
    def text(self) -> str:
        """What is pasted."""
        return str(self._text.value)

    @text.setter
    def text(self, text: str) -> None:
        self._text.value = text

    def look(self) -> None:
        """Read the text and show what it becomes, or what is wrong with it."""
        self._recipe = None
        try:
            self._said.value = self._read() if self.text.strip() else ""
        except FtkitError as error:
            self._said.value = markup.failure(error)
        self._use.disabled = self._recipe is None

    def use(self) -> Recipe:
        """Set the panels to the recipe.

        Raises
        ------
        RecipeError
            When the text is no recipe.
        """
        if self._recipe is None:
            raise RecipeError("There is no recipe to use.", "Paste one, and mend what is wrong with it.")
        self.workspace.recipe = self._recipe
        return self._recipe

    def _use_clicked(self) -> None:
        try:
            self.use()
        except FtkitError as error:
            self._said.value = markup.failure(error)
            return
        self._use.disabled = True
        self._said.value = markup.note("In use: the panels show this recipe.", "ok") + self._said.value

    def _read(self) -> str:
        text = self.text.strip()
        if "\n" not in text and text.endswith(_FILES):
            return self._of_file(Path(text).expanduser())
        return self._of_text(text, None)

    def _of_file(self, path: Path) -> str:
        try:
            text = path.read_text(encoding="utf-8-sig")
        except (OSError, ValueError) as error:
            raise RecipeError(f"{path} cannot be read: {error}", "Check the path.") from None
        return self._of_text(text, path.parent)

    def _of_text(self, text: str, folder: Path | None) -> str:
        values = llamafactory.parse(text, "This text")
        if not llamafactory.looks_like(values):
            if not all(isinstance(key, str) for key in values):
                raise RecipeError("A recipe's keys are names.", "Write `model:`, `data:` and so on.")
            self._recipe = Recipe(**values)
            return markup.note(f"A recipe of ftkit: {_in_short(self._recipe)}.", "ok")
        found = llamafactory.convert(values, folder=folder)
        self._recipe = found.recipe
        return _of_import(found)


def _in_short(recipe: Recipe) -> str:
    return f"{recipe.objective.type}, {recipe.method.type}, {recipe.model.source}, {recipe.data.source}"


def _of_import(found: Import) -> str:
    """Every key with what it becomes; errors first."""
    errors = "".join(
        markup.error_box(f"{', '.join(problem.keys)}: {problem.message}", problem.advice)
        for problem in found.errors
    )
    head = f"A file of LLaMA-Factory for: {found.kind}."
    if found.recipe is None:
        head += " Mend what is marked below; then it can be used."
    else:
        head += f" It becomes: {_in_short(found.recipe)}."
    other = found.recipe is not None and found.kind != "train"  # what Start is not for
    advice = "".join(markup.note(line, "run") for line in found.advice) if other else ""
    table = _table(
        ("no effect", "warn", found.not_applicable),
        ("added", "run", found.assumed),
        ("becomes", "ok", found.mapped),
        ("replies", "run", {name: str(value) for name, value in found.settings.items()}),
    )
    if found.honoured:
        title = f"Keys that ask for what ftkit does anyway ({len(found.honoured)})"
        same = _table(("as ftkit does", "off", found.honoured))
        table += f"<details><summary>{title}</summary>{same}</details>"
    look = "bad" if found.recipe is None else "off"
    return markup.note(head, look) + errors + advice + table


def _table(*parts: tuple[str, str, Mapping[str, str]]) -> str:
    """Keys with what each becomes; empty where there are none."""
    rows = "".join(_rows(text, look, entries) for text, look, entries in parts)
    if not rows:
        return ""
    return (
        '<table class="ftk-table ftk-keys-table"><thead><tr><th>Key</th><th></th>'
        f"<th>What it becomes</th></tr></thead><tbody>{rows}</tbody></table>"
    )


def _rows(text: str, look: str, entries: Mapping[str, str]) -> str:
    return "".join(
        f"<tr><td><code>{markup.escape(key)}</code></td><td>{markup.chip(text, look)}</td>"
        f"<td>{markup.prose(what)}</td></tr>"
        for key, what in entries.items()
    )
