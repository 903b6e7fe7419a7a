"""A Run: the handle by which a person watches and steers a run, live or long over."""

from __future__ import annotations

import asyncio
import importlib
import os
import time
import weakref
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftkit import manifest
from ftkit.errors import RunError
from ftkit.folders import is_there, resolved
from ftkit.recipe import Recipe
from ftkit.runs.folder import ENDED, RunFolder, is_run_folder
from ftkit.runs.launch import Launch, ThreadLaunch
from ftkit.runs.metrics import table
from ftkit.runs.process import ProcessLaunch, see_to_its_end
from ftkit.runs.summary import Progress, RunFailure, Summary
from ftkit.runs.wishes import Wish
from ftkit.train.checkpoints import Checkpoints, step_of

if TYPE_CHECKING:
    import pandas as pd

    from ftkit.models.load import LoadedModel

_here: weakref.WeakValueDictionary[Path, Run] = weakref.WeakValueDictionary()
"""The runs that this process has started, by folder, as long as they go on or somebody holds them."""


class Run:
    """One run. Made by `ftkit.start`, `ftkit.attach` and `ftkit.list_runs`, not by hand.

    All that is asked of it is answered from the run folder, so a run started in another kernel, or before a
    restart, shows the same.
    """

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        self._launch: Launch | None = None
        self._opened: LoadedModel | None = None
        self._opened_from: Path | None = None

    def __repr__(self) -> str:
        return f"Run({self.name!r}, {self.status})"

    @property
    def path(self) -> Path:
        """The run folder."""
        return self._folder.path

    @property
    def name(self) -> str:
        """The run folder's name."""
        return self._folder.path.name

    @property
    def recipe(self) -> Recipe:
        """What the run carries out."""
        return self._folder.recipe()

    @property
    def status(self) -> str:
        """`queued running paused stopping finished stopped failed`, or `interrupted`: its process is gone."""
        state = self._read().state
        if state in ENDED or (self._launch is not None and self._launch.alive):
            return state
        if (self._launch is None or self._taken_over()) and self._folder.owner_alive():
            return state
        state = self._read().state
        return state if state in ENDED else "interrupted"

    @property
    def active(self) -> bool:
        """Whether the run has not ended yet."""
        return self.status not in ENDED

    @property
    def error(self) -> RunFailure | None:
        """Why it failed and what to do, or None."""
        return self._read().error

    @property
    def progress(self) -> Progress:
        """Stage, step, speed, times."""
        return self._read().progress()

    @property
    def metrics(self) -> pd.DataFrame:
        """One row a step: see `ftkit.runs.metrics.METRICS`; NaN where a value was not logged.

        Read from the whole log at each call: keep it, if you need it twice.
        """
        return table(self._folder.log.events())

    @property
    def facts(self) -> dict[str, Any]:
        """Versions, device, precision, model source; empty until the model is loaded."""
        return dict(self._read().facts)

    @property
    def eval_loss(self) -> float | None:
        """The newest evaluation loss."""
        return self._read().eval_loss

    @property
    def loss(self) -> float | None:
        """The newest training loss."""
        return self._read().final_loss

    @property
    def origin(self) -> Run | None:
        """The run that this one is a branch of, where it is still there; None for a run of its own."""
        of = self._read().branch_of
        if of is None:
            return None
        try:  # it lies beside its branches, wherever their folder has gone since
            return attach(self.path.parent / Path(of).name)
        except (RunError, OSError, ValueError):
            return None

    @property
    def summary(self) -> Summary:
        """What the run's events add up to: notes, curves and all else that the panels show."""
        return self._read()

    def events(self, since: int = 0) -> list[dict[str, Any]]:
        """Events numbered `since` and later; `n` is an event's number. See `ftkit.runs.events`."""
        return self._folder.log.read(since)

    def pause(self) -> None:
        """Hold after the current step; the model stays loaded and can be talked to. Returns at once."""
        self._steer(Wish("pause"))

    def resume(self) -> Run:
        """Go on: after a pause, or from the last checkpoint after a stop, a failure or a lost kernel.

        Raises
        ------
        RunError
            When the run is finished and its result is sound: there is nothing left to do.
        """
        status = self.status
        if status not in ENDED:
            self._steer(Wish("run"))
            return self
        if status == "finished" and self._output_fault() is None:
            raise RunError(f"The run {self.name} is finished.", "To train further, start a new run.")
        self._begin(resume=True)
        return self

    def stop(self, *, after_epoch: bool = False) -> None:
        """Finish the current step (or epoch), save, end. Returns at once; `wait()` waits for the end.

        A run in a process of its own that has not ended a minute and five steps later is ended, with every
        process that it started; it can then be resumed from its last checkpoint.
        """
        if after_epoch:
            self._steer(Wish("stop_after_epoch"))
        elif self.active:
            self._steer(Wish("stop"))
            see_to_its_end(self._folder, self._step_seconds())

    def save(self) -> None:
        """Write a checkpoint after the current step. Returns at once."""
        self._steer(Wish("save"))

    def evaluate(self) -> None:
        """Take the held-out loss after the current step. Returns at once."""
        self._steer(Wish("evaluate"))

    def sample(self) -> None:
        """Answer the Recipe's sample prompts after the current step: `sample` events. Returns at once."""
        self._steer(Wish("sample"))

    def set_learning_rate(self, peak: float) -> None:
        """Go on with another peak learning rate after the current step; the schedule's shape stays.

        Raises
        ------
        RunError
            When `peak` is not above 0 and at most 1, or the run has ended.
        """
        if not 0 < peak <= 1:
            raise RunError(f"{peak} is no learning rate.", "Give a number above 0 and at most 1.")
        if not self.active:
            raise RunError(f"The run {self.name} has ended.", "Branch it at a checkpoint: run.branch().")
        self._steer(Wish("learning_rate", float(peak)))

    @property
    def checkpoints(self) -> list[int]:
        """The steps that have a checkpoint to go on from, oldest first."""
        there = Checkpoints(self.path / "checkpoints").all()
        return [one.step for one in there if one.fault() is None]

    def branch(self, step: int | None = None, changes: dict[str, Any] | None = None) -> Run:
        """Start a new run that goes on from a checkpoint of this one, with some settings changed.

        Parameters
        ----------
        step
            One of `checkpoints`; None: the newest.
        changes
            Dotted paths to values, as for `Recipe.replace`: `{"training.learning_rate": 1e-5}`.

        Raises
        ------
        RunError
            When there is no such checkpoint, or `changes` touch what the checkpoint depends on.
        """
        from ftkit.runs.branch import branch_folder

        run = Run(branch_folder(self._folder, step, changes or {}))
        run._begin(resume=True)
        return run

    def wait(self, timeout: float | None = None) -> Run:
        """Block until the run has ended, or for `timeout` seconds. Can be interrupted.

        Raises
        ------
        RunError
            When the run failed or its process died.
        TimeoutError
            When it has not ended by then; the run goes on.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while self.active:
            if deadline is not None and time.monotonic() > deadline:
                raise TimeoutError(f"{self.name} is still {self.status} after {timeout:g} s")
            time.sleep(0.05)
        return self._outcome()

    def __await__(self) -> Generator[Any, None, Run]:
        return self._wait_async().__await__()

    @property
    def loaded(self) -> LoadedModel | None:
        """The model in this process, while it trains and after; take `loaded.gate.turn(...)` to use it."""
        return (self._launch.loaded if self._launch else None) or self._opened

    @property
    def loaded_step(self) -> int | None:
        """The step of the checkpoint that `loaded` was read from; None where it is live, or the result."""
        if self._opened is None or self.loaded is not self._opened or self._opened_from is None:
            return None
        return step_of(self._opened_from)

    def open_model(self, progress: Callable[[str, float | None], None] | None = None) -> LoadedModel:
        """The live model, or the result loaded from the run folder (its last checkpoint if it never ended).

        A checkpoint that was loaded gives way to what has been saved since.

        Raises
        ------
        RunError
            When there is nothing saved to load.
        """
        if self.loaded is None or self._superseded():
            saved = self._saved()
            if self.loaded is None or saved != self._opened_from:
                self._opened = None  # its memory goes before the next one is loaded
                self._opened, self._opened_from = self._load(saved, progress), saved
        assert self.loaded is not None
        return self.loaded

    def release_model(self) -> None:
        """Give the memory of an ended run's model back; `open_model` loads it again when needed."""
        if not self.active:
            self._opened = None
            if self._launch is not None:
                self._launch.loaded = None

    def chart(self) -> Any:
        """A live chart of the run, for a notebook cell."""
        # By name: the run does not know the panels, it only asks for one when a person does.
        return importlib.import_module("ftkit.ui.charts").live_chart(self)

    def _read(self) -> Summary:
        return self._folder.log.summary()

    def _begin(self, *, resume: bool) -> None:
        for other in list(_here.values()):
            other.release_model()
        here = self.recipe.compute.launch == "thread"
        kind: type[Launch] = ThreadLaunch if here else ProcessLaunch
        launch = kind(self._folder, resume=resume)
        self._launch = launch
        _here[self.path] = self
        launch.begin(keep=self)

    def _steer(self, wish: Wish) -> None:
        if self._launch is not None and self._launch.alive:
            self._launch.wish(wish)
        elif self.active:
            self._folder.wishes().ask(wish)

    def _taken_over(self) -> bool:
        """Whether another process carries the run out by now: it was begun here and resumed there."""
        owner = self._folder.owner()
        return owner is not None and owner.pid != os.getpid()

    def _step_seconds(self) -> float:
        """How long a step takes, about; 0 before the first one."""
        progress = self.progress
        return progress.elapsed / progress.step if progress.step else 0.0

    async def _wait_async(self) -> Run:
        while self.active:
            await asyncio.sleep(0.1)
        return self._outcome()

    def _outcome(self) -> Run:
        if self.status == "failed" and self.error is not None:
            cause = self._launch.error if self._launch else None
            raise RunError(f"The run {self.name} failed. {self.error.message}", self.error.advice) from cause
        if self.status == "interrupted":
            raise RunError(
                f"The process of the run {self.name} is gone.",
                "run.resume() goes on from its last checkpoint.",
            )
        return self

    def _output_fault(self) -> str | None:
        """What is wrong with the saved result, in a few words; None where it is sound."""
        from ftkit.train.fit import output_folder

        result = output_folder(self.recipe, self.path)
        if not result.is_dir():
            return "it is not there"
        # runs of older versions sealed nothing
        return manifest.fault(result, thorough=True) if (result / manifest.MANIFEST).exists() else None

    def _superseded(self) -> bool:
        """Whether something newer was saved since `loaded` was read from a checkpoint."""
        from ftkit.train.fit import output_folder

        step = self.loaded_step
        if step is None:
            return False
        result = output_folder(self.recipe, self.path)
        return (result / manifest.MANIFEST).exists() or max(self.checkpoints, default=step) > step

    def _saved(self) -> Path:
        """The result, or the newest sound checkpoint."""
        from ftkit.train.fit import output_folder

        if self.recipe.objective.head == "score":
            raise RunError(
                f"The run {self.name} trains a reward model: it scores replies and does not talk.",
                "ftkit.models.load_scorer(run.path) loads it.",
            )
        if self._output_fault() is None:
            return output_folder(self.recipe, self.path)
        saved = self._folder.last_checkpoint()
        if saved is None and self.active:
            raise RunError(
                f"The run {self.name} trains in another process and has saved no checkpoint yet.",
                "Save one: run.save(), or Save now in the Monitor. Then ask again.",
            )
        if saved is None:
            raise RunError(f"The run {self.name} has saved no model.", "Start it again, or resume it.")
        return saved

    def _load(self, saved: Path, progress: Callable[[str, float | None], None] | None) -> LoadedModel:
        from ftkit.models.load import load_model
        from ftkit.recipe import Model

        recipe = self.recipe
        if recipe.method.saves == "model":
            return load_model(Model(source=str(saved)), recipe.compute, progress=progress)
        return load_model(recipe.model, recipe.compute, adapter=saved, progress=progress)


