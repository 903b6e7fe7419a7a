"""The rows of a dataset, a page at a time: moved through, searched, narrowed to a finding, seen as tokens.

Only the rows of one page are ever rendered, whatever their number.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ipywidgets as widgets

from ftkit.ui import markup
from ftkit.ui.panels.base import button, row
from ftkit.ui.row_table import RowTable
from ftkit.ui.rows import cells
from ftkit.ui.ticker import Worker
from ftkit.ui.tokens import TokenView

if TYPE_CHECKING:
    from ftkit.data import Dataset, Example, Template
    from ftkit.recipe import Objective

PAGE = 5
"""Rows in the table."""
TOKENS_SHOWN = 4000
"""Tokens in the token view: a page with more of them is slow, and nobody reads them."""
LONGEST = 2_000_000
"""Characters of a row that is still shown as tokens."""


class RowsBrowser(widgets.VBox):
    """Browses the training and the held-out rows."""

    def __init__(self) -> None:
        self.part = "train"
        self.at = 0
        self._dataset: Dataset | None = None
        self._folder: Path | None = None
        self._chat: Template | None = None
        self._objective: Objective | None = None
        self._places: Sequence[int] | None = None
        self._wanted = ""
        self._settling = False
        self._searching: Worker[tuple[str, list[int] | None]] = Worker(self._found, self._not_found)
        self.which = widgets.Dropdown(description="Show", options=[("Training rows", "train")])
        self.which.observe(self._part_chosen, "value")
        self.number = widgets.BoundedIntText(description="Row", min=1, max=1, continuous_update=False)
        self.number.observe(self._number_typed, "value")
        self.search_box = widgets.Text(
            description="Search", placeholder="text in the rows", continuous_update=True
        )
        self.search_box.observe(lambda change: self._typed(change["new"]), "value")
        for control in (self.which, self.number, self.search_box):
            control.add_class("ftk-inline")
        self.previous = button("Previous row", "Show the row before", lambda: self.step(-1))
        self.next = button("Next row", "Show the row after", lambda: self.step(1))
        self.narrowed = widgets.HTML()
        self.all_rows = button("Show all rows", "Leave the search or the finding", self.everything)
        self._narrowed_row = row(self.narrowed, self.all_rows)
        self._narrowed_row.layout.display = "none"
        self.table = RowTable(self.step, self._clicked, page=PAGE)
        self.view, self.other_view = (
            TokenView(on_step=self.step, layout=widgets.Layout(display="none")) for _ in range(2)
        )
        self.note = widgets.HTML()
        super().__init__(
            [
                row(self.which, self.previous, self.number, self.next, self.search_box),
                self._narrowed_row,
                self.table,
                self.view,
                self.other_view,
                self.note,
            ]
        )
        self.add_class("ftk-browser")

    def __repr__(self) -> str:
        return f"RowsBrowser(part={self.part!r}, at={self.at})"

    @property
    def examples(self) -> Sequence[Example]:
        """The rows of the part that is shown."""
        return getattr(self._dataset, self.part) if self._dataset is not None else ()

    @property
    def places(self) -> Sequence[int]:
        """Places of the rows that are moved through: all, or those found."""
        return range(len(self.examples)) if self._places is None else self._places

    def browse(self, dataset: Dataset, folder: Path | None) -> None:
        """Show these rows, from the first.

        Parameters
        ----------
        folder
            Where the images are that they name.
        """
        self._dataset, self._folder = dataset, folder
        self.at = 0
        if self.part == "held_out" and not len(dataset.held_out):
            self.part = "train"
        self._forget()
        self._draw()

    def as_tokens(self, chat: Template | None, objective: Objective) -> None:
        """Show the row as `chat` and `objective` make it; without a template no tokens are shown."""
        self._chat, self._objective = chat, objective
        self._draw_tokens()

    def show(self, at: int, part: str = "train") -> None:
        """Show one row: its place from 0 among the `train` or the `held_out` rows."""
        if part != self.part:
            self.part = part
            self._forget()
        self.at = min(max(at, 0), max(len(self.examples) - 1, 0))
        if self._places is not None and self.at not in self._places:
            self._forget()
        self._draw()

    def step(self, by: int) -> None:
        """Go on by so many rows of those that are moved through, or back."""
        places = self.places
        if not len(places):
            return
        now = places.index(self.at) if self.at in places else 0
        self.at = places[min(max(now + by, 0), len(places) - 1)]
        self._draw()

    def only(self, numbers: Collection[int], title: str) -> None:
        """Move through the training rows that have these numbers in their source."""
        self.part = "train"
        self._forget()
        wanted = set(numbers)
        self._narrow([place for place, one in enumerate(self.examples) if one.row in wanted], title)

    def search(self, text: str) -> None:
        """Move through the rows that hold `text`, letter case aside. Returns at once; `wait()` waits."""
        self.search_box.value = text

    def everything(self) -> None:
        """Move through all rows again; the row that is shown stays."""
        self._forget()
        self._draw()

    def wait(self, timeout: float | None = 60.0) -> None:
        """Wait until a search is done."""
        self._searching.wait(timeout)

    # What a person did

    def _part_chosen(self, change: Any) -> None:
        if not self._settling:
            self.show(0, change["new"])

    def _number_typed(self, change: Any) -> None:
        if not self._settling:
            self.show(change["new"] - 1, self.part)

    def _clicked(self, place: int) -> None:
        self.show(place, self.part)

    def _typed(self, text: str) -> None:
        if self._settling:
            return
        self._wanted = text.strip()
        if not self._wanted:
            self._searching.cancel()
            self.everything()
            return
        from ftkit.data.search import find_rows

        examples, wanted = self.examples, self._wanted
        self._searching.submit(
            lambda: (wanted, find_rows(examples, wanted, lambda: self._wanted == wanted)), delay=0.25
        )

    def _found(self, found: tuple[str, list[int] | None]) -> None:
        text, places = found
        if places is not None and text == self._wanted:
            self._narrow(places, f"hold “{text}”", find=text)

    def _not_found(self, error: Exception) -> None:
        self.note.value = markup.failure(error)

    # What is shown

    def _narrow(self, places: list[int], title: str, find: str = "") -> None:
        self._places = places
        self.table.find = find
        count = f"{len(places):,} of {len(self.examples):,} rows"
        self.narrowed.value = markup.note(f"{count}: {title}" if not find else f"{count} {title}")
        self._narrowed_row.layout.display = None
        if places:
            self.at = next((place for place in places if place >= self.at), places[0]) if find else places[0]
        self._draw()

    def _forget(self) -> None:
        self._places = None
        self._wanted = ""
        self.table.find = ""
        self._narrowed_row.layout.display = "none"
        self._settling = True
        try:
            self.search_box.value = ""
        finally:
            self._settling = False

    def _draw(self) -> None:
        dataset = self._dataset
        if dataset is None:
            return
        parts = [(f"Training rows ({len(dataset.train):,})", "train")]
        if len(dataset.held_out):
            parts.append((f"Held-out rows ({len(dataset.held_out):,})", "held_out"))
        examples, places = self.examples, self.places
        self._settling = True
        try:
            self.which.options = parts
            self.which.value = self.part
            self.number.max = max(len(examples), 1)
            self.number.value = self.at + 1
        finally:
            self._settling = False
        now = places.index(self.at) if self.at in places else 0
        self.previous.disabled = now == 0
        self.next.disabled = now >= len(places) - 1
        first = now - now % PAGE
        shown = places[first : first + PAGE]
        with self.table.hold_trait_notifications():
            self.table.total = len(places)
            self.table.current = self.at
            self.table.rows = [self._cells(place) for place in shown]
        self._draw_tokens()

    def _cells(self, place: int) -> dict[str, Any]:
        assert self._dataset is not None
        example = self.examples[place]
        return cells(example, place, self._dataset.where(example.row), self._folder, self.table.find)

    def _draw_tokens(self) -> None:
        self.note.value = ""
        for view in (self.view, self.other_view):
            view.layout.display = "none"
        if self._chat is None or self._objective is None or not len(self.places):
            return
        from ftkit.data.encode import row_tokens
        from ftkit.data.example import UnusableRowError
        from ftkit.data.search import contents

        example = self.examples[self.at]
        try:
            if sum(map(len, contents(example))) > LONGEST:
                raise UnusableRowError("it is too long to be shown token by token")
            found = row_tokens(example, self._chat, self._objective, limit=TOKENS_SHOWN)
        except UnusableRowError as error:
            self.note.value = markup.note(f"Row {self.at + 1} is not shown as tokens: {error}.", "warn")
            return
        except Exception as error:  # noqa: BLE001 - a template may fail in any way; the row says how
            self.note.value = markup.failure(error)
            return
        for view, side in zip((self.view, self.other_view), found, strict=False):
            with view.hold_trait_notifications():
                view.label = f"Row {self.at + 1}{side.side and f', {side.side},'} as the model reads it"
                view.text = side.text
                view.count = side.count
                view.trained = side.trained
                view.tokens = side.tokens
            view.layout.display = None
