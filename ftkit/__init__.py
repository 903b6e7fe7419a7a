"""ftkit: fine-tune language models in a notebook.

    import ftkit

    run = ftkit.start(ftkit.Recipe(model="starter", data="starter:extract"))
    run.wait()

`ftkit.Lab()` does the same by clicking. Names are imported when first used: `import ftkit` is instant.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ftkit.telemetry import switch_off

if TYPE_CHECKING:
    from ftkit import recipe, ui
    from ftkit.chat import ChatSession
    from ftkit.recipe import Recipe
    from ftkit.runs import Run, attach, list_runs, start
    from ftkit.ui import Lab

__version__ = "0.1.0"

switch_off()

_WHERE = {
    "Recipe": "ftkit.recipe",
    "Run": "ftkit.runs",
    "attach": "ftkit.runs",
    "list_runs": "ftkit.runs",
    "start": "ftkit.runs",
    "ChatSession": "ftkit.chat",
    "Lab": "ftkit.ui",
}
_PACKAGES = ("chat", "data", "errors", "evaluate", "models", "recipe", "ui")

__all__ = ["ChatSession", "Lab", "Recipe", "Run", "attach", "list_runs", "recipe", "start", "ui"]


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(importlib.import_module(_WHERE[name]), name)
    if name in _PACKAGES:
        return importlib.import_module(f"ftkit.{name}")
    msg = f"module 'ftkit' has no attribute {name!r}"
    raise AttributeError(msg)


def __dir__() -> list[str]:
    return sorted({*globals(), *_WHERE, *_PACKAGES})
