"""The run folder: what a run leaves on disk, and the only thing that charts, history and resume read."""

from __future__ import annotations

import contextlib
import hashlib
import json
import platform
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil
from filelock import FileLock, Timeout

from ftkit.errors import RunError
from ftkit.folders import is_there, resolved
from ftkit.manifest import sweep, write_whole
from ftkit.recipe import Recipe
from ftkit.redact import redact
from ftkit.runs.events import EventLog
from ftkit.runs.wishes import Wishes
from ftkit.train.checkpoints import Checkpoints

ENDED = frozenset({"finished", "stopped", "failed", "interrupted"})
"""States after which nothing more happens by itself."""


SILENCE = 300.0
"""Seconds without an event after which a run on another machine counts as interrupted."""


_LONGEST_RECIPE = 1 << 20
_A_MOMENT = 0.25


class RunFolder:
    """Paths inside a run folder, its Recipe and its events."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.log = EventLog(path / "events.jsonl")
        self._recipe: str | None = None

    @classmethod
    def create(cls, recipe: Recipe, stem: str | None = None) -> RunFolder:
        """Make a new folder for `recipe` and write the Recipe into it.

        Where the Recipe names none, it is called `stem`, or by its data and the time; a number follows where
        that is taken.

        Raises
        ------
        RunError
            When the chosen name is taken or the folder cannot be made.
        """
        base = resolved(recipe.output.folder)
        named = recipe.output.name is not None
        stem = recipe.output.name or stem or _made_up_name(recipe)
        for attempt in range(1, 1000):
            path = base / (stem if attempt == 1 else f"{stem}-{attempt}")
            try:
                path.mkdir(parents=True, exist_ok=False)
            except FileExistsError:
                if named:
                    raise RunError(
                        f"There is already a run at {path}.", "Choose another output.name, or leave it empty."
                    ) from None
                continue
            except OSError as error:
                raise RunError(
                    f"The run folder {path} cannot be made: {error}", "Change output.folder."
                ) from None
            folder = cls(path)
            text = redact(recipe.to_yaml())
            folder.write("recipe.yaml", text)
            folder.log.append("recipe", text=text, sha256=_digest(text))
            return folder
        raise RunError(f"No free name for a run in {base}.")

    @classmethod
    def open(cls, path: str | Path) -> RunFolder:
        """An existing run folder.

        Raises
        ------
        RunError
            When `path` is not one.
        """
        folder = cls(resolved(path))
        if not is_run_folder(folder.path):
            near = (
                [p.name for p in folder.path.parent.glob("*") if is_run_folder(p)]
                if is_there(folder.path.parent)
                else []
            )
            advice = (
                f"Runs there: {', '.join(sorted(near)[:8])}."
                if near
                else "ftkit.list_runs() shows the runs there are."
            )
            raise RunError(f"{folder.path} is not a run folder.", advice)
        sweep(folder.path)
        return folder

    def recipe(self) -> Recipe:
        """The Recipe that the run carries out.

        It stands in `recipe.yaml` and in the log's first event: where the file differs, from damage or an
        editor, the log counts, and the file is put right. A run is what it was started as.
        """
        file = self.path / "recipe.yaml"
        text = self._recorded_recipe()
        if text is None:
            return Recipe.from_yaml(file)
        try:
            same = file.read_text(encoding="utf-8") == text
        except (OSError, UnicodeDecodeError):
            same = False
        if not same:
            with contextlib.suppress(OSError):
                self.write("recipe.yaml", text)
        return Recipe.from_yaml(text)

    def _recorded_recipe(self) -> str | None:
        """The Recipe's text in the log, where it is whole; runs of older versions have none there."""
        if self._recipe is None:
            try:
                with self.log.path.open("rb") as file:
                    first = json.loads(file.readline(_LONGEST_RECIPE))
                text = first["text"]
                if first["kind"] == "recipe" and first["sha256"] == _digest(text):
                    self._recipe = text
            except (OSError, ValueError, KeyError, TypeError, AttributeError):
                return None
        return self._recipe

    def write(self, name: str, text: str) -> None:
        """Write a file whole or not at all, without what looks like a secret."""
        write_whole(self.path / name, redact(text).encode())

    def write_json(self, name: str, value: Any) -> None:
        """Write `value` as indented JSON, whole or not at all."""
        self.write(name, json.dumps(value, indent=2, ensure_ascii=False) + "\n")

    def last_checkpoint(self) -> Path | None:
        """The newest sound checkpoint, or None."""
        found, _ = Checkpoints(self.path / "checkpoints").newest()
        return found.path if found else None

    @contextlib.contextmanager
    def carried_out(self) -> Iterator[None]:
        """Be the one process that carries out the run; another one's attempt is refused meanwhile.

        Raises
        ------
        RunError
            When the run is being carried out already.
        """
        lock = FileLock(self.path / ".lock", thread_local=False)
        try:
            lock.acquire(timeout=5)
        except Timeout:
            raise RunError(
                f"The run {self.path.name} is being carried out by another process.",
                "Attach to it with ftkit.attach(), or stop it there first.",
            ) from None
        try:
            sweep(self.path, folders=("adapter", "model"))
            yield
        finally:
            lock.release()

    def claim(self, process: int, launch: str) -> None:
        """Record which process carries out the run, and how it was launched (`thread`, `process`)."""
        owner = psutil.Process(process)
        facts = {
            "pid": owner.pid,
            "started": owner.create_time(),
            "machine": platform.node(),
            "launch": launch,
        }
        self.write_json("process.json", facts)

    def owner(self) -> Owner | None:
        """The process that carries out the run or did so last; None where nothing is known of one."""
        try:
            found = json.loads((self.path / "process.json").read_text(encoding="utf-8"))
            return Owner(
                int(found["pid"]),
                float(found["started"]),
                str(found.get("machine", platform.node())),
                str(found.get("launch", "thread")),
            )
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def owner_alive(self) -> bool:
        """Whether the process that carries out the run still lives.

        Of a process on another machine that shares the folder nothing is known but what it writes: it counts
        as alive while it has written something in the last minutes.
        """
        owner = self.owner()
        if owner is None:
            return self._locked()
        if owner.machine == platform.node():
            return owner.process() is not None
        try:
            return time.time() - self.log.path.stat().st_mtime < SILENCE
        except OSError:
            return False

    def _locked(self) -> bool:
        """Whether somebody on this machine carries out the run.

        One who asks holds the lock for a moment: who asks at the same time must not take that for a run.
        """
        lock = FileLock(self.path / ".lock", thread_local=False)
        try:
            with lock.acquire(timeout=_A_MOMENT, poll_interval=_A_MOMENT / 50):
                return False
        except Timeout:
            return True
        except OSError:
            return False

    def wishes(self, start: int | None = None) -> Wishes:
        """What is asked of the run; see `ftkit.runs.wishes`."""
        return Wishes(self.path / "wishes.jsonl", start)


@dataclass(frozen=True)
class Owner:
    """A process that carries out a run: its number alone may be another process's by now."""

    pid: int
    started: float
    machine: str
    launch: str

    def process(self) -> psutil.Process | None:
        """The process, if it lives."""
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.started) < 1.0
            return process if same and process.status() != psutil.STATUS_ZOMBIE else None
        except psutil.Error:
            return None


def is_run_folder(path: Path) -> bool:
    """Whether `path` holds a run."""
    return is_there(path) and (path / "recipe.yaml").is_file() and (path / "events.jsonl").is_file()


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _made_up_name(recipe: Recipe) -> str:
    subject = (
        re.sub(r"[^\w-]+", "-", Path(recipe.data.source.replace("starter:", "")).stem).strip("-")[:40]
        or "run"
    )
    return f"{subject}-{datetime.now():%Y%m%d-%H%M%S}"
