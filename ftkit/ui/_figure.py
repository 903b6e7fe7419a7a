"""What the run's figure is made of: traces and layout as plain dictionaries, without importing plotly.

The loss on top, also of the runs that this one came from or that branched from it; below it what preferences
and rewards have to tell, where a run has them; then four small charts: learning rate, gradient norm, memory,
tokens a second. Colours are mid-tones that read on white and on black, because a figure cannot see the
notebook's theme; where `widgets/chart/style.css` applies, text and lines take the theme's own colours.
"""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np

from ftkit.ui._history import History

TEXT = "#808790"
GRID = "rgba(128, 128, 128, 0.22)"

_BLUE, _ORANGE, _PURPLE, _TEAL, _GREEN, _PINK, _GREY = (
    "#3d8fe0",
    "#f0883e",
    "#9b7fd4",
    "#2aa198",
    "#5aa658",
    "#e0679b",
    "#8291a3",
)

OTHERS = (_GREEN, _PURPLE, _PINK, _TEAL)
"""Colours of the other runs whose losses are drawn with a run's own: the most there can be."""


@dataclass(frozen=True)
class Curve:
    """A trace: which curve of the history it draws, where and how."""

    name: str
    label: str
    axis: str  # "", "2", ... as in xaxis2
    colour: str
    hover: str
    width: float = 1.6
    opacity: float = 1.0
    beside: int | None = None  # of which of the other runs; None: of the run itself

    def is_in(self, changed: set[str]) -> bool:
        """Whether it is among what changed."""
        return self.name in changed if self.beside is None else "beside" in changed

    def of(self, history: History) -> History | None:
        """The history that it draws; None where there is no such run."""
        if self.beside is None:
            return history
        return history.beside[self.beside] if self.beside < len(history.beside) else None


CURVES = (
    Curve("loss", "train loss", "", _BLUE, "%{y:.4f}", 1.2, 0.5),
    Curve("loss_smooth", "smoothed", "", _BLUE, "%{y:.4f}", 2.4),
    Curve("eval_loss", "eval loss", "", _ORANGE, "%{y:.4f}", 2.0),
    Curve("learning_rate", "learning rate", "2", _PURPLE, "%{y:.3e}"),
    Curve("grad_norm", "gradient norm", "3", _TEAL, "%{y:.3f}"),
    Curve("memory_gb", "process memory", "4", _GREY, "%{y:.2f} GB"),
    Curve("gpu_memory_gb", "GPU memory", "4", _PINK, "%{y:.2f} GB"),
    Curve("tokens_per_second", "tokens/s", "5", _GREEN, "%{y:,.0f} tokens/s"),
    Curve("margin", "train margin", "6", _BLUE, "%{y:.3f}"),
    Curve("eval_margin", "held-out margin", "6", _ORANGE, "%{y:.3f}"),
    Curve("pair_accuracy", "train pairs", "7", _BLUE, "%{y:.0%}"),
    Curve("eval_pair_accuracy", "held-out pairs", "7", _ORANGE, "%{y:.0%}"),
    Curve("reward", "train reward", "8", _BLUE, "%{y:.3f}"),
    Curve("eval_reward", "held-out reward", "8", _ORANGE, "%{y:.3f}"),
    *(
        curve
        for place, colour in enumerate(OTHERS)
        for curve in (
            Curve("loss_smooth", "", "", colour, "%{y:.4f}", 1.8, beside=place),
            Curve("eval_loss", "", "", colour, "%{y:.4f}", 1.6, beside=place),
        )
    ),
)
AXES = ("", "2", "3", "4", "5", "6", "7", "8")
_SMALL = (
    ("2", "Learning rate"),
    ("3", "Gradient norm"),
    ("4", "Memory (GB)"),
    ("5", "Tokens per second"),
)
_EXTRA = (
    ("6", "Margin: chosen less rejected"),
    ("7", "Pairs told apart"),
    ("8", "Reward"),
)
_WITH_GPU = f'GB: <span style="color:{_GREY}">process</span>, <span style="color:{_PINK}">GPU</span>'
_MESSAGE = len(_SMALL)  # index of the annotation that says why the figure is empty
_MEMORY = 2
_TOP, _BOTTOM, _LOSS, _GAP, _ROW, _BETWEEN = 34, 30, 236, 85, 85, 60
"""Pixels: the margins, the loss, the room below it, a row of small charts, the room between two rows."""
_LINE = 19
"""Pixels of a line of the legend."""
_SMALL_NOTE = {"xanchor": "left", "yanchor": "bottom", "font": {"size": 12}}
_STEPS = {
    "unifiedhovertitle": {"text": "step %{x:,}"},
    "spikecolor": TEXT,
    "spikethickness": 1,
    "spikedash": "dot",
}


