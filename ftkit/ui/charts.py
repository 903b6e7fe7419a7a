"""The run's chart: live in a notebook (plotly, or SVG where plotly cannot load), a still figure elsewhere.

Importing this module imports plotly's FigureWidget, about a second: panels do it in a thread.
"""

from __future__ import annotations

import re
import threading
from copy import deepcopy
from typing import Any

import ipywidgets as widgets
import plotly.graph_objects as go
import traitlets
from IPython import get_ipython

from ftkit.ui import _figure, front
from ftkit.ui._history import Follower, History, with_relatives
from ftkit.ui.reopened import on_reopening
from ftkit.ui.svg_chart import SvgChart, empty_message


def _front_end() -> str:
    """Plotly's front-end module with two repairs behind it: see `widgets/chart/plotly_view.js`."""
    module = str(getattr(go.FigureWidget, "_esm", ""))  # without anywidget there is none
    exported = re.search(r"([\w$]+) as FigureView\b", module[max(module.rfind("export{"), 0) :])
    view = exported.group(1) if exported else "undefined"
    return f"{module}\nconst ftkFigureView = {view};\n{front.asset('chart/plotly_view.js')}"


class Carrier(widgets.Widget):
    """Brings plotly's module to a page: once for all charts, see `widgets/chart/once.js`."""

    module = traitlets.Unicode(_front_end()).tag(sync=True)

    _there: Carrier | None = None
    _making = threading.Lock()

    @classmethod
    def id(cls) -> str:
        """The model id of the one that all charts of this process share."""
        with cls._making:
            if cls._there is None or cls._there.comm is None:  # closed with all other widgets
                cls._there = cls()
            return str(cls._there.model_id)


