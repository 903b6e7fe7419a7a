"""Finding a model: type to filter the catalogue, with the Hub's own search behind it when online.

Everything works from the keyboard: type, go to the list, arrows, then the button.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import ipywidgets as widgets

from ftkit.errors import FtkitError
from ftkit.ui import markup
from ftkit.ui.own_keys import own_keys
from ftkit.ui.panels.base import button, row
from ftkit.ui.ticker import Tell, Worker
from ftkit.ui.workspace import Workspace

if TYPE_CHECKING:
    from ftkit.models import CatalogEntry
    from ftkit.models.hub import Found

_PAUSE = 0.4
"""Seconds without a key before the Hub is asked."""
_LETTERS = 3
"""The Hub is asked for words of so many letters or more."""


class ModelSearch(widgets.VBox):
    """A box to type in, the models found, the facts of the one that is marked, and a button that takes it.

    Parameters
    ----------
    workspace
        Whose Recipe says whether the Hub may be asked.
    take
        Called with the model's source.
    """

    def __init__(self, workspace: Workspace, take: Callable[[str], None]) -> None:
        self.workspace = workspace
        self._take = take
        self._found: dict[str, Found] = {}
        self._asking: Worker[list[Found]] = Worker(self._show_found, self._not_found)
        self._typed = widgets.Text(
            description="Find a model", placeholder="A name, a maker, a licence, such as qwen 0.5b"
        )
        self._list = widgets.Select(description="Models found", rows=7, options=())
        self._facts = widgets.HTML()
        self._hub = widgets.HTML()
        self._use = button("Take this model", "Start from the model that is marked", self.take)
        self._use.disabled = True
        typed, found = widgets.VBox([self._typed]), widgets.VBox([self._list])
        for field in (typed, found):
            field.add_class("ftk-field")
        super().__init__([typed, own_keys(found, self._facts, row(self._use, self._hub))])
        self.add_class("ftk-model-search")
        self._typed.observe(lambda _: self._filter(), "value")
        self._list.observe(lambda _: self._show_facts(), "value")

    def __repr__(self) -> str:
        return f"ModelSearch({self._typed.value!r}, {len(self._list.options)} models)"

    def shown(self) -> None:
        """Fill the list the first time that it is looked at."""
        if not self._list.options:
            self._filter()

    def find(self, text: str) -> list[str]:
        """Type `text`, and return the sources in the list: those of the catalogue at once."""
        self.shown()
        self._typed.value = text
        return [source for _, source in self._list.options]

    def take(self) -> None:
        """Start from the model that is marked."""
        if self._list.value:
            self._take(self._list.value)

    def wait(self, timeout: float | None = 60.0) -> None:
        """Wait until the Hub has answered."""
        self._asking.wait(timeout)

    def _filter(self) -> None:
        self._found = {}
        self._fill()
        text = self._typed.value.strip()
        self._asking.cancel()
        if len(text) < _LETTERS:
            self._hub.value = ""
        elif self.workspace.recipe.compute.offline:
            self._hub.value = markup.muted("Offline: the Hub is not asked.")
        else:
            self._hub.value = markup.muted("Asking the Hub, too …")
            self._asking.submit_told(lambda tell: _ask(text, tell), _silent, delay=_PAUSE)

    def _fill(self) -> None:
        from ftkit.models import catalog

        known = catalog.search(self._typed.value)
        sources = {entry.source for entry in known}
        options = [(_line(entry), entry.source) for entry in known]
        options += [(_hub_line(one), name) for name, one in self._found.items() if name not in sources]
        marked = self._list.value
        if tuple(options) != self._list.options:
            self._list.options = options
            found = [source for _, source in options]
            self._list.value = marked if marked in found else next(iter(found), None)
        self._show_facts()

    def _show_facts(self) -> None:
        from ftkit.models import catalog

        source = self._list.value
        self._use.disabled = not source
        if not source:
            self._facts.value = markup.muted("The catalogue has no such model.")
            return
        entry = catalog.find(source)
        self._facts.value = _facts(entry) if entry is not None else _hub_facts(self._found[source])

    def _show_found(self, found: list[Found]) -> None:
        self._found = {one.source: one for one in found}
        self._fill()
        self._hub.value = markup.muted(f"The Hub adds {len(found)}." if found else "The Hub has no others.")

    def _not_found(self, error: Exception) -> None:
        text = error.message if isinstance(error, FtkitError) else f"{type(error).__name__}: {error}"
        self._hub.value = markup.muted(text)


def _line(entry: CatalogEntry) -> str:
    return " · ".join(part for part in (entry.title, markup.size(entry.parameters), entry.licence) if part)


def _hub_line(found: Found) -> str:
    return " · ".join(part for part in (f"Hub: {found.source}", markup.size(found.parameters)) if part)


def _facts(entry: CatalogEntry) -> str:
    """What is known of a model of the catalogue."""
    sizes = ", ".join(f"{size:.2f} in {name}" for name, size in entry.memory.items())
    facts = {
        "Made by": entry.maker,
        "Licence": entry.licence + (", to be accepted on the Hub first" if entry.gated else ""),
        "Weights": f"{sizes} (GB)" if sizes else "",
        "Context": f"{entry.context:,} tokens" if entry.context else "",
        "Conversations": entry.template or "",
        "Adapter on": ", ".join(entry.adapters),
    }
    return _sheet(entry.source, entry.about, facts)


def _hub_facts(found: Found) -> str:
    facts = {
        "Downloads": f"{found.downloads:,} in a month",
        "Licence": "to be accepted on the Hub first" if found.gated else "",
        "Weights": f"{found.parameters * 2 / 1000:.2f} in bfloat16 (GB)" if found.parameters else "",
    }
    return _sheet(found.source, "Found on the Hub; its page says what it is good for.", facts)


def _sheet(source: str, about: str, facts: dict[str, str]) -> str:
    rows = "".join(
        f"<tr><th>{markup.escape(name)}</th><td>{markup.escape(text)}</td></tr>"
        for name, text in facts.items()
        if text
    )
    return (
        f'<div class="ftk-sheet" role="status"><div><code>{markup.escape(source)}</code> '
        f"{markup.escape(about)}</div><table>{rows}</table></div>"
    )


def _ask(text: str, tell: Tell) -> list[Found]:
    from ftkit.models import hub

    return hub.search(text, tell)


def _silent(text: str, fraction: float | None) -> None:
    pass
