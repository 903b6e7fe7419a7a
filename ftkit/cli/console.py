"""What the commands print with: two rich consoles, and text that is safe to print whoever wrote it."""

from __future__ import annotations

import unicodedata

from rich.console import Console
from rich.markup import escape

from ftkit.errors import FtkitError

out = Console(highlight=False, soft_wrap=True)
err = Console(highlight=False, soft_wrap=True, stderr=True)


def show_error(error: FtkitError) -> None:
    """Print what is wrong, and below it what to do."""
    err.print(f"[bold red]error:[/] {escape(printable(error.message))}")
    if error.advice:
        err.print(escape(printable(error.advice)))
    if error.__cause__ is not None and not isinstance(error.__cause__, FtkitError):
        err.print("Give --debug to see the traceback.", style="dim")


def printable(text: str) -> str:
    """`text` without control characters: a model's reply or a data row must not steer the terminal."""
    return "".join(char for char in text if char in "\n\t" or unicodedata.category(char) != "Cc")