class RunChart(go.FigureWidget):
    """A live chart of one run; it follows the run by itself until the run has ended.

    Parameters
    ----------
    run
        The run to follow, or None for an empty chart.
    history
        What was read of the run already; whoever hands it in also calls `draw`, the chart then follows
        nothing by itself.
    title
        Whether the run's name stands above the chart.

    Notes
    -----
    Plotly's widget sends its data once, when it opens, and afterwards only changes, which the front-end
    applies to its views but not to its model. So every `draw` sends the data twice: as state, for views that
    open later (a reload, a second cell), and as a change, for those that are open. The
    state goes first, otherwise each view answers with all of its arrays. A lock keeps `draw` out of
    `set_state`, during which ipywidgets would hold its messages back until they have lost their content.
    """

    _follower: Follower | None = None
    _css = front.css("chart/style.css")
    _esm = front.asset("chart/once.js")
    _plotly = traitlets.Unicode().tag(sync=True)

    def __init__(self, run: Any = None, *, history: History | None = None, title: bool = True) -> None:
        self._lock = threading.RLock()
        self._history = history or with_relatives(run)
        self._titled = title
        self._log = False
        self._layout_sent: dict[str, Any] = {}
        super().__init__(data=_figure.traces(self._history), layout=self._new_layout())
        self._config = {
            "responsive": True,
            "displaylogo": False,
            "showSendToCloud": False,  # plotly 7 would offer to upload the chart
            "modeBarButtonsToRemove": ["select2d", "lasso2d", "autoScale2d"],
        }
        self.add_class("ftk-widget")
        self.add_class("ftk-run-chart")
        on_reopening(self, lambda: self.draw(final=True))
        if run is not None and history is None:
            self.follow(run)

    def __repr__(self) -> str:
        return f"RunChart({getattr(self._history.run, 'name', None)!r})"

    def follow(self, run: Any, history: History | None = None) -> None:
        """Show another run. With a `history` its owner calls `draw`; without, the chart follows by itself."""
        with self._lock:
            self._end_following()
            self._history = history or with_relatives(run)
            self._layout_sent = {}
            self.draw(final=True)
            if history is None:
                self._follower = Follower(self._history, self._on_reading)
                if self._follower.tick():
                    self._follower.ticker.start()

    def log_axis(self, on: bool = True) -> None:
        """Draw the losses on a logarithmic axis, or on a linear one."""
        with self._lock:
            self._log = bool(on)
            self.plotly_relayout({"yaxis.type": "log" if on else "linear", "yaxis.autorange": True})
            self._widget_layout = deepcopy(self._layout_obj._props)

    def smooth(self, strength: float) -> None:
        """Smooth the train loss: 0 (not at all) to 0.999."""
        with self._lock:
            self._history.smooth(strength)
            self.draw({"loss", "beside"})

    def draw(self, changed: set[str] | None = None, final: bool = False) -> None:
        """Send the curves in `changed` (None: all) to the browser; `final` sends everything once more.

        `beside` in `changed` stands for the curves of the other runs.
        """
        with self._lock:
            everything = changed is None or final
            names = (changed or set()) | ({"loss_smooth"} if changed and "loss" in changed else set())
            chosen = [i for i, curve in enumerate(_figure.CURVES) if everything or curve.is_in(names)]
            if chosen:
                self._send_traces(chosen)
            self._send_layout(final)

    def close(self) -> None:
        """Stop following, and remove the chart from the page."""
        self._end_following()
        super().close()

    def get_state(self, key: Any = None, drop_defaults: bool = False) -> dict[str, Any]:
        """The widget's state with the data and layout as they are now (a page reload asks for it)."""
        with self._lock:
            state = super().get_state(key=key, drop_defaults=drop_defaults)
            if "_widget_layout" in state and hasattr(self, "_layout_obj"):
                state["_widget_layout"] = deepcopy(self._layout_obj._props)
            return state

    def set_state(self, sync_data: dict[str, Any]) -> None:
        """Take what a view reports (a zoom, a click in the legend)."""
        with self._lock:
            super().set_state(sync_data)

    @traitlets.default("_plotly")
    def _carrier(self) -> str:
        return Carrier.id()

    @traitlets.observe("_js2py_traceDeltas")
    def _handler_js2py_traceDeltas(self, change: Any) -> None:  # noqa: N802 - plotly's name, replaced here
        """Forget plotly's report of its defaults: the base class would drop the data for it."""
        if change["new"] is not None:
            self._js2py_traceDeltas = None

    def _new_layout(self) -> dict[str, Any]:
        run = self._history.run
        return _figure.layout(
            self._history,
            title=str(getattr(run, "name", "")) if self._titled else "",
            log=self._log,
            message=empty_message(run),
        )

    def _on_reading(self, changed: set[str], final: bool) -> None:
        if changed or final:
            self.draw(changed, final)

    def _send_traces(self, chosen: list[int]) -> None:
        parts = [_figure.trace(_figure.CURVES[i], self._history) for i in chosen]
        data = [dict(trace) for trace in self._data]
        for i, part in zip(chosen, parts, strict=True):
            data[i] |= part
        self._widget_data = data
        self.plotly_restyle({key: [part[key] for part in parts] for key in parts[0]}, chosen)

    def _send_layout(self, final: bool) -> None:
        now = _figure.changing(self._history, empty_message(self._history.run), titled=self._titled)
        if self._titled:
            now["title.text"] = _figure.plain(str(getattr(self._history.run, "name", "")))
        news = {path: value for path, value in now.items() if self._layout_sent.get(path, ...) != value}
        if news:
            self._layout_sent |= news
            self.plotly_relayout(news)
        if news or final:
            self._widget_layout = deepcopy(self._layout_obj._props)

    def _end_following(self) -> None:
        if self._follower is not None:
            self._follower.ticker.stop()
            self._follower = None


def still_figure(run: Any, *, log_axis: bool = False, smoothing: float = 0.6) -> go.Figure:
    """The chart of a run as it is now: an ordinary plotly figure to show, save or export."""
    history = with_relatives(run, smoothing)
    history.read()
    spec = _figure.layout(history, title=run.name, log=log_axis, message=empty_message(run))
    return go.Figure(data=_figure.traces(history), layout=spec)


def live_chart(run: Any, renderer: str = "auto") -> RunChart | SvgChart | go.Figure:
    """The chart of a run in the form that this place can show.

    Parameters
    ----------
    run
        A run, going on or over.
    renderer
        "plotly", "svg" (needs no more than ipywidgets), "still" (a plotly figure that does not change) or
        "auto": in a notebook plotly, SVG where plotly's widget cannot be made; "still" in a script.
    """
    if renderer not in ("auto", "plotly", "svg", "still"):
        msg = f"renderer is 'auto', 'plotly', 'svg' or 'still', not {renderer!r}"
        raise ValueError(msg)
    if renderer == "still" or (renderer == "auto" and not _in_kernel()):
        return still_figure(run)
    if renderer == "svg":
        return SvgChart(run)
    try:
        return RunChart(run)
    except ImportError:  # anywidget is missing
        if renderer == "plotly":
            raise
        return SvgChart(run)


def _in_kernel() -> bool:
    return getattr(get_ipython(), "kernel", None) is not None
