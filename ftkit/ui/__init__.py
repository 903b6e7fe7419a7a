"""The panels: a Recipe by clicking. Names are imported when first used; none of them loads torch."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ftkit.ui.lab import Lab
    from ftkit.ui.panels.chat import ChatPanel
    from ftkit.ui.panels.data import DataPanel
    from ftkit.ui.panels.model import ModelPanel
    from ftkit.ui.panels.monitor import MonitorPanel
    from ftkit.ui.panels.train import TrainPanel
    from ftkit.ui.tokens import TokenView
    from ftkit.ui.workspace import Workspace

_WHERE = {
    "ChatPanel": "ftkit.ui.panels.chat",
    "DataPanel": "ftkit.ui.panels.data",
    "Lab": "ftkit.ui.lab",
    "ModelPanel": "ftkit.ui.panels.model",
    "MonitorPanel": "ftkit.ui.panels.monitor",
    "TokenView": "ftkit.ui.tokens",
    "TrainPanel": "ftkit.ui.panels.train",
    "Workspace": "ftkit.ui.workspace",
}

__all__ = [
    "ChatPanel",
    "DataPanel",
    "Lab",
    "ModelPanel",
    "MonitorPanel",
    "TokenView",
    "TrainPanel",
    "Workspace",
]


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(importlib.import_module(_WHERE[name]), name)
    msg = f"module 'ftkit.ui' has no attribute {name!r}"
    raise AttributeError(msg)


def __dir__() -> list[str]:
    return sorted({*globals(), *_WHERE})
