"""The Lab: the five panels in tabs, over one workspace."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ipywidgets as widgets

from ftkit.recipe import Recipe
from ftkit.ui import front, host, markup
from ftkit.ui.closing import close_all
from ftkit.ui.reopened import Reopened
from ftkit.ui.ticker import SECONDS_BETWEEN_LOOKS, Ticker
from ftkit.ui.workspace import Workspace

if TYPE_CHECKING:
    from ftkit.runs import Run
    from ftkit.ui.panels.base import Panel
    from ftkit.ui.panels.chat import ChatPanel
    from ftkit.ui.panels.data import DataPanel
    from ftkit.ui.panels.model import ModelPanel
    from ftkit.ui.panels.monitor import MonitorPanel
    from ftkit.ui.panels.train import TrainPanel

_TABS = ("model", "data", "train", "monitor", "chat")
_NEWS = " •"
"""Behind the title of a tab where something goes on."""


class Lab(widgets.VBox):
    """Pick a model, look at the data, train, watch, talk: all in one cell.

    A panel is built when it is first looked at, in the page or from Python (`lab.train`).

    Parameters
    ----------
    workspace
        What the panels share; a new one when left out.
    recipe
        Where to begin instead of the workspace's Recipe: a Recipe, or the path of a YAML file.
    folder
        Folder for the runs, instead of the Recipe's.

    Examples
    --------
    >>> lab = ftkit.Lab()                                                              # doctest: +SKIP
    >>> lab.data.choose("starter:persona")                                             # doctest: +SKIP
    >>> lab.train.preset("quick look")                                                 # doctest: +SKIP
    >>> lab.train.start().wait()                                                       # doctest: +SKIP
    """

    def __init__(
        self,
        workspace: Workspace | None = None,
        recipe: Recipe | str | Path | None = None,
        folder: str | Path | None = None,
    ) -> None:
        host.keep_clicks()
        self.workspace = workspace or Workspace()
        if recipe is not None:
            self.workspace.recipe = recipe if isinstance(recipe, Recipe) else Recipe.from_yaml(recipe)
        if folder is not None:
            self.workspace.edit({"output.folder": folder})
        self.workspace.guided = True
        self._panels: dict[str, Panel] = {}
        self._head = widgets.HTML()
        self._tabs = widgets.Tab([widgets.VBox() for _ in _TABS])
        self._tabs.add_class("ftk-tabs")
        self._titles: list[str] = []
        self._ticker = Ticker(self._follow, hz=1, idle=SECONDS_BETWEEN_LOOKS)
        super().__init__([front.theme(), Reopened(self._say_again), self._head, self._tabs])
        self.add_class("ftk-panel")
        self.add_class("ftk-lab")
        self._tabs.observe(lambda change: self._open(change["new"]), "selected_index")
        self.workspace.observe(self._tab_asked_for, "tab")
        self.workspace.observe(lambda _: self._show_head(), "recipe")
        self.workspace.observe(self._run_changed, "run")
        self._tabs.selected_index = 0
        self._open(0)
        self._run_changed(None)

    def __repr__(self) -> str:
        recipe = self.workspace.recipe
        return f"Lab(model={recipe.model.source!r}, data={recipe.data.source!r})"

    def _say_again(self) -> None:
        self._head.send_state()
        self._tabs.send_state()

    @property
    def model(self) -> ModelPanel:
        """The Model panel."""
        return self._panel("model")

    @property
    def data(self) -> DataPanel:
        """The Data panel."""
        return self._panel("data")

    @property
    def train(self) -> TrainPanel:
        """The Train panel."""
        return self._panel("train")

    @property
    def monitor(self) -> MonitorPanel:
        """The Monitor panel."""
        return self._panel("monitor")

    @property
    def chat(self) -> ChatPanel:
        """The Chat panel."""
        return self._panel("chat")

    @property
    def recipe(self) -> Recipe:
        """What the panels have been set to."""
        return self.workspace.recipe

    @recipe.setter
    def recipe(self, recipe: Recipe) -> None:
        self.workspace.recipe = recipe

    @property
    def run(self) -> Run | None:
        """The run that is watched."""
        return self.workspace.run

    def show(self, tab: str) -> None:
        """Bring a panel to the front: `model`, `data`, `train`, `monitor` or `chat`."""
        self._tabs.selected_index = _TABS.index(tab)

    def close(self) -> None:
        """Close the panels. A run goes on."""
        self._ticker.stop()
        for panel in self._panels.values():
            panel.close()
        super().close()
        close_all(self)

    def _panel(self, tab: str) -> Any:
        if tab not in self._panels:
            module = importlib.import_module(f"ftkit.ui.panels.{tab}")
            panel = getattr(module, f"{tab.capitalize()}Panel")(self.workspace)
            self._panels[tab] = panel
            self._tabs.children[_TABS.index(tab)].children = (panel,)
        return self._panels[tab]

    def _open(self, index: int | None) -> None:
        if index is None:
            return
        try:
            self._panel(_TABS[index]).shown()
        except Exception as error:  # noqa: BLE001 - a callback has no caller; the other panels go on
            self._tabs.children[index].children = (widgets.HTML(markup.failure(error)),)
        self.workspace.tab = _TABS[index]
        self._name_tabs()

    def _tab_asked_for(self, change: Any) -> None:
        if change["new"] in _TABS:
            self._tabs.selected_index = _TABS.index(change["new"])

    def _run_changed(self, _: Any) -> None:
        self._follow()
        if self.workspace.run is not None:
            self._ticker.start()

    def _follow(self) -> bool:
        run = self.workspace.run
        self._show_head()
        self._name_tabs()
        if run is None:
            self._ticker.stop()
        return run is not None and run.active

    def _name_tabs(self) -> None:
        """A dot on Monitor says that a run goes on while another panel is in front."""
        run = self.workspace.run
        news = run is not None and run.active and _TABS[self._tabs.selected_index or 0] != "monitor"
        titles = [tab.capitalize() + (_NEWS if news and tab == "monitor" else "") for tab in _TABS]
        if titles != self._titles:
            self._titles = titles
            host.set_titles(self._tabs, titles)

    def _show_head(self) -> None:
        recipe, run = self.workspace.recipe, self.workspace.run
        state = markup.state_chip(run.status) if run is not None else markup.chip("no run yet")
        name = f"<span>{markup.escape(run.name)}</span>" if run is not None else ""
        shown = (
            '<div class="ftk-chips ftk-lab-head"><span class="ftk-brand">ftkit</span>'
            f'<span><span class="ftk-muted">model</span> {markup.escape(recipe.model.source)}</span>'
            f'<span><span class="ftk-muted">data</span> {markup.escape(recipe.data.source)}</span>'
            f'<span class="ftk-lab-run">{name} {state}</span></div>'
        )
        if self._head.value != shown:
            self._head.value = shown
