"""The Model panel: what to start from, which weights to train, and whether it fits in memory."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING, Any

import ipywidgets as widgets

from ftkit.errors import FtkitError
from ftkit.folders import is_there, named
from ftkit.recipe import Model, Recipe
from ftkit.ui import markup
from ftkit.ui.form import Field, folded, grid, section_form
from ftkit.ui.panels.base import WHERE, Panel, button, card, choices, leads_to, row
from ftkit.ui.ticker import Worker
from ftkit.ui.union_form import UnionForm
from ftkit.ui.workspace import Workspace

if TYPE_CHECKING:
    from ftkit.models import Fit, MemoryEstimate, ModelSource
    from ftkit.ui.model_search import ModelSearch

_KINDS = [("Starter model", "starter"), ("Hub id", "hub"), ("Local folder", "local")]
_TOOLTIPS = [
    "A small chat model that ftkit fetches by itself",
    "A model of the Hugging Face Hub, by its id",
    "A folder with safetensors, or a GGUF file",
]
_ASK = {
    "hub": ("Hub id", "organisation/model"),
    "local": ("Folder or GGUF file", "./my-model"),
}
_LOOKS = {"fits": "ok", "tight": "warn", "will not fit": "bad", "unknown": "off"}


class ModelPanel(Panel):
    """Choose a model and a method. Everything a person can click is a method, too.

    Parameters
    ----------
    workspace
        Whose Recipe is edited.

    Examples
    --------
    >>> panel = ftkit.ui.ModelPanel()                                                  # doctest: +SKIP
    >>> panel.choose("HuggingFaceTB/SmolLM2-360M-Instruct")                            # doctest: +SKIP
    """

    def __init__(self, workspace: Workspace | None = None) -> None:
        super().__init__(workspace)
        self.estimate: MemoryEstimate | None = None
        self._typed: dict[str, str] = {}
        self._memory: Worker[tuple[MemoryEstimate, bool]] = Worker(self._show_memory, self._no_memory)
        self._fitting: Worker[Fit] = Worker(self._show_fit, self._no_fit)
        self._fetching: Worker[ModelSource] = Worker(self._fetched, self._not_fetched)
        self._reading_code: Worker[tuple[str, bool]] = Worker(self._show_code, lambda _: None)
        self._asked: Any = None
        self._settling = False
        self._seen = ""
        self._build()
        self._recipe_changed(None)
        self.workspace.observe(self._recipe_changed, "recipe")
        self.workspace.observe(lambda _: self._measure(), "row_tokens")

    @property
    def search(self) -> ModelSearch:
        """The box that finds models; made when it is first looked at."""
        if not self._search_box.children:
            from ftkit.ui.model_search import ModelSearch

            self._search_box.children = (ModelSearch(self.workspace, self.choose),)
        return self._search_box.children[0]

    def choose(self, source: str) -> None:
        """Take another model: `starter`, a Hub id, a local folder or GGUF file.

        Raises
        ------
        RecipeError
            When `source` is empty.
        """
        self.workspace.edit({"model.source": source})

    def fetch(self) -> None:
        """Fetch the model now rather than when a run starts. Returns at once; `wait()` waits."""
        if not self._fetching.busy:
            model, offline = self.workspace.recipe.model, self.workspace.recipe.compute.offline
            self._fetch.disabled = True
            self._show_progress("Looking for the model", None)
            self._fetching.submit(lambda: _fetch(model, offline, self._show_progress))

    def wait(self, timeout: float | None = 60.0) -> None:
        """Wait until the memory estimate, a fetch and a search under way are done."""
        self._fitting.wait(timeout)
        self._memory.wait(timeout)
        self._fetching.wait(timeout)
        self._reading_code.wait(timeout)
        if self._search_box.children:
            self.search.wait(timeout)

    def _build(self) -> None:
        self._kind = choices(_KINDS, "starter", _TOOLTIPS, "Start from")
        self._kind.observe(self._kind_chosen, "value")
        self._source = Field(self.workspace, "model.source", title="Hub id")
        self._search_box = widgets.VBox(layout=widgets.Layout(display="none"))
        self._hub = Field(self.workspace, "model.revision")
        self._trust = Field(self.workspace, "model.trust_remote_code")
        self._fields = widgets.Box([self._source, self._hub, self._trust])
        self._fields.add_class("ftk-grid")
        self.method = UnionForm(self.workspace, "method", about="Which weights are trained, and how.")
        self._about = widgets.HTML()
        self._code = widgets.HTML()
        self._code.layout.display = "none"
        self._fetch = button("Fetch now", "Download the model now rather than at Start", self.fetch)
        self._place = widgets.HTML()
        self._where = row(self._place, self._fetch)
        self._progress = widgets.HTML()
        self._chip = widgets.HTML()
        self._machine = widgets.HTML()
        self._fit_button = button(
            "Fit it for me",
            "Smaller batches and more recomputation; what is learned stays the same",
            self.fit,
        )
        self._fit_button.layout.display = "none"
        self._fitted = widgets.HTML()
        self.fill(
            [
                widgets.HTML(
                    markup.heading("Model", "What to start from, and which of its weights to train.")
                ),
                card(
                    self._kind,
                    self._about,
                    self._search_box,
                    self._fields,
                    self._code,
                    self._where,
                    self._progress,
                ),
                card(self.method),
                card(self._machine, self._fit_button, self._fitted),
                folded(
                    {
                        "Device and precision": self._device,
                        "New tokens": lambda: section_form(self.workspace, "model", ("new_tokens",)),
                    }
                ),
                leads_to(self.workspace, "data", "Next: Data"),
            ]
        )

    def _device(self) -> widgets.Widget:
        bits = Field(self.workspace, "model.quantization")
        others = section_form(self.workspace, "compute", without=(*WHERE, "fast"))
        return widgets.VBox(
            [
                grid([bits, *others.children]),
                widgets.HTML(markup.part("ftkit's own kernels")),
                section_form(self.workspace, "compute", ("fast",)),
            ]
        )

    # The source

    def _kind_chosen(self, change: Any) -> None:
        if self._settling:
            return
        source = self.workspace.recipe.model.source
        self._typed[_kind_of(source)] = source
        kind = change["new"]
        if kind == "starter" or kind in self._typed:
            self.workspace.edit({"model.source": self._typed.get(kind, "starter")})
        else:
            self._source.ask(*_ASK[kind])
        self._show_kind(kind)

    def _show_kind(self, kind: str) -> None:
        hub, fields = kind == "hub", kind != "starter"
        self._fields.layout.display = None if fields else "none"
        for widget in (self._hub, self._search_box):
            widget.layout.display = None if hub else "none"
        if hub:
            self.search.shown()
        source = self.workspace.recipe.model.source
        about = _about(source)
        asking = fields and _kind_of(source) != kind
        self._where.layout.display = "none" if asking else None
        if asking:
            about = f"Still {source}, until you name another model below."
        self._about.value = markup.muted(about) if about else ""
        self._about.layout.display = None if about else "none"

    def _recipe_changed(self, _: Any) -> None:
        self._measure()
        source = self.workspace.recipe.model.source
        if source == self._seen:
            return
        self._seen = source
        kind = _kind_of(source)
        self._settling = True
        try:
            self._kind.value = kind
            if kind != "starter":
                self._source.control.description, self._source.control.placeholder = _ASK[kind]
        finally:
            self._settling = False
        self._progress.value = ""
        self._show_kind(kind)

    # Fetching

    def _show_progress(self, text: str, fraction: float | None) -> None:
        line = markup.escape(text) + (f" · {fraction:.0%}" if fraction is not None else "")
        bar = markup.bar([(fraction or 0.0, "run", text)], text, fraction or 0.0)
        self._progress.value = f'<div class="ftk-muted ftk-num">{line}</div>{bar}'

    def _fetched(self, source: ModelSource) -> None:
        notes = " ".join(source.notes)
        self._progress.value = markup.note(f"Ready: {source.describe()}. {notes}".strip(), "ok")
        self._measure()

    def _not_fetched(self, error: Exception) -> None:
        self._progress.value = markup.failure(error)
        self._fetch.disabled = False

    # Memory

    def _measure(self) -> None:
        recipe, row_tokens = self.workspace.recipe, self.workspace.row_tokens or None
        self._memory.submit(lambda: _look(recipe, row_tokens), delay=0.15)
        if (recipe.model, recipe.compute.offline) != self._asked:
            self._asked = (recipe.model, recipe.compute.offline)
            self._reading_code.submit(lambda: _code_of(recipe), delay=0.15)

    def _show_code(self, said: tuple[str, bool]) -> None:
        text, trusted = said
        self._code.value = markup.note(text, "bad" if trusted else "warn") if text else ""
        self._code.layout.display = None if text else "none"

    def _show_memory(self, found: tuple[MemoryEstimate, bool]) -> None:
        self.estimate, here = found
        self._machine.value = _memory(self.estimate)
        self._fit_button.layout.display = (
            None if self.estimate.verdict in ("tight", "will not fit") else "none"
        )
        local = _kind_of(self.workspace.recipe.model.source) == "local"
        if here:
            self._place.value = markup.chip("on this machine", "ok", "Loading it fetches nothing")
        elif local:
            self._place.value = markup.chip("not found", "bad", "There is no such file or folder")
        else:
            text = "Not on this machine yet: fetched when a run starts, or now."
            self._place.value = markup.muted(text)
        self._fetch.layout.display = "none" if here or local else None
        self._fetch.disabled = here or self._fetching.busy

    def fit(self) -> None:
        """Make the fine-tune fit the memory that is free. Returns at once; `wait()` waits."""
        recipe, row_tokens = self.workspace.recipe, self.workspace.row_tokens or None
        self._fitted.value = markup.muted("Looking for what fits …")
        self._fitting.submit(lambda: _fit(recipe, row_tokens))

    def _show_fit(self, found: Fit) -> None:
        self.workspace.edit(dict(found.changes))
        self._fitted.value = markup.note(found.reason, "ok")

    def _no_fit(self, error: Exception) -> None:
        self._fitted.value = markup.failure(error)

    def _no_memory(self, error: Exception) -> None:
        self._machine.value = markup.heading("Memory") + markup.failure(error)


def _kind_of(source: str) -> str:
    if source == "starter":
        return "starter"
    if source.startswith((".", "/", "~")) or source.endswith(".gguf") or is_there(named(source)):
        return "local"
    return "hub"


def _about(source: str) -> str:
    from ftkit.models import catalog

    entry = catalog.find(source)
    if entry is None:
        return ""
    gate = " Accept its terms on the Hub first." if entry.gated else ""
    parameters = f" · {markup.size(entry.parameters)} parameters" if entry.parameters is not None else ""
    return f"{entry.title}{parameters} · {entry.licence}. {entry.about}{gate}"


def _fetch(model: Model, offline: bool, progress: Any) -> ModelSource:
    from ftkit.models import resolve

    return resolve(model, offline=offline, progress=progress)


def _code_of(recipe: Recipe) -> tuple[str, bool]:
    """What to say of the Python code that comes with the model, and whether it would run."""
    from ftkit.models.code import remote_code, warning

    trusted = recipe.model.trust_remote_code
    return warning(remote_code(recipe.model, offline=recipe.compute.offline), trusted), trusted


def _look(recipe: Recipe, row_tokens: int | None) -> tuple[MemoryEstimate, bool]:
    from ftkit.models import estimate, on_this_machine

    try:
        here = on_this_machine(recipe.model)
    except (FtkitError, OSError):
        here = False
    return estimate(recipe, row_tokens=row_tokens), here


def _fit(recipe: Recipe, row_tokens: int | None) -> Fit:
    from ftkit.models import fit_to_memory

    return fit_to_memory(recipe, row_tokens=row_tokens)


def _memory(found: MemoryEstimate) -> str:
    """Needed, used by others and left, as a bar with a verdict."""
    device = found.device
    where = f"{device.cores} cores" if device.kind == "cpu" else "CUDA"
    bf16 = "native bfloat16" if device.native_bf16 else "float32 (no native bfloat16)"
    facts = f"{device.name} · {where} · {found.total_gb:.1f} GB · {bf16}"
    head = markup.heading("Memory", facts)
    verdict = markup.chip(found.verdict, _LOOKS[found.verdict])
    reason = html.escape(found.reason)
    if found.peak_gb is None or found.total_gb <= 0:
        return f'{head}<div class="ftk-verdict">{verdict} {reason}</div>'
    others = max(found.total_gb - found.free_gb, 0.0)
    whole = max(found.total_gb, others + found.peak_gb)
    needed = f"This run: about {found.peak_gb:.1f} GB"
    bar = markup.bar(
        [
            (others / whole, "others", f"In use now: {others:.1f} GB"),
            (found.peak_gb / whole, _LOOKS[found.verdict], needed),
        ],
        f"{needed}, free {found.free_gb:.1f} GB of {found.total_gb:.1f} GB: {found.verdict}",
    )
    key = (
        f'<div class="ftk-keys ftk-num"><span class="ftk-key ftk-others">in use {others:.1f} GB</span>'
        f'<span class="ftk-key ftk-{_LOOKS[found.verdict]}">this run {found.peak_gb:.1f} GB</span>'
        f'<span class="ftk-key">left {max(found.free_gb - found.peak_gb, 0.0):.1f} GB</span></div>'
    )
    parts = " · ".join(f"{name} {size:.2f}" for name, size in found.parts.items())
    detail = f"<details><summary>What it is made of</summary>{html.escape(parts)} GB</details>"
    return f'{head}{bar}{key}<div class="ftk-verdict">{verdict} {reason}</div>{detail}'
