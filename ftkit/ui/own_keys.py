"""A box whose lists and buttons keep their keys in JupyterLab, which takes arrows and Enter for itself."""

from __future__ import annotations

import anywidget
import ipywidgets as widgets

from ftkit.ui import front


class _Keys(anywidget.AnyWidget):
    """Invisible: marks the box that it lies in."""

    _esm = front.asset("keys/widget.js")

    def __repr__(self) -> str:
        return "Keys()"


def own_keys(*children: widgets.Widget) -> widgets.VBox:
    """`children` below each other; while one of them has the focus, the notebook's shortcuts rest."""
    box = widgets.VBox([*children, _Keys()])
    box.add_class("ftk-own-keys")
    return box
