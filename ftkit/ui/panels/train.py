"""The Train panel: how long and how fast to learn; start, pause, stop; how far it is."""

from __future__ import annotations

import threading
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ipywidgets as widgets

from ftkit.errors import FtkitError, RecipeError, RunError
from ftkit.recipe import Recipe, presets
from ftkit.recipe.cards import unfilled
from ftkit.recipe.objectives import READS
from ftkit.ui import host, markup, progress
from ftkit.ui.code import CodeView
from ftkit.ui.form import Field, folded, grid, label, section_form
from ftkit.ui.opening import OpenBox
from ftkit.ui.panels.base import WHERE, Panel, button, card, choices, leads_to, row
from ftkit.ui.ticker import SECONDS_BETWEEN_LOOKS, Ticker, Worker
from ftkit.ui.union_form import UnionForm
from ftkit.ui.workspace import Workspace

if TYPE_CHECKING:
    from ftkit.data import Dataset
    from ftkit.runs import Run

_CAN_RESUME = ("paused", "stopped", "failed", "interrupted")
_CAN_PAUSE = ("queued", "running")
_FIRST = ("training.epochs", "training.batch_size", "training.learning_rate", "method.rank")
_MORE = {
    "Steps and batches": ("max_steps", "gradient_accumulation_steps", "batch_tokens", "seed"),
    "Learning rate": (
        *("lr_scheduler", "lr_scheduler_kwargs", "warmup", "embedding_learning_rate", "layerwise_decay"),
    ),
    "Optimizer": ("optimizer", "optimizer_kwargs", "weight_decay", "max_grad_norm"),
    "Against learning the rows by heart": (
        *("early_stopping_patience", "neftune_alpha", "ema_decay", "keep_best"),
    ),
    "While it runs": (
        *("evals", "checkpoints", "on_bad_loss", "time_limit", "sample_prompts", "sample_every"),
    ),
}
"""The other fields of `training`, by what they are for."""
_LOOKS_A_SECOND = 3.0
_CODES = {
    "Python": "A cell that does the same",
    "YAML": "The whole recipe, for `ftkit run`",
    "LLaMA-Factory": "The same for LLaMA-Factory, with comments on what it has no key for",
}
"""What "Show code" shows."""
_ROWS_ASKED = 5
"""Rows that are looked at to see whether they suit the objective."""


