"""Where the front-end files are: beside the package in a checkout, inside it in a wheel."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import ipywidgets as widgets

_PACKAGE = Path(__file__).resolve().parents[1]
_PLACES = (_PACKAGE / "_front", _PACKAGE.parent / "widgets")


@cache
def asset(name: str) -> str:
    """The text of a front-end file.

    Parameters
    ----------
    name
        Path below `widgets/`, such as `"tokens/widget.js"`.

    Raises
    ------
    FileNotFoundError
        When neither the wheel's folder nor the checkout's has it.
    """
    for place in _PLACES:
        if (place / name).is_file():
            return (place / name).read_text(encoding="utf-8")
    msg = f"ftkit's front-end file {name} is in none of {', '.join(map(str, _PLACES))}; install ftkit again"
    raise FileNotFoundError(msg)


def css(name: str = "") -> str:
    """The shared theme, followed by a widget's own style sheet: what an anywidget takes as `_css`."""
    return asset("_shared/theme.css") + ("\n" + asset(name) if name else "")


def esm(name: str) -> str:
    """What all widgets share, followed by a widget's own module: what an anywidget takes as `_esm`."""
    return asset("_shared/dom.js") + "\n" + asset(name)


def theme() -> widgets.HTML:
    """An invisible widget that brings the theme: first child of every panel (each may stand alone)."""
    return widgets.HTML(f"<style>{css()}</style>", layout=widgets.Layout(display="none"))
