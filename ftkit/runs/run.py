"""A Run: the handle by which a person watches and steers a run, live or long over."""

from __future__ import annotations

import asyncio
import importlib
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftkit.errors import RunError
from ftkit.recipe import Recipe
from ftkit.runs.folder import ENDED, RunFolder, is_run_folder
from ftkit.runs.launch import Launch
from ftkit.runs.metrics import table
from ftkit.runs.summary import Progress, RunFailure, Summary

if TYPE_CHECKING:
    import pandas as pd

    from ftkit.models.load import LoadedModel

_here: dict[Path, Run] = {}
"""The runs that this process has started, by folder."""


class Run:
    """One run. Made by `ftkit.start`, `ftkit.attach` and `ftkit.list_runs`, not by hand.

    All that is asked of it is answered from the run folder, so a run started in another kernel, or before a
    restart, shows the same.
    """

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        self._launch: Launch | None = None
        self._opened: LoadedModel | None = None

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
        if self._launch is None and self._folder.owner_alive():
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
    def summary(self) -> Summary:
        """What the run's events add up to: notes, curves and all else that the panels show."""
        return self._read()

    def events(self, since: int = 0) -> list[dict[str, Any]]:
        """Events numbered `since` and later; `n` is an event's number. See `ftkit.runs.events`."""
        return self._folder.log.read(since)

    def pause(self) -> None:
        """Hold after the current step; the model stays loaded and can be talked to. Returns at once."""
        self._steer("pause")

    def resume(self) -> Run:
        """Go on: after a pause, or from the last checkpoint after a stop, a failure or a lost kernel.

        Raises
        ------
        RunError
            When the run is finished: there is nothing left to do.
        """
        status = self.status
        if status not in ENDED:
            self._steer("run")
            return self
        if status == "finished":
            raise RunError(f"The run {self.name} is finished.", "To train further, start a new run.")
        self._begin(self._folder.last_checkpoint())
        return self

    def stop(self) -> None:
        """Finish the current step, save, end. Returns at once; `wait()` waits for the end."""
        self._steer("stop")

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

    def open_model(self, progress: Callable[[str, float | None], None] | None = None) -> LoadedModel:
        """The live model, or the result loaded from the run folder (its last checkpoint if it never ended).

        Raises
        ------
        RunError
            When there is nothing saved to load.
        """
        if self.loaded is None:
            self._opened = self._load(progress)
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

    def _begin(self, resume_from: Path | None) -> None:
        for other in _here.values():
            other.release_model()
        self._launch = Launch(self._folder, resume_from)
        _here[self.path] = self
        self._launch.begin()

    def _steer(self, wish: str) -> None:
        if self._launch is not None and self._launch.alive:
            self._launch.wish(wish)
        elif self.active:
            self._folder.request(wish)

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

    def _load(self, progress: Callable[[str, float | None], None] | None) -> LoadedModel:
        from ftkit.models.load import load_model
        from ftkit.recipe import Model
        from ftkit.train.fit import output_folder

        recipe = self.recipe
        result = output_folder(recipe, self.path)
        saved = result if result.exists() else self._folder.last_checkpoint()
        if saved is None:
            raise RunError(f"The run {self.name} has saved no model.", "Start it again, or resume it.")
        if recipe.method.type == "full":
            return load_model(Model(source=str(saved)), recipe.compute, progress=progress)
        return load_model(recipe.model, recipe.compute, adapter=saved, progress=progress)


def start(recipe: Recipe | str | Path) -> Run:
    """Start a run in a thread of this process and return at once; a second one waits its turn.

    Parameters
    ----------
    recipe
        A Recipe, or the path of a YAML file with one.

    Raises
    ------
    RecipeError
        When the Recipe cannot be read.
    RunError
        When the run folder cannot be made.
    """
    recipe = recipe if isinstance(recipe, Recipe) else Recipe.from_yaml(recipe)
    run = Run(RunFolder.create(recipe))
    run._begin(None)
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
    base = Path(folder).expanduser().resolve()
    if not base.is_dir():
        return []
    found = [path for path in base.iterdir() if is_run_folder(path)]
    return [
        attach(path)
        for path in sorted(found, key=lambda path: (path / "recipe.yaml").stat().st_mtime, reverse=True)
    ]
