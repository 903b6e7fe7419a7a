"""The Data panel: which rows to learn from, what they look like, and what is trained of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ipywidgets as widgets

from ftkit.folders import named
from ftkit.recipe import Recipe
from ftkit.ui import markup, preview
from ftkit.ui.export_rows import ExportRows
from ftkit.ui.findings import FindingsView
from ftkit.ui.form import folded, section_form
from ftkit.ui.mapping import MappingView
from ftkit.ui.mixture import MixtureView
from ftkit.ui.panels.base import Panel, button, card, leads_to, row
from ftkit.ui.preview import Counts
from ftkit.ui.rows import counts_line, refused_list
from ftkit.ui.rows_browser import RowsBrowser
from ftkit.ui.source_picker import SourcePicker, kind_of
from ftkit.ui.ticker import Tell, Worker
from ftkit.ui.union_form import UnionForm
from ftkit.ui.workspace import Workspace

if TYPE_CHECKING:
    from ftkit.data import Dataset
    from ftkit.data.preflight import Finding

_SETTINGS = (
    "template",
    "max_rows",
    "max_length",
    "too_long",
    "held_out_source",
    "held_out_fraction",
    "eval_rows",
    "system_prompt",
    "seed",
)
_UNMAPPED: dict[str, Any] = {"data.format": None, "data.columns": {}, "data.tags": {}}
"""What belongs to one source and must not carry over to the next."""


class DataPanel(Panel):
    """Choose the rows and look at them. Everything a person can click is a method, too.

    Parameters
    ----------
    workspace
        Whose Recipe is edited; the loaded rows are kept there.

    Examples
    --------
    >>> panel = ftkit.ui.DataPanel()                                                   # doctest: +SKIP
    >>> panel.choose("starter:persona")                                                # doctest: +SKIP
    >>> panel.wait().dataset                                                           # doctest: +SKIP
    """

    def __init__(self, workspace: Workspace | None = None) -> None:
        super().__init__(workspace)
        self.error: Exception | None = None
        self.counts: Counts | None = None
        self._found: tuple[Finding, ...] = ()
        self._opened = False
        self._fetch_allowed = False
        self._seen = self.workspace.recipe
        self._first = False
        self._loading: Worker[tuple[Dataset, Recipe]] = Worker(self._loaded, self._failed)
        self._counting: Worker[tuple[Counts, Any]] = Worker(self._counted, self._not_counted)
        self._chat: Any = None
        self._build()
        self._show_reload()
        if self.dataset is not None:
            self.browser.browse(self.dataset, _folder_of(self.workspace.recipe.data.source))
        self._show_rows()
        self.workspace.observe(self._recipe_changed, "recipe")
        if not self.workspace.guided:
            self.shown()

    @property
    def dataset(self) -> Dataset | None:
        """The rows that are shown, or None."""
        return self.workspace.dataset

    def choose(self, source: str, subset: str | None = None) -> DataPanel:
        """Take other rows: `starter:extract`, a local file or a Hub id. Returns at once; `wait()` waits.

        Parameters
        ----------
        subset
            The dataset's name in a dataset_info.json, or a Hub dataset's configuration.
        """
        now = self.workspace.recipe.data
        changed = (source, subset) != (now.source, now.subset)
        self._opened = True
        self.workspace.edit({"data.source": source, "data.subset": subset} | (_UNMAPPED if changed else {}))
        if not changed:
            self.load()
        return self

    def load(self) -> None:
        """Read the rows again. Returns at once."""
        self._opened = True
        recipe = self.workspace.recipe
        self._tell(f"Reading {recipe.data.source}", None)
        self._cancel.layout.display = None
        self._counting.cancel()
        self._loading.submit_told(
            lambda tell: (preview.read(recipe, tell, self._first_rows), recipe), self._tell, delay=0.05
        )

    def cancel(self) -> None:
        """Give up what is being read or counted; the rows shown before stay."""
        if self._loading.busy:
            text = f"Reading {self.workspace.recipe.data.source} was cancelled."
            self._message.value = markup.note(f"{text} {self._about_kept()}", "warn")
        self._loading.cancel()
        self._counting.cancel()
        self._quiet()
        self._show_kept()

    def show(self, row: int, part: str = "train") -> None:
        """Show one row: its place from 0 among the `train` or the `held_out` rows."""
        self.browser.show(row, part)

    def wait(self, timeout: float | None = 120.0) -> DataPanel:
        """Wait until the rows are read and their tokens counted.

        Raises
        ------
        FtkitError
            What the panel shows when the rows cannot be read.
        """
        self._loading.wait(timeout)
        self._counting.wait(timeout)
        self.browser.wait(timeout)
        if self.error is not None:
            raise self.error
        return self

    def shown(self) -> None:
        """Read the rows the first time that the panel is looked at."""
        if not self._opened:
            self.load()

    # What is on the page

    def _build(self) -> None:
        self.picker = SourcePicker(self.workspace, self.choose)
        self.picker.kind.observe(lambda _: self._show_reload(), "value")
        self._reload = button("Read again", "Read the rows again", self.load)
        self._cancel = button("Cancel", "Give up reading and counting; rows shown before stay", self.cancel)
        self._cancel.layout.display = "none"
        self._progress = widgets.HTML()
        self._message = widgets.HTML()
        self._summary = widgets.HTML()
        self._refused = widgets.HTML()
        self._tokens_note = widgets.HTML()
        self._fetch = button("Fetch the model", "Fetch the model to see its tokens", self._fetch_model)
        self._fetch.layout.display = "none"
        self._recount = button("Count tokens", "Count the tokens of these rows", self._count)
        self._tokens_row = row(self._tokens_note, self._fetch, self._recount)
        self._findings = FindingsView(self._show_finding)
        self.browser = RowsBrowser()
        self._rows = card(self._summary, self._refused, self._findings, self.browser, self._tokens_row)
        self.export = ExportRows(lambda: self.dataset)
        self._mapping = MappingView(self.workspace)
        self._mapping_fold = folded({"Format and columns": lambda: self._mapping})
        settings = {
            "Mix with other datasets": self._mixture,
            "Data settings": lambda: section_form(self.workspace, "data", _SETTINGS),
            "What is learned": lambda: UnionForm(self.workspace, "objective"),
            "Save as OpenAI messages": lambda: self.export,
        }
        self.fill(
            [
                widgets.HTML(
                    markup.heading("Data", "Which rows to learn from, and what is trained of each.")
                ),
                card(self.picker, row(self._reload, self._cancel, self._progress), self._message),
                self._mapping_fold,
                self._rows,
                folded(settings),
                leads_to(self.workspace, "train", "Next: Train"),
            ]
        )

    def _mixture(self) -> widgets.Widget:
        from ftkit.data import STARTER_SETS

        made = MixtureView(self.workspace)
        made.offer([*(f"starter:{name}" for name in STARTER_SETS), *self.picker.files()])
        return made

    def _show_reload(self) -> None:
        readable = self.picker.chosen and self.picker.kind.value != "starter"
        self._reload.layout.display = None if readable else "none"

    def _recipe_changed(self, change: Any) -> None:
        old, new = self._seen, change["new"]
        self._seen = new
        if old.data.source != new.data.source:
            self.picker.show_source()
            if _mapping_of(old) == _mapping_of(new) != _mapping_of(Recipe()):
                self.workspace.edit(_UNMAPPED)
                return
        self.picker.show_kind()  # a field that was edited has shown itself again
        self._show_reload()
        if not self._opened:
            return
        if old.data != new.data:
            self.load()
        elif _counted_with(old) != _counted_with(new):
            self._fetch_allowed = self._fetch_allowed and old.model == new.model
            self._count()

    # Reading

    def _tell(self, text: str, fraction: float | None) -> None:
        share = f" {fraction:.0%}" if fraction is not None else " …"
        self._progress.value = markup.muted(text + share)

    def _quiet(self) -> None:
        self._progress.value = ""
        self._cancel.layout.display = "none"

    def _first_rows(self, dataset: Dataset) -> None:
        """Show the first rows of many while the others are read."""
        self._first = True
        self.browser.browse(dataset, _folder_of(dataset.origin))
        self._rows.layout.display = None
        about = f"The first {len(dataset.train):,} rows of {dataset.origin}; the others are being read."
        self._summary.value = markup.note(about, "wait")

    def _loaded(self, found: tuple[Dataset, Recipe]) -> None:
        dataset, recipe = found
        self.error, self.counts, self._first = None, None, False
        self._message.value = ""
        self._quiet()
        self.workspace.remember(dataset, recipe.data)
        self._show_mapping()
        self.browser.browse(dataset, _folder_of(recipe.data.source))
        self._show_rows()
        self._count()

    def _failed(self, error: Exception) -> None:
        self.error = error
        self._quiet()
        self._message.value = markup.failure(error) + markup.muted(self._about_kept())
        self._show_kept()
        found = getattr(error, "found", ())
        if found:  # the rows were read, their columns not understood: here is where to say what they mean
            asked = self.workspace.recipe.data
            about = "Choose a format, then a column for each role that it needs (*)."
            self._mapping.show(asked.format or "", asked.columns, found, about)
            self._mapping_fold.selected_index = 0

    def _about_kept(self) -> str:
        kept = self.dataset
        return f"Below are the rows of {kept.origin}, read before." if kept else ""

    def _show_kept(self) -> None:
        """After what did not come to its end: the rows read before, and whether they are counted."""
        kept = self.dataset
        if self._first and kept is not None:
            self.browser.browse(kept, _folder_of(kept.origin))
        self._first = False
        self._show_rows()
        if kept is not None and self.counts is None and self._fetch.layout.display == "none":
            self._tokens_note.value = markup.muted("The tokens are not counted.")
            self._recount.layout.display = self._tokens_row.layout.display = None

    def _show_mapping(self) -> None:
        dataset = self.dataset
        if dataset is not None:
            about = dataset.format_reason[:1].upper() + dataset.format_reason[1:]
            if self.workspace.recipe.data.format is None:
                about += f"; confidence {dataset.confidence:.0%}"
            self._mapping.show(dataset.format, dataset.columns, dataset.found, about)

    def _show_finding(self, numbers: Sequence[int], title: str) -> None:
        """Move through the training rows that have these numbers in their source."""
        self.browser.only(numbers, title)

    # Tokens

    def _fetch_model(self) -> None:
        self._fetch_allowed = True
        self._count()

    def _count(self) -> None:
        dataset, recipe, fetch = self.dataset, self.workspace.recipe, self._fetch_allowed
        if dataset is None:
            return
        self._fetch.layout.display = self._recount.layout.display = "none"
        self._tokens_row.layout.display = self._cancel.layout.display = None
        self._tokens_note.value = markup.muted("Tokens: getting the tokenizer …")

        def counted(tell: Tell) -> tuple[Counts, Any]:
            chat = preview.template(recipe, fetch=fetch, progress=tell)
            return preview.count(dataset, chat, recipe, tell), chat

        self._counting.submit_told(counted, self._tell_tokens, delay=0.1)

    def _tell_tokens(self, text: str, fraction: float | None) -> None:
        share = f" {fraction:.0%}" if fraction is not None else " …"
        self._tokens_note.value = markup.muted(text + share)

    def _counted(self, found: tuple[Counts, Any]) -> None:
        self.counts, self._chat = found
        self._quiet()
        self._tokens_row.layout.display = "none"
        self.workspace.row_tokens = self.counts.mean
        self._show_rows()
        self.browser.as_tokens(self._chat, self.workspace.recipe.objective)

    def _not_counted(self, error: Exception) -> None:
        self.counts, self._chat = None, None
        self._quiet()
        self.workspace.row_tokens = 0
        missing = not self._fetch_allowed and not self.workspace.recipe.compute.offline
        if missing:
            text = "The tokens are shown once the model is on this machine."
            self._tokens_note.value = markup.muted(text)
        else:
            self._tokens_note.value = markup.failure(error)
        self._fetch.layout.display = None if missing else "none"
        self._show_rows()
        self.browser.as_tokens(None, self.workspace.recipe.objective)

    # Rows

    def _show_rows(self) -> None:
        dataset = self.dataset
        self._rows.layout.display = None if dataset is not None else "none"
        if dataset is None:
            return
        self._summary.value = counts_line(dataset, self.counts)
        findings = self.counts.findings if self.counts else ()
        if findings != self._found:
            self._found = findings
            self._findings.show(findings)
        self._refused.value = refused_list(dataset)


def _folder_of(source: str) -> Path | None:
    """Where the images of a local source are looked for."""
    if kind_of(source) != "file":
        return None
    path = named(source)
    return path if path.is_dir() else path.parent


def _mapping_of(recipe: Recipe) -> tuple[Any, ...]:
    return recipe.data.format, recipe.data.columns, recipe.data.tags


def _counted_with(recipe: Recipe) -> tuple[Any, ...]:
    training = recipe.training
    return recipe.model, recipe.objective, training.batch_size, training.batch_tokens
