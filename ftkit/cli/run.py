"""`ftkit run`: train by a recipe, or go on with a run that was stopped."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from ftkit.cli.console import out, printable
from ftkit.cli.follow import follow, report_stop
from ftkit.errors import RunError
from ftkit.recipe import Recipe

if TYPE_CHECKING:
    from ftkit.runs import Run


def run(what: Path, changes: Sequence[tuple[str, Any]], *, fit: bool = False) -> int:
    """Train, show it until it ends, and return the exit status.

    Parameters
    ----------
    what
        A recipe's YAML file, or the folder of a run to go on with.
    changes
        Fields of the recipe to change, made one after the other, so that `method=lora` may come before
        `method.rank=8`.
    fit
        Make the recipe fit the memory that is free, where it does not.
    """
    started = _resume(what, changes) if what.is_dir() else _start(what, changes, fit)
    out.print(f"Run folder: {escape(printable(str(started.path)))}")
    if not follow(started):
        return report_stop(started)
    out.print(f"[green]Finished.[/] Talk to it: [bold]ftkit chat {escape(printable(str(started.path)))}[/]")
    return 0


def _start(path: Path, changes: Sequence[tuple[str, Any]], fit: bool) -> Run:
    recipe = Recipe.from_yaml(path)
    for field, value in changes:
        recipe = recipe.replace({field: value})

    if fit:
        from ftkit.models import fit_to_memory

        found = fit_to_memory(recipe)
        out.print(escape(printable(found.reason)))
        recipe = found.recipe

    from ftkit.runs import start

    return start(recipe)


def _resume(folder: Path, changes: Sequence[tuple[str, Any]]) -> Run:
    from ftkit.runs import attach

    stopped = attach(folder)
    if changes:
        raise RunError(
            f"{folder} is a run: its recipe is what it is.",
            f"Leave --set out to go on with it, or start a new run from {folder / 'recipe.yaml'}.",
        )
    if stopped.active:
        raise RunError(f"The run {stopped.name} is still {stopped.status}.", "Wait for it to end.")
    return stopped.resume()