def plain(text: str) -> str:
    """Text that plotly shows as it is: it reads a subset of HTML, and TeX between dollar signs."""
    return escape(text, quote=False).replace("$", "&#36;")


def trace(curve: Curve, history: History) -> dict[str, Any]:
    """The parts of a trace that change: its points, its name and how they are drawn."""
    source = curve.of(history)
    x, y = source.points(curve.name) if source is not None else (np.empty(0), np.empty(0))
    few = len(x) <= 40 and curve.name != "loss_smooth"
    marked = few or curve.name.startswith("eval_")
    return {
        "x": x,
        "y": y,
        "mode": "lines+markers" if marked else "lines",
        "visible": len(x) > 0,
        "name": _name(curve, history),
    }


def _name(curve: Curve, history: History) -> str:
    """What the legend calls it: the curve, and where there are several runs the run's name, too."""
    source = curve.of(history)
    if source is None:
        return ""
    what = curve.label or {"loss_smooth": "smoothed", "eval_loss": "eval loss"}[curve.name]
    return f"{plain(shortened(source.name))}: {what}" if curve.axis == "" and history.beside else what


def shortened(name: str, most: int = 30) -> str:
    """A name that fits into a legend: its beginning and its end, which tell branches apart."""
    return name if len(name) <= most else f"{name[: most // 2]}…{name[-most // 2 + 1 :]}"


def traces(history: History) -> list[dict[str, Any]]:
    """All traces, whole."""
    return [
        {
            "type": "scatter",
            "xaxis": f"x{curve.axis}",
            "yaxis": f"y{curve.axis}",
            "line": {"color": curve.colour, "width": curve.width}
            | ({"dash": "dot"} if _dotted(curve) else {}),
            "marker": {"color": curve.colour, "size": 7 if curve.name == "eval_loss" else 4},
            "opacity": curve.opacity,
            "showlegend": curve.axis == "",
            # the name comes from the trace: written here, a run's name could ask for other data
            "hovertemplate": f"%{{fullData.name}} {curve.hover}<extra></extra>",
        }
        | trace(curve, history)
        for curve in CURVES
    ]


def _dotted(curve: Curve) -> bool:
    return curve.beside is not None and curve.name == "eval_loss"


def layout(history: History, *, title: str = "", log: bool = False, message: str = "") -> dict[str, Any]:
    """The whole layout. `message` stands in the middle while there is nothing to draw."""
    axes: dict[str, Any] = {"xaxis": _axis("", "x"), "yaxis": _axis("", "y")}
    axes["xaxis"] |= {"title": {"text": "step", "standoff": 4}, "domain": [0.0, 1.0]}
    axes["yaxis"] |= {"title": {"text": "loss", "standoff": 6}, "type": "log" if log else "linear"}
    notes: list[dict[str, Any]] = []
    for place, (axis, text) in enumerate(_SMALL):
        left = place * 0.26
        axes[f"xaxis{axis}"] = _axis(axis, "x") | {"domain": [left, left + 0.22], "nticks": 4}
        axes[f"yaxis{axis}"] = _axis(axis, "y") | {"nticks": 4}
        notes.append({"text": text, "x": left} | _SMALL_NOTE)
    notes.append({"text": message, "x": 0.5, "font": {"size": 15}})
    for axis, _ in _EXTRA:
        axes[f"xaxis{axis}"] = _axis(axis, "x") | {"nticks": 5}
        axes[f"yaxis{axis}"] = _axis(axis, "y") | {"nticks": 4, "rangemode": "normal"}
        notes.append(dict(_SMALL_NOTE))
    axes["yaxis7"] |= {"tickformat": ".0%", "range": [-0.05, 1.05], "autorange": False}
    for note in notes:
        note |= {"showarrow": False, "xref": "paper", "yref": "paper"}
    figure: dict[str, Any] = axes | {
        "template": "none",
        "autosize": True,
        "margin": {"l": 58, "r": 14, "b": _BOTTOM},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {
            "color": TEXT,
            "size": 12,
            "family": "system-ui, -apple-system, Segoe UI, Roboto, sans-serif",
        },
        "title": {
            "text": plain(title),
            "font": {"size": 14},
            "x": 0.0,
            "xref": "paper",
            "xanchor": "left",
            "y": 0.975,
            "yanchor": "top",
        },
        "legend": {
            "orientation": "h",
            "x": 0,
            "xanchor": "left",
            "y": 1.02,
            "yanchor": "bottom",
            "bgcolor": "rgba(0,0,0,0)",
        },
        "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": TEXT},
        "hovermode": "x unified",
        "uirevision": "keep",
        "annotations": notes,
    }
    for path, value in changing(history, message, titled=bool(title)).items():
        _put(figure, path, value)
    return figure


