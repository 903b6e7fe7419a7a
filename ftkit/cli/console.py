"""What the commands print with: two rich consoles, and text that is safe to print whoever wrote it."""

from __future__ import annotations

import unicodedata

from rich.console import Console
from rich.markup import escape

from ftkit.errors import FtkitError

out = Console(highlight=False)
err = Console(highlight=False, stderr=True)


def show_error(error: FtkitError) -> None:
    """Print what is wrong, and below it what to do."""
    err.print(f"[bold red]error:[/] {escape(printable(error.message))}")
    if error.advice:
        err.print(escape(printable(error.advice)))


def printable(text: str) -> str:
    """`text` without control characters: a model's reply or a data row must not steer the terminal."""
    return "".join(char for char in text if char in "\n\t" or unicodedata.category(char) != "Cc")