class TrainPanel(Panel):
    """Set how to train, and train. Everything a person can click is a method, too.

    Parameters
    ----------
    workspace
        Whose Recipe is carried out; its run is followed.

    Examples
    --------
    >>> panel = ftkit.ui.TrainPanel()                                                  # doctest: +SKIP
    >>> panel.preset("quick look")                                                     # doctest: +SKIP
    >>> panel.start().wait()                                                           # doctest: +SKIP
    """

    def __init__(self, workspace: Workspace | None = None) -> None:
        super().__init__(workspace)
        self._lock = threading.Lock()
        self._starting = False
        self._settling = False
        self._problem: Exception | None = None
        self._launch: Worker[Run] = Worker(self._started, self._not_started)
        self._steering: Worker[None] = Worker(lambda _: self._look(), self._show_problem)
        self._ticker = Ticker(self._look, hz=_LOOKS_A_SECOND, idle=SECONDS_BETWEEN_LOOKS)
        self._build()
        self._recipe_changed(None)
        self.workspace.observe(self._recipe_changed, "recipe")
        self.workspace.observe(lambda _: self._show_misfit(), "dataset")
        self.workspace.observe(self._run_changed, "run")
        self.workspace.observe(self._problems_changed, "problems")
        self._run_changed(None)

    @property
    def run(self) -> Run | None:
        """The run that is shown."""
        return self.workspace.run

    def preset(self, name: str) -> None:
        """Set the fields of a preset: `quick look`, `balanced` or `thorough`.

        Raises
        ------
        RecipeError
            When there is no such preset.
        """
        self.workspace.change(lambda recipe: presets.apply(recipe, name))

    def start(self) -> Run:
        """Start a run of the Recipe, as the button does, and return it.

        Raises
        ------
        RecipeError
            When a control holds something invalid.
        RunError
            When a run is going already, or the run folder cannot be made.
        """
        self._begin()
        self._launch.wait()
        if self._problem is not None:
            raise self._problem
        assert self.workspace.run is not None
        return self.workspace.run

    def pause(self) -> None:
        """Hold the run after the current step. Returns at once."""
        self._steer(self._some_run().pause)

    def resume(self) -> None:
        """Go on after a pause, or from the last checkpoint of a run that ended early. Returns at once."""
        self._steer(self._some_run().resume)

    def stop(self) -> None:
        """Finish the current step, save and end. Returns at once."""
        self._steer(self._some_run().stop)

    def new_run(self) -> None:
        """Put the ended run aside and set up another one.

        Raises
        ------
        RunError
            When the run is still going.
        """
        run = self.workspace.run
        if run is not None and run.active:
            raise RunError(f"The run {run.name} is still going.", "Stop it first.")
        self.workspace.run = None
        self._message.value = ""

    def code(self, kind: str = "Python") -> str:
        """What reproduces the Recipe.

        Parameters
        ----------
        kind
            `Python` is a notebook cell; `YAML` is for `ftkit run`; `LLaMA-Factory` is that program's own
            file, in which comments say what it cannot say.
        """
        recipe = self.workspace.recipe
        if kind == "YAML":
            return recipe.to_yaml()
        if kind == "LLaMA-Factory":
            from ftkit.recipe import llamafactory

            return str(llamafactory.to_yaml(recipe))
        return recipe.to_python()

    def save_yaml(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write the Recipe as YAML and say where.

        Raises
        ------
        RecipeError
            When there is a file already (and not `overwrite`), or it cannot be written.
        """
        target = Path(path).expanduser()
        if target.is_dir():
            raise RecipeError(f"{target} is a folder.", "Give the name of a file, such as recipe.yaml.")
        if target.exists() and not overwrite:
            raise RecipeError(f"There is a file {target} already.", "Save again to overwrite it.")
        try:
            self.workspace.recipe.to_yaml(target)
        except OSError as error:
            raise RecipeError(
                f"{target} cannot be written: {error.strerror}.", "Choose another path."
            ) from None
        return target.resolve()

    def close(self) -> None:
        """Stop following, then take the widget off the page. A run goes on."""
        self._ticker.stop()
        super().close()

    # What is on the page

    def _build(self) -> None:
        workspace = self.workspace
        self.objective = UnionForm(workspace, "objective", "What is learned", "What the rows are to teach.")
        self._misfit = widgets.HTML()
        names = list(presets.PRESETS)
        tooltips = [f"{p.about} {p.rough_time}" for p in presets.PRESETS.values()]
        options = [(name.capitalize(), name) for name in names]
        self._presets = choices(options, names[0], tooltips, "Preset")
        self._presets.observe(self._preset_chosen, "value")
        self._preset_about = widgets.HTML()
        first = grid([Field(workspace, path, explain=True) for path in _FIRST], few=True)
        more = folded(
            {
                "More training settings": self._more,
                "Where it runs": lambda: section_form(workspace, "compute", WHERE),
                "Run folder": lambda: section_form(workspace, "output"),
            }
        )
        self._start = button(
            "Start", "Start training", lambda: self._try(self._begin), button_style="primary"
        )
        self._pause = button("Pause", "Hold after the current step", self._pause_clicked)
        self._stop = button(
            "Stop", "Finish the step, save and end", lambda: self._try(self.stop), button_style="danger"
        )
        self._new = button(
            "Put aside",
            "Show this run no longer; Start begins another one in any case",
            lambda: self._try(self.new_run),
        )
        self._message = widgets.HTML()
        self._progress = widgets.HTML()
        self._monitor = leads_to(workspace, "monitor", "Next: Monitor")
        self.fill(
            [
                widgets.HTML(markup.heading("Train", "How long and how fast to learn.")),
                card(self.objective, self._misfit),
                card(self._presets, self._preset_about, first),
                more,
                card(row(self._start, self._pause, self._stop, self._new), self._message, self._progress),
                self._recipe_tools(),
                self._monitor,
            ]
        )

    def _more(self) -> widgets.Widget:
        parts: list[widgets.Widget] = []
        for title, names in _MORE.items():
            parts += [widgets.HTML(markup.part(title)), section_form(self.workspace, "training", names)]
        return widgets.VBox(parts)

    def _recipe_tools(self) -> widgets.Widget:
        self._show_code = widgets.ToggleButton(description="Show code", value=False)
        self._code = CodeView()
        kinds = [(kind, kind) for kind in _CODES]
        self._code_as = choices(kinds, kinds[0][1], list(_CODES.values()), "Code as")
        self._code_as.observe(lambda _: self._refresh_code(), "value")
        self._code_box = widgets.VBox([self._code_as, self._code], layout=widgets.Layout(display="none"))
        self._show_code.observe(self._code_toggled, "value")
        self._path = widgets.Text(description="Save as", value="recipe.yaml", placeholder="recipe.yaml")
        self._path.add_class("ftk-inline")
        self._save = button("Save YAML", "Write the recipe to this file", self._save_clicked)
        self._saved = widgets.HTML()
        self._path.observe(lambda _: self._ask_to_save(), "value")
        self._open = widgets.ToggleButton(description="Open or paste", value=False)
        host.set_tooltip(self._open, "Take a recipe or a LLaMA-Factory file from text or a path")
        self.opening = OpenBox(self.workspace)
        self.opening.layout.display = "none"
        self._open.observe(self._open_toggled, "value")
        tools = row(self._show_code, self._open, self._path, self._save, self._saved)
        return widgets.VBox([tools, self._code_box, self.opening])

    def _preset_chosen(self, change: Any) -> None:
        if not self._settling and change["new"] is not None:
            self.preset(change["new"])

    def _recipe_changed(self, _: Any) -> None:
        recipe = self.workspace.recipe
        self._message.value = ""  # what kept a run from starting may be mended
        name = presets.matching(recipe)
        self._settling = True
        try:
            self._presets.value = name
        finally:
            self._settling = False
        preset = presets.PRESETS.get(name or "")
        about = "Your own settings."
        if preset is not None:
            about = preset.about
            if recipe.method.saves == "adapter" and recipe.objective.type == "sft":  # what was measured
                about += f" The starter model takes {preset.rough_time} on two CPU cores."
        self._preset_about.value = markup.muted(about)
        if self._show_code.value:
            self._refresh_code()
        self._ask_to_save()
        self._show_misfit()

    def _show_misfit(self) -> None:
        workspace = self.workspace
        text = _misfit(workspace.dataset, workspace.recipe) if workspace.is_current() else ""
        self._misfit.value = markup.note(text, "warn") if text else ""

    def _problems_changed(self, change: Any) -> None:
        """What kept a run from starting has been set right."""
        if not change["new"]:
            self._message.value = ""

    # Start, pause, stop

    def _begin(self) -> None:
        run = self.workspace.run
        problems = self.workspace.problems
        if problems:
            lines = [f"{label(path.rsplit('.', 1)[-1])}: {text}" for path, text in problems.items()]
            raise RecipeError("\n".join(lines), "Mend this first; nothing was started.")
        if needed := unfilled(self.workspace.recipe):
            lines = [f"{label(path.rsplit('.', 1)[-1])} is empty. {what}" for path, what in needed.items()]
            raise RecipeError("\n".join(lines), "Fill it in above; nothing was started.")
        with self._lock:
            if self._starting or (run is not None and run.active):
                name = f" ({run.name})" if run is not None and run.active else ""
                raise RunError(f"A run is going already{name}.", "Wait for its end, or stop it first.")
            self._starting = True
        self._problem = None
        self._message.value = ""
        self._progress.value = progress.starting()
        self._enable(None)
        recipe = self.workspace.recipe
        self._launch.submit(lambda: _start(recipe))

    def _started(self, run: Run) -> None:
        self._starting = False
        self.workspace.run = run

    def _not_started(self, error: Exception) -> None:
        self._starting = False
        self._problem = error
        self._progress.value = ""
        self._show_problem(error)
        self._look()

    def _steer(self, act: Callable[[], Any]) -> None:
        self._message.value = ""
        self._steering.submit(lambda: _call(act))
        self._ticker.start()

    def _pause_clicked(self) -> None:
        run = self.workspace.run
        resuming = run is not None and run.status in _CAN_RESUME
        self._try(self.resume if resuming else self.pause)

    def _some_run(self) -> Run:
        if self.workspace.run is None:
            raise RunError("There is no run yet.", "Press Start.")
        return self.workspace.run

    def _try(self, act: Callable[[], Any]) -> None:
        try:
            act()
        except FtkitError as error:
            self._show_problem(error)

    def _show_problem(self, error: Exception) -> None:
        self._message.value = markup.failure(error)

    # Following the run

    def _run_changed(self, _: Any) -> None:
        self._message.value = ""
        self._look()
        if self.workspace.run is not None:
            self._ticker.start()

    def _look(self) -> bool:
        """Show where the run stands; False when it stands still: it may be resumed elsewhere."""
        run = self.workspace.run
        if self._starting:
            return True
        if run is None:
            self._progress.value = ""
            self._enable(None)
            self._ticker.stop()
            return False
        status = run.status
        shown = progress.of_run(run, status)
        if self._progress.value != shown:
            self._progress.value = shown
        self._enable(status)
        # a run that is resumed has its old state for a moment
        return run.active or self._steering.busy

    def _enable(self, status: str | None) -> None:
        active = self._starting or status in (*_CAN_PAUSE, "paused", "stopping")
        resumable = status in _CAN_RESUME
        self._start.disabled = active
        self._pause.description = "Resume" if resumable else "Pause"
        self._pause.disabled = self._starting or not (resumable or status in _CAN_PAUSE)
        self._stop.disabled = self._starting or status not in (*_CAN_PAUSE, "paused")
        self._new.layout.display = None if status is not None and not active else "none"

    # Code and YAML

    def _code_toggled(self, change: Any) -> None:
        self._refresh_code()
        self._code_box.layout.display = None if change["new"] else "none"
        self._show_code.description = "Hide code" if change["new"] else "Show code"

    def _refresh_code(self) -> None:
        self._code.text = self.code(self._code_as.value)

    def _open_toggled(self, change: Any) -> None:
        self.opening.layout.display = None if change["new"] else "none"

    def _ask_to_save(self) -> None:
        self._save.description = "Save YAML"
        self._saved.value = ""

    def _save_clicked(self) -> None:
        overwrite = self._save.description == "Overwrite"
        path = self._path.value.strip() or "recipe.yaml"
        try:
            where = self.save_yaml(path, overwrite=overwrite)
        except RecipeError as error:
            exists = Path(path).expanduser().is_file() and not overwrite
            self._save.description = "Overwrite" if exists else "Save YAML"
            text = f"{error.message} Press Overwrite to replace it." if exists else str(error)
            self._saved.value = markup.chip(text, "warn" if exists else "bad")
            return
        self._ask_to_save()
        self._saved.value = markup.chip(f"Saved {where}", "ok")


def _misfit(dataset: Dataset, recipe: Recipe) -> str:
    """Why the objective learns nothing from rows such as the first ones; empty where it does."""
    from ftkit.data.example import UnusableRowError
    from ftkit.data.sides import sides

    reason = ""
    for example in islice(dataset.train, _ROWS_ASKED):
        try:
            sides(example, recipe.objective)
        except UnusableRowError as error:
            reason = reason or str(error)
        else:
            return ""
    if not reason:
        return ""
    needed = READS[recipe.objective.reads]
    return (
        f"The rows of {dataset.origin} do not suit it: {reason}. It learns "
        f"{needed[0].lower()}{needed[1:]}. Choose another objective, or other rows in the Data panel."
    )


def _start(recipe: Recipe) -> Run:
    from ftkit.models.capabilities import refused
    from ftkit.runs import start

    if found := refused(recipe):
        lines = [f"{path}: {reason}." for path, reason in found.items()]
        raise RecipeError("\n".join(lines), "Install it, or choose something else; nothing was started.")
    return start(recipe)


def _call(act: Callable[[], Any]) -> None:
    act()
