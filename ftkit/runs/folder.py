"""The run folder: what a run leaves on disk, and the only thing that charts, history and resume read."""

from __future__ import annotations

import json
import os
import re
import tempfile
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil

from ftkit.errors import RunError
from ftkit.recipe import Recipe
from ftkit.runs.events import EventLog

ENDED = frozenset({"finished", "stopped", "failed", "interrupted"})
"""States after which nothing more happens by itself."""


class RunFolder:
    """Paths inside a run folder, its Recipe and its events."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.log = EventLog(path / "events.jsonl")

    @classmethod
    def create(cls, recipe: Recipe) -> RunFolder:
        """Make a new folder for `recipe` and write the Recipe into it.

        Raises
        ------
        RunError
            When the chosen name is taken or the folder cannot be made.
        """
        base = recipe.output.folder.expanduser().resolve()
        named = recipe.output.name is not None
        stem = recipe.output.name or _made_up_name(recipe)
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
            folder.write("recipe.yaml", recipe.to_yaml())
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
        folder = cls(Path(path).expanduser().resolve())
        if not is_run_folder(folder.path):
            near = (
                [p.name for p in folder.path.parent.glob("*") if is_run_folder(p)]
                if folder.path.parent.exists()
                else []
            )
            advice = (
                f"Runs there: {', '.join(sorted(near)[:8])}."
                if near
                else "ftkit.list_runs() shows the runs there are."
            )
            raise RunError(f"{folder.path} is not a run folder.", advice)
        return folder

    def recipe(self) -> Recipe:
        """The Recipe that the run carries out."""
        return Recipe.from_yaml(self.path / "recipe.yaml")

    def write(self, name: str, text: str) -> None:
        """Write a file whole or not at all: under a temporary name, flushed to disk, then renamed."""
        descriptor, temporary = tempfile.mkstemp(dir=self.path, prefix=f".{name}-")
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(self.path / name)

    def write_json(self, name: str, value: Any) -> None:
        """Write `value` as indented JSON, whole or not at all."""
        self.write(name, json.dumps(value, indent=2, ensure_ascii=False) + "\n")

    def last_checkpoint(self) -> Path | None:
        """The newest checkpoint that Trainer finished writing, or None."""
        found = [
            path
            for path in (self.path / "checkpoints").glob("checkpoint-*")
            if re.fullmatch(r"checkpoint-\d+", path.name) and (path / "trainer_state.json").is_file()
        ]
        return max(found, key=lambda path: int(path.name.split("-")[1]), default=None)

    def claim(self) -> None:
        """Record that this process carries out the run."""
        me = psutil.Process()
        self.write_json("process.json", {"pid": me.pid, "started": me.create_time()})

    def owner_alive(self) -> bool:
        """Whether the process that carries out the run still lives on this machine."""
        try:
            owner = json.loads((self.path / "process.json").read_text(encoding="utf-8"))
            return abs(psutil.Process(owner["pid"]).create_time() - owner["started"]) < 1.0
        except (OSError, ValueError, KeyError, TypeError, psutil.Error):
            return False

    def request(self, wish: str) -> None:
        """Leave a wish (`pause`, `run` or `stop`) for the process that carries out the run."""
        self.write("wish", wish)

    def wish(self) -> str:
        """The last wish left in the folder, or an empty string."""
        try:
            return (self.path / "wish").read_text(encoding="utf-8").strip()
        except OSError:
            return ""


def is_run_folder(path: Path) -> bool:
    """Whether `path` holds a run."""
    return (path / "recipe.yaml").is_file() and (path / "events.jsonl").is_file()


def _made_up_name(recipe: Recipe) -> str:
    subject = (
        re.sub(r"[^\w-]+", "-", Path(recipe.data.source.replace("starter:", "")).stem).strip("-")[:40]
        or "run"
    )
    return f"{subject}-{datetime.now():%Y%m%d-%H%M%S}"