def start(recipe: Recipe | str | Path, *, rewards: Sequence[Callable[..., Any]] = ()) -> Run:
    """Start a run and return at once; where another one trains on this machine, it waits its turn.

    It lives in a thread of this process, or in one or several of its own where `compute.launch` says so.

    Parameters
    ----------
    recipe
        A Recipe, or the path of a YAML file with one.
    rewards
        Functions that reward replies, for objectives `grpo` and `rloo`: see `ftkit.train.rewards`. The Recipe
        keeps their names.

    Raises
    ------
    RecipeError
        When the Recipe cannot be read.
    RunError
        When the run folder cannot be made, or a reward function cannot be taken.
    """
    recipe = recipe if isinstance(recipe, Recipe) else Recipe.from_yaml(recipe)
    if rewards:
        from ftkit.train.rewards import with_functions

        recipe = with_functions(recipe, rewards)
    run = Run(RunFolder.create(recipe))
    run._begin(resume=False)
    return run


def attach(path: str | Path) -> Run:
    """The run in the folder `path`: finished, interrupted, or alive in this or another process.

    Raises
    ------
    RunError
        When `path` is not a run folder.
    """
    folder = RunFolder.open(path)
    return _here.get(folder.path) or Run(folder)


def list_runs(folder: str | Path = "runs") -> list[Run]:
    """Every run in `folder`, newest first."""
    base = resolved(folder)
    if not is_there(base) or not base.is_dir():
        return []
    found = [path for path in base.iterdir() if is_run_folder(path)]
    return [
        attach(path)
        for path in sorted(found, key=lambda path: (path / "recipe.yaml").stat().st_mtime, reverse=True)
    ]
