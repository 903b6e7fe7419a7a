"""A branch: a new run that goes on from a checkpoint of another one, with some settings changed."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

from ftkit.errors import RunError
from ftkit.manifest import set_aside
from ftkit.recipe import Recipe
from ftkit.runs.folder import RunFolder
from ftkit.train.checkpoints import Checkpoint, Checkpoints

if TYPE_CHECKING:
    from ftkit.runs.run import Run

FIXED = ("model", "method", "data")
"""Sections that a checkpoint's weights and its place in the data depend on."""


def branch_folder(of: RunFolder, step: int | None, changes: dict[str, Any]) -> RunFolder:
    """A run folder with a copy of a checkpoint, ready to be resumed; the other run is left as it is.

    Raises
    ------
    RunError
        When there is no such checkpoint, or `changes` touch what it depends on.
    RecipeError
        When the changed Recipe is none.
    """
    recipe = of.recipe()
    changed = recipe.replace({"output.name": None, **changes})
    _compatible(recipe, changed)
    source = _checkpoint(of, step)
    name = changed.output.name or f"{of.path.name}-from-{source.step}"
    folder = RunFolder.create(changed.replace({"output.folder": of.path.parent}), stem=name)
    try:
        target = folder.path / "checkpoints" / source.path.name
        target.parent.mkdir()
        shutil.copytree(source.path, target)
        folder.log.append("branch", of=str(of.path), step=source.step)
    except OSError as error:
        set_aside(folder.path)
        raise RunError(f"The checkpoint {source.path} cannot be copied: {error}.") from None
    return folder


def relatives(run: Run, most: int) -> list[Run]:
    """Runs to look at beside a run: those that it came from, nearest first, then its branches, newest first.

    Parameters
    ----------
    most
        At most so many.
    """
    from ftkit.runs.run import list_runs

    found: list[Run] = []
    older = run.origin
    while older is not None and older.path not in [run.path, *(one.path for one in found)]:
        found.append(older)
        older = older.origin
    if len(found) < most:
        known = [run.path, *(one.path for one in found)]
        others = (one for one in list_runs(run.path.parent) if one.path not in known)
        found += [one for one in others if (of := one.origin) is not None and of.path == run.path]
    return found[:most]


def _compatible(old: Recipe, new: Recipe) -> None:
    for section in FIXED:
        if getattr(old, section) != getattr(new, section):
            raise RunError(
                f"A branch keeps the run's {section}: its checkpoint depends on it.",
                "Change training or compute, or start a new run.",
            )
    if old.objective.type != new.objective.type:
        raise RunError("A branch keeps the run's objective.", "Start a new run for another one.")
    for field in ("batch_size", "batch_tokens", "gradient_accumulation_steps", "seed", "optimizer"):
        if getattr(old.training, field) != getattr(new.training, field):
            raise RunError(
                f"A branch keeps training.{field}: the checkpoint's place in the data or its optimizer state "
                "depends on it.",
                "Change the learning rate, the schedule, epochs or evaluations; or start a new run.",
            )


def _checkpoint(of: RunFolder, step: int | None) -> Checkpoint:
    there = Checkpoints(of.path / "checkpoints")
    if step is None:
        newest, _ = there.newest()
        if newest is None:
            raise RunError(f"The run {of.path.name} has no checkpoint yet.", "run.save() writes one.")
        return newest
    found = {one.step: one for one in there.all()}
    if step not in found:
        known = ", ".join(map(str, found)) or "none"
        raise RunError(f"The run {of.path.name} has no checkpoint of step {step}.", f"There are: {known}.")
    fault = found[step].fault(thorough=True)
    if fault is not None:
        raise RunError(f"The checkpoint of step {step} is damaged: {fault}.", "Take an earlier one.")
    return found[step]
