"""The panels: a Recipe by clicking. Names are imported when first used; none of them loads torch."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ftkit.ui.panels.chat import ChatPanel
    from ftkit.ui.panels.monitor import MonitorPanel
    from ftkit.ui.tokens import TokenView
    from ftkit.ui.workspace import Workspace

_WHERE = {
    "ChatPanel": "ftkit.ui.panels.chat",
    "MonitorPanel": "ftkit.ui.panels.monitor",
    "TokenView": "ftkit.ui.tokens",
    "Workspace": "ftkit.ui.workspace",
}

__all__ = [
    "ChatPanel",
    "MonitorPanel",
    "TokenView",
    "Workspace",
]


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(importlib.import_module(_WHERE[name]), name)
    msg = f"module 'ftkit.ui' has no attribute {name!r}"
    raise AttributeError(msg)


def __dir__() -> list[str]:
    return sorted({*globals(), *_WHERE})