def changing(history: History, message: str, *, titled: bool = False) -> dict[str, Any]:
    """The parts of the layout that depend on what there is to draw, as plotly's dotted paths."""
    drawn = {
        curve.axis for curve in CURVES if (source := curve.of(history)) is not None and source.has(curve.name)
    }
    parts: dict[str, Any] = {
        f"{letter}axis{axis}.showticklabels": axis in drawn for axis in AXES for letter in "xy"
    }
    has_gpu = history.has("gpu_memory_gb")
    parts[f"annotations[{_MEMORY}].text"] = _WITH_GPU if has_gpu else _SMALL[_MEMORY][1]
    parts[f"annotations[{_MESSAGE}].text"] = message if history.empty else ""
    return parts | _places(drawn, len(history.beside), titled)


def _places(drawn: set[str], beside: int, titled: bool) -> dict[str, Any]:
    """Where each chart stands: the middle row is there for a run that has something to put into it."""
    there = [axis for axis, _ in _EXTRA if axis in drawn]
    below = _ROW + _BETWEEN if there else 0  # pixels that the middle row takes
    whole = _LOSS + _GAP + below + _ROW
    top = _TOP + 28 * titled + _LINE * beside
    parts: dict[str, Any] = {
        "height": top + whole + _BOTTOM,
        "margin.t": top,
        "yaxis.domain": [1 - _LOSS / whole, 1.0],
        f"annotations[{_MESSAGE}].y": 1 - _LOSS / whole / 2,
    }
    for place, (axis, _) in enumerate(_SMALL):
        parts[f"yaxis{axis}.domain"] = [0.0, _ROW / whole]
        parts[f"annotations[{place}].y"] = (_ROW + 10) / whole
    width = (1 - 0.06 * (len(there) - 1)) / max(len(there), 1)
    for place, (axis, text) in enumerate(_EXTRA, _MESSAGE + 1):
        shown = axis in there
        left = there.index(axis) * (width + 0.06) if shown else 0.0
        parts |= {
            f"xaxis{axis}.visible": shown,
            f"yaxis{axis}.visible": shown,
            f"xaxis{axis}.domain": [left, left + width] if shown else [0.0, 1.0],
            f"yaxis{axis}.domain": [(_ROW + _BETWEEN) / whole, (2 * _ROW + _BETWEEN) / whole],
            f"annotations[{place}].text": text if shown else "",
            f"annotations[{place}].x": left,
            f"annotations[{place}].y": (2 * _ROW + _BETWEEN + 10) / whole,
        }
    return parts


def _axis(axis: str, letter: str) -> dict[str, Any]:
    other = "y" if letter == "x" else "x"
    return {
        "anchor": f"{other}{axis}",
        "gridcolor": GRID,
        "zeroline": False,
        "showline": letter == "x",
        "linecolor": GRID,
        "tickfont": {"size": 12 if axis == "" else 11},
        "exponentformat": "e" if axis == "2" else "SI",
        "showgrid": letter == "y",
        "automargin": False,
        "rangemode": "tozero" if letter == "y" and axis else "normal",
    } | (_STEPS if letter == "x" else {})


def _put(figure: dict[str, Any], path: str, value: Any) -> None:
    place, _, name = path.rpartition(".")
    if not place:
        figure[name] = value
    elif "[" in place:
        name_of_list, index = place.rstrip("]").split("[")
        figure[name_of_list][int(index)][name] = value
    else:
        figure[place][name] = value
