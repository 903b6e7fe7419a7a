"""What the commands print with: two rich consoles, and text that is safe to print whoever wrote it."""

from __future__ import annotations

import unicodedata

from rich.console import Console
from rich.markup import escape

from ftkit.errors import FtkitError

out = Console(highlight=False, soft_wrap=True)
err = Console(highlight=False, soft_wrap=True, stderr=True)
_TURNING = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
"""Marks of direction that make a name read as another one."""


def show_error(error: FtkitError) -> None:
    """Print what is wrong, and below it what to do."""
    err.print(f"[bold red]error:[/] {escape(printable(error.message))}")
    if error.advice:
        err.print(escape(printable(error.advice)))
    if error.__cause__ is not None and not isinstance(error.__cause__, FtkitError):
        err.print("Give --debug to see the traceback.", style="dim")


def printable(text: str) -> str:
    """A stranger's `text` without characters that steer a terminal or turn the order of others."""
    return "".join(char for char in text if char in "\n\t" or not _steers(char))


def _steers(char: str) -> bool:
    return unicodedata.category(char) in ("Cc", "Cs") or char in _TURNING
