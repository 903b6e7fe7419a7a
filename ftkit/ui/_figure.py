"""What the run's figure is made of: traces and layout as plain dictionaries, without importing plotly.

The loss on top, four small charts below it: learning rate, gradient norm, memory, tokens a second. Colours
are mid-tones that read on white and on black, because a figure cannot see the notebook's theme; where
`widgets/chart/style.css` applies, text and lines take the theme's own colours.
"""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import Any

from ftkit.ui._history import History

TEXT = "#808790"
GRID = "rgba(128, 128, 128, 0.22)"
HEIGHT = 470

_BLUE, _ORANGE, _PURPLE, _TEAL, _GREEN, _PINK, _GREY = (
    "#3d8fe0",
    "#f0883e",
    "#9b7fd4",
    "#2aa198",
    "#5aa658",
    "#e0679b",
    "#8291a3",
)


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


CURVES = (
    Curve("loss", "train loss", "", _BLUE, "%{y:.4f}", 1.2, 0.5),
    Curve("loss_smooth", "smoothed", "", _BLUE, "%{y:.4f}", 2.4),
    Curve("eval_loss", "eval loss", "", _ORANGE, "%{y:.4f}", 2.0),
    Curve("learning_rate", "learning rate", "2", _PURPLE, "%{y:.3e}"),
    Curve("grad_norm", "gradient norm", "3", _TEAL, "%{y:.3f}"),
    Curve("memory_gb", "process memory", "4", _GREY, "%{y:.2f} GB"),
    Curve("gpu_memory_gb", "GPU memory", "4", _PINK, "%{y:.2f} GB"),
    Curve("tokens_per_second", "tokens/s", "5", _GREEN, "%{y:,.0f} tokens/s"),
)
AXES = ("", "2", "3", "4", "5")
_SMALL = (
    ("2", "Learning rate"),
    ("3", "Gradient norm"),
    ("4", "Memory (GB)"),
    ("5", "Tokens per second"),
)
_WITH_GPU = f'GB: <span style="color:{_GREY}">process</span>, <span style="color:{_PINK}">GPU</span>'
_MESSAGE = len(_SMALL)  # index of the annotation that says why the figure is empty
_MEMORY = 2
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
    """The parts of a trace that change: its points and how they are drawn."""
    x, y = history.points(curve.name)
    few = len(x) <= 40 and curve.name != "loss_smooth"
    marked = few or curve.name == "eval_loss"
    return {"x": x, "y": y, "mode": "lines+markers" if marked else "lines", "visible": len(x) > 0}


def traces(history: History) -> list[dict[str, Any]]:
    """All traces, whole."""
    return [
        {
            "type": "scatter",
            "name": curve.label,
            "xaxis": f"x{curve.axis}",
            "yaxis": f"y{curve.axis}",
            "line": {"color": curve.colour, "width": curve.width},
            "marker": {"color": curve.colour, "size": 7 if curve.name == "eval_loss" else 4},
            "opacity": curve.opacity,
            "showlegend": curve.axis == "",
            "hovertemplate": f"{curve.label} {curve.hover}<extra></extra>",
        }
        | trace(curve, history)
        for curve in CURVES
    ]


def layout(history: History, *, title: str = "", log: bool = False, message: str = "") -> dict[str, Any]:
    """The whole layout. `message` stands in the middle while there is nothing to draw."""
    axes: dict[str, Any] = {"xaxis": _axis("", "x"), "yaxis": _axis("", "y")}
    axes["xaxis"] |= {"title": {"text": "step", "standoff": 4}, "domain": [0.0, 1.0]}
    axes["yaxis"] |= {
        "title": {"text": "loss", "standoff": 6},
        "domain": [0.42, 1.0],
        "type": "log" if log else "linear",
    }
    notes = []
    for place, (axis, text) in enumerate(_SMALL):
        left = place * 0.26
        axes[f"xaxis{axis}"] = _axis(axis, "x") | {"domain": [left, left + 0.22], "nticks": 4}
        axes[f"yaxis{axis}"] = _axis(axis, "y") | {"domain": [0.0, 0.21], "nticks": 4}
        notes.append(
            {
                "text": text,
                "x": left,
                "y": 0.235,
                "xanchor": "left",
                "yanchor": "bottom",
                "font": {"size": 12},
            }
        )
    notes.append({"text": message, "x": 0.5, "y": 0.71, "font": {"size": 15}})
    for note in notes:
        note |= {"showarrow": False, "xref": "paper", "yref": "paper"}
    figure: dict[str, Any] = axes | {
        "template": "none",
        "autosize": True,
        "height": HEIGHT,
        "margin": {"l": 58, "r": 14, "t": 62 if title else 34, "b": 30},
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
    for path, value in changing(history, message).items():
        _put(figure, path, value)
    return figure


def changing(history: History, message: str) -> dict[str, Any]:
    """The parts of the layout that depend on what there is to draw, as plotly's dotted paths."""
    drawn = {curve.axis for curve in CURVES if history.has(curve.name)}
    parts: dict[str, Any] = {
        f"{letter}axis{axis}.showticklabels": axis in drawn for axis in AXES for letter in "xy"
    }
    has_gpu = history.has("gpu_memory_gb")
    parts[f"annotations[{_MEMORY}].text"] = _WITH_GPU if has_gpu else _SMALL[_MEMORY][1]
    parts[f"annotations[{_MESSAGE}].text"] = message if history.empty else ""
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
    place, name = path.split(".")
    if "[" in place:
        name_of_list, index = place.rstrip("]").split("[")
        figure[name_of_list][int(index)][name] = value
    else:
        figure[place][name] = value
