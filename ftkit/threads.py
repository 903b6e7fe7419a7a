"""Threads of ftkit's own."""

from __future__ import annotations

import importlib
import threading
from collections.abc import Callable
from typing import Any

_PACKAGES = ("recipe", "data", "models", "runs", "chat")
"""Those whose `__init__` imports modules of theirs. While one thread imports such a package and another one
of its modules, each waits for the other's lock; Python solves that by handing out a half-made module."""


def begin(function: Callable[..., object], *arguments: Any, name: str) -> threading.Thread:
    """Start `function` in a daemon thread, which may import whatever of ftkit it likes."""
    for package in _PACKAGES:
        importlib.import_module(f"ftkit.{package}")
    thread = threading.Thread(target=function, args=arguments, name=name, daemon=True)
    thread.start()
    return thread
