"""`ftkit run`: train by a recipe."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.markup import escape

from ftkit.cli.console import out
from ftkit.cli.follow import follow, report_stop
from ftkit.recipe import Recipe


def run(recipe: Path, changes: Sequence[tuple[str, Any]]) -> int:
    """Train by the recipe in a file, with some fields changed, and show it until it ends.

    The changes are made one after the other, so that `method=lora` may come before `method.rank=8`.
    """
    wanted = Recipe.from_yaml(recipe)
    for field, value in changes:
        wanted = wanted.replace({field: value})

    from ftkit.runs import start

    started = start(wanted)
    out.print(f"Run folder: {escape(str(started.path))}")
    if not follow(started):
        return report_stop(started)
    out.print(f"[green]Finished.[/] Talk to it: [bold]ftkit chat {escape(str(started.path))}[/]")
    return 0
