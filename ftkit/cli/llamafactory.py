"""`ftkit import`: a file of LLaMA-Factory as a Recipe, and what its keys became; `ftkit export`: back."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from ftkit.cli.console import err, printable
from ftkit.cli.console import out as console
from ftkit.errors import RecipeError
from ftkit.recipe import Recipe, llamafactory

if TYPE_CHECKING:
    from ftkit.recipe.llamafactory import Import


def import_file(
    path: Path, *, out: Path | None = None, overwrite: bool = False, as_json: bool = False
) -> int:
    """Print what each key became, write the Recipe, and return 0, or 1 where there are errors.

    Raises
    ------
    RecipeError
        When the file cannot be read, or `out` cannot be written.
    """
    found = llamafactory.load(path)
    if as_json:
        print(json.dumps(found.to_dict(), ensure_ascii=False))
    else:
        _print(found)
    if found.recipe is None:
        return 1
    if out is not None:
        recipe = found.checked()
        _write(out, recipe.to_yaml, overwrite)
        if not as_json:
            console.print(f"Wrote {escape(str(out))}.")
    return 0


def export_file(path: Path, *, out: Path | None = None, overwrite: bool = False) -> int:
    """Print or write the LLaMA-Factory file of a recipe; what that cannot say stands in it as a comment.

    Raises
    ------
    RecipeError
        When there is no recipe, or `out` cannot be written.
    """
    recipe = Recipe.from_yaml(path / "recipe.yaml" if path.is_dir() else path)
    written = llamafactory.to_yaml(recipe)
    if out is None:
        print(written, end="")
        return 0
    _write(out, lambda file: file.write_text(str(written), encoding="utf-8"), overwrite)
    _print_part("not said there", "yellow", written.left_out)
    console.print(f"Wrote {escape(str(out))}.")
    return 0


def _write(path: Path, write: Callable[[Path], object], overwrite: bool) -> None:
    if path.exists() and not overwrite:
        raise RecipeError(f"There is a file {path} already.", "Give --overwrite to replace it.")
    try:
        write(path)
    except OSError as error:
        raise RecipeError(f"{path} cannot be written: {error.strerror}.", "Choose another path.") from None


def _print(found: Import) -> None:
    console.print(f"A file of LLaMA-Factory for: [bold]{found.kind}[/]")
    _print_part("becomes", "green", found.mapped)
    _print_part("as ftkit does anyway", "dim", found.honoured)
    _print_part("not applicable", "yellow", found.not_applicable)
    _print_part("LLaMA-Factory's own value, where the file has none", "cyan", found.assumed)
    _print_part("settings of replies", "cyan", {name: str(value) for name, value in found.settings.items()})
    for problem in found.errors:
        keys = escape(printable(", ".join(problem.keys)))
        err.print(f"[bold red]error:[/] [bold]{keys}[/]: {escape(printable(problem.message))}")
        if problem.advice:
            err.print(escape(printable(problem.advice)))
    if found.recipe is not None:
        for line in found.advice:
            console.print(escape(line))


def _print_part(title: str, colour: str, entries: Mapping[str, str]) -> None:
    if not entries:
        return
    table = Table(box=None, pad_edge=False, show_header=False, title=title, title_justify="left")
    table.title_style = f"bold {colour}"
    table.add_column(style=colour, no_wrap=True)
    table.add_column(overflow="fold")
    for key, text in entries.items():
        table.add_row(escape(printable(key)), escape(printable(text)))
    console.print(table)
