"""The Monitor panel: watch a run, live or long over; pause, resume and stop it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ipywidgets as widgets

from ftkit.errors import FtkitError
from ftkit.ui import _run_view, front, markup
from ftkit.ui._figure import OTHERS
from ftkit.ui._history import History
from ftkit.ui.branching import Branching
from ftkit.ui.changing import Changing
from ftkit.ui.form import folded
from ftkit.ui.host import set_tooltip
from ftkit.ui.panels.base import Panel, button, card, leads_to, row
from ftkit.ui.svg_chart import SvgChart
from ftkit.ui.ticker import SECONDS_BETWEEN_LOOKS, Ticker, Worker
from ftkit.ui.workspace import Workspace

if TYPE_CHECKING:
    from ftkit.runs import Run
    from ftkit.ui.charts import RunChart

READINGS_A_SECOND = 2.5
RUNS_LISTED = 50
SECONDS_BETWEEN_CHECKPOINTS = 5.0
"""How often the list of checkpoints to branch from is looked at while a run goes on."""

_SUBTITLE = "Loss, speed and memory while the run goes on, and afterwards."
_CAN_PAUSE = ("queued", "running")
_CAN_RESUME = ("paused", "stopped", "failed", "interrupted")
_CAN_STOP = ("queued", "running", "paused")
_CAN_CHANGE = ("running", "paused")


class MonitorPanel(Panel):
    """Watch a run. Everything a person can click is a method, too.

    Parameters
    ----------
    workspace
        Its run is followed; its Recipe's output folder is where earlier runs are listed from.
    run
        Show this run and follow no other.

    Examples
    --------
    >>> monitor = ftkit.ui.MonitorPanel(run=ftkit.attach("runs/demo"))                 # doctest: +SKIP
    >>> monitor.log_axis(True)                                                         # doctest: +SKIP
    """

    def __init__(self, workspace: Workspace | None = None, run: Run | None = None) -> None:
        super().__init__(workspace)
        self._run: Run | None = None
        self._history = History()
        self._chart: RunChart | SvgChart | None = None
        self._charts: dict[str, RunChart | SvgChart] = {}
        self._lock = threading.RLock()
        self._ended = False
        self._next_look = 0.0
        self._status: str | None = None
        self._builder: Worker[RunChart] = Worker(
            self._put_chart, self._on_no_plotly, dropped=lambda chart: chart.close()
        )
        self._listing: Worker[list[tuple[str, str]]] = Worker(self._put_runs, self._on_trouble)
        self._opening: Worker[Run] = Worker(self.show, self._on_trouble)
        self._relating: Worker[tuple[Run, list[Run]]] = Worker(self._put_beside, lambda _: None)
        self._saving: Worker[Path] = Worker(self._on_saved, self._on_trouble)
        self._looking: Worker[tuple[Run, list[int]]] = Worker(self._put_checkpoints, self._on_trouble)
        self._next_checkpoints = 0.0
        self._branching: Worker[Run] = Worker(self._on_branched, self._on_trouble)
        self._ticker = Ticker(self._tick, READINGS_A_SECOND)
        self._follows = run is None
        self._build()
        self.fill(
            [
                widgets.HTML(
                    f"<style>{front.asset('monitor/style.css')}</style>",
                    layout=widgets.Layout(display="none"),
                ),
                widgets.HTML(markup.heading("Monitor", _SUBTITLE)),
                self._picking,
                self._empty,
                self._body,
                leads_to(self.workspace, "chat", "Talk to the model"),
            ]
        )
        if self._follows:
            self.workspace.observe(self._on_run, "run")
        self.show(run or self.workspace.run)
        self.refresh_runs()

    def __repr__(self) -> str:
        return f"MonitorPanel(run={self._run.name if self._run else None!r})"

    @property
    def run(self) -> Run | None:
        """The run shown."""
        return self._run

    @property
    def chart(self) -> RunChart | SvgChart | None:
        """The chart; None until there is a run and the chart is made (a second after the first run)."""
        return self._chart

    def show(self, run: Run | None) -> None:
        """Watch `run`; None shows how to begin."""
        with self._lock:
            self._run = run
            self._history = History(run, self._smoothing.value)
            self._ended, self._status = False, None
            self._say("")
            self._empty.layout.display = "none" if run else None
            self._body.layout.display = None if run else "none"
            if run is None:
                self._ticker.stop()
                return
            self._history.read()
            if self._chart is not None:
                self._chart.follow(run, self._history)
            elif not self._builder.busy:
                self._make_chart()
            self._next_look = 0.0
            self._refresh(whole=True)
            self._ticker.start()
            self._look_for_relatives()

    def shown(self) -> None:
        """Look for new runs: the panel came to the front."""
        self.refresh_runs()

    def refresh_runs(self) -> None:
        """List the runs in the output folder again; returns at once."""
        self._listing.submit(self._find_runs)
        self._look_for_relatives()

    def pause(self) -> None:
        """Hold the run after the current step."""
        self._steer("pause", "Pausing after the current step.")

    def resume(self) -> None:
        """Go on, after a pause or from the last checkpoint."""
        self._steer("resume", "Going on.")

    def stop(self) -> None:
        """End the run after the current step; what it has learned is saved."""
        self._steer("stop", "Stopping after the current step; the result is saved.")

    def branch(self, step: int | None = None, changes: dict[str, Any] | None = None) -> None:
        """Start a new run from a checkpoint (None: the newest) with some settings changed; returns at once.

        The new run is shown as soon as its checkpoint is copied. Parameters as for `Run.branch`.
        """
        run = self._run
        if run is None:
            raise FtkitError("There is no run to branch from.", "Start one, or open one from the list.")
        if self._branching.busy:
            raise FtkitError("A branch is being made already.", "It is shown as soon as it is there.")
        self._say("Copying the checkpoint…")
        self._branching.submit(lambda: run.branch(step, changes))

    def log_axis(self, on: bool = True) -> None:
        """Draw the losses on a logarithmic axis, or on a linear one."""
        self._log.value = bool(on)

    def smooth(self, strength: float) -> None:
        """Smooth the train loss: 0 (not at all) to 0.99."""
        self._smoothing.value = strength

    def draw_with(self, renderer: str) -> None:
        """Draw with "plotly" (zoom, values on hover) or "svg" (where plotly's widget does not show)."""
        self._renderer.value = renderer

    def save_metrics(self) -> Path:
        """Write all metrics as `metrics.csv` into the run folder. Returns where.

        Raises
        ------
        FtkitError
            When there is no run, or the file cannot be written.
        """
        path = self._write_metrics(self._run)
        self._on_saved(path)
        return path

    def close(self) -> None:
        """Stop watching, and remove the panel from the page."""
        self._ticker.stop()
        if self._follows:
            self.workspace.unobserve(self._on_run, "run")
        super().close()

    # Making the panel

    def _build(self) -> None:
        self._picker = widgets.Dropdown(description="Open a run", options=[("Choose…", "")])
        set_tooltip(self._picker, "Runs in the output folder, newest first")
        self._picker.observe(self._on_pick, "value")
        reload = button("Refresh", "Look for runs in the output folder again", self.refresh_runs)
        self._picking = _controls(self._picker, reload)

        self._head = widgets.HTML()
        self._tiles = widgets.HTML()
        self._pause = button("Pause", "Hold after the current step", lambda: self._click(self.pause))
        self._resume = button(
            "Resume", "Go on, after a pause or from the last checkpoint", lambda: self._click(self.resume)
        )
        self._stop = button(
            "Stop",
            "Finish the current step, save, end",
            lambda: self._click(self.stop),
            button_style="danger",
        )
        save = button("Save metrics as CSV", "Write metrics.csv into the run folder", self._on_save)
        self._message = widgets.HTML()
        self._message.layout.display = "none"

        self._log = widgets.Checkbox(description="Logarithmic loss", indent=False)
        self._log.observe(lambda change: self._with_chart(lambda c: c.log_axis(change["new"])), "value")
        self._smoothing = widgets.FloatSlider(
            value=0.6, min=0.0, max=0.99, step=0.01, description="Smoothing", continuous_update=False
        )
        set_tooltip(self._smoothing, "How much of the past the smoothed train loss keeps")
        self._smoothing.observe(self._on_smoothing, "value")
        self._renderer = widgets.Dropdown(
            description="Chart", options=[("Interactive", "plotly"), ("Simple", "svg")]
        )
        set_tooltip(self._renderer, "Simple works where the interactive chart does not show")
        self._renderer.observe(self._on_renderer, "value")

        self._preparing = widgets.HTML(markup.muted("Preparing the chart…"))
        self._chart_place = widgets.VBox()
        self._failure = widgets.HTML()
        self._notes = widgets.HTML()
        self._samples = widgets.HTML()
        self.changing = Changing(self._change)
        self._change_fold = folded({"Change the run while it runs": lambda: self.changing})
        self.branching = Branching(self.branch)
        self.branching.begin.on_click(lambda _: self._click(self.branching.start))
        self._branch_fold = folded({"Go on from a checkpoint as a branch": lambda: self.branching})
        self._branch_fold.layout.display = "none"
        self._empty = widgets.HTML(_run_view.empty_state())
        self._body = widgets.VBox(
            [
                card(
                    self._head,
                    self._tiles,
                    _controls(self._pause, self._resume, self._stop, _spacer(), save),
                    self._message,
                    self._failure,
                    self._change_fold,
                    self._branch_fold,
                ),
                card(_controls(self._log, self._smoothing, _spacer(), self._renderer), self._chart_place),
                self._samples,
                self._notes,
            ]
        )

    def _make_chart(self) -> None:
        renderer = self._renderer.value
        if renderer in self._charts:
            self._put_chart(self._charts[renderer])
            return
        if renderer == "svg":
            self._put_chart(SvgChart(history=self._history))
            return
        self._chart_place.children = (self._preparing,)
        history = self._history
        self._builder.submit(lambda: _plotly_chart(history))

    def _put_chart(self, chart: RunChart | SvgChart) -> None:
        with self._lock:
            if self.comm is None:  # the panel was closed meanwhile
                chart.close()
                return
            self._charts["svg" if isinstance(chart, SvgChart) else "plotly"] = chart
            chart.follow(self._run, self._history)  # the run may have changed while the chart was made
            if self._log.value:
                chart.log_axis(True)
            self._chart = chart
            self._chart_place.children = (chart,)

    def _on_no_plotly(self, error: Exception) -> None:
        self._say(f"Plotly's chart cannot be made here ({error}); this is the simple one.", "warn")
        self._renderer.value = "svg"

    # Following the run

    def _tick(self) -> bool:
        with self._lock:
            if self._run is None:
                return False
            if self._ended and time.monotonic() < self._next_look:
                return True
            self._next_look = time.monotonic() + SECONDS_BETWEEN_LOOKS
            self._refresh()
            return True

    def _refresh(self, whole: bool = False) -> None:
        """Show what is new of the run; all of it when `whole`."""
        run, history = self._run, self._history
        assert run is not None
        status = run.status  # asked first: the reading then has all that came before
        changed = history.read()
        ended = status not in ("queued", "running", "paused", "stopping")
        if status != self._status and self._status is not None:
            self._say("")
        progress = run.progress
        folder = _run_view.short_path(run.path)
        self._head.value = _run_view.head(run.name, folder, status, progress, _branched(run))
        self._tiles.value = _run_view.tiles(history, progress)
        self._pause.disabled = status not in _CAN_PAUSE
        self._resume.disabled = status not in _CAN_RESUME
        self._stop.disabled = status not in _CAN_STOP
        if status != self._status or whole:
            self._failure.value = _run_view.outcome(run, status)
            self._failure.layout.display = None if self._failure.value else "none"
        self._change_fold.layout.display = None if status in _CAN_CHANGE else "none"
        if status != self._status or whole or (not ended and time.monotonic() > self._next_checkpoints):
            self._next_checkpoints = time.monotonic() + SECONDS_BETWEEN_CHECKPOINTS
            self._looking.submit(lambda: (run, run.checkpoints))
        if whole or "samples" in changed:
            self._samples.value = _run_view.samples(history.samples)
        if whole or "notes" in changed:
            self._notes.value = _run_view.remarks(history.notes)
        if self._chart is not None and (whole or changed or ended != self._ended or status != self._status):
            self._chart.draw(changed, final=whole or (ended and not self._ended))
        self._status, self._ended = status, ended

    def _on_run(self, change: Any) -> None:
        self.show(change["new"])

    # What a person does

    def _click(self, act: Callable[[], Any]) -> None:
        try:
            act()
        except FtkitError as error:
            self._on_trouble(error)

    def _steer(self, wish: str, answer: str) -> None:
        with self._lock:
            if self._run is None:
                raise FtkitError("There is no run to steer.", "Start one, or open one from the list.")
            getattr(self._run, wish)()
            self._ended = False
            self._refresh()
            self._say(answer)

    def _change(self, wish: Callable[[Run], Any], answer: str) -> None:
        def act() -> None:
            if self._run is None:
                raise FtkitError("There is no run to change.", "Start one, or open one from the list.")
            wish(self._run)
            self._say(answer)

        self._click(act)

    def _on_save(self) -> None:
        run = self._run
        self._saving.submit(lambda: self._write_metrics(run))

    def _write_metrics(self, run: Run | None) -> Path:
        if run is None:
            raise FtkitError(
                "There is no run whose metrics to save.", "Start one, or open one from the list."
            )
        path = run.path / "metrics.csv"
        try:
            run.metrics.to_csv(path, index=False)
        except OSError as error:
            raise FtkitError(f"{path} cannot be written: {error.strerror or error}.") from error
        return path

    def _on_saved(self, path: Path) -> None:
        self._say(f"Saved the metrics in {path}", "ok")

    def _on_smoothing(self, change: Any) -> None:
        self._history.smooth(change["new"])
        self._with_chart(lambda chart: chart.draw({"loss", "beside"}))

    def _on_renderer(self, _: Any) -> None:
        with self._lock:
            self._builder.cancel()
            if self._run is not None:
                self._make_chart()

    def _with_chart(self, act: Callable[[RunChart | SvgChart], Any]) -> None:
        if self._chart is not None:
            act(self._chart)

    # Runs that it came from or that came from it

    def _look_for_relatives(self) -> None:
        if (run := self._run) is not None:
            self._relating.submit(lambda: (run, _relatives(run)))

    def _put_beside(self, found: tuple[Run, list[Run]]) -> None:
        run, others = found
        with self._lock:
            known = [one.run.path for one in self._history.beside]
            if run is not self._run or known == [one.path for one in others]:
                return
            self._history.put_beside(others)
            self._history.read()
            self._with_chart(lambda chart: chart.draw(final=True))

    # Branches of it

    def _put_checkpoints(self, found: tuple[Run, list[int]]) -> None:
        run, steps = found
        with self._lock:
            if run is self._run:
                self.branching.offer(steps)
                self._branch_fold.layout.display = None if steps else "none"

    def _on_branched(self, branch: Run) -> None:
        if self._follows:
            self.workspace.run = branch
        else:
            self.show(branch)

    # The list of runs

    def _find_runs(self) -> list[tuple[str, str]]:
        from ftkit.runs import list_runs

        found = list_runs(self.workspace.recipe.output.folder)[:RUNS_LISTED]
        return [(f"{run.name} ({run.status})", str(run.path)) for run in found]

    def _put_runs(self, found: list[tuple[str, str]]) -> None:
        options = [("Choose…" if found else "No runs yet", ""), *found]
        if list(self._picker.options) != options:
            self._picker.unobserve(self._on_pick, "value")
            self._picker.options = options
            self._picker.observe(self._on_pick, "value")

    def _on_pick(self, change: Any) -> None:
        path = change["new"]
        if path:
            self._opening.submit(lambda: _attach(path))
            self._picker.value = ""

    def _on_trouble(self, error: Exception) -> None:
        self._message.value = markup.error_box(
            getattr(error, "message", str(error)), getattr(error, "advice", "")
        )
        self._message.layout.display = None

    def _say(self, text: str, look: str = "off") -> None:
        self._message.value = markup.note(text, look) if text else ""
        self._message.layout.display = None if text else "none"


def _branched(run: Run) -> str:
    of = run.summary.branch_of
    return "" if of is None else f"branch of {Path(of).name} from step {run.summary.branch_step:,}"


def _plotly_chart(history: History) -> RunChart:
    from ftkit.ui.charts import RunChart

    return RunChart(history=history, title=False)


def _relatives(run: Run) -> list[Run]:
    from ftkit.runs.branch import relatives

    return relatives(run, len(OTHERS))


def _attach(path: str) -> Run:
    from ftkit.runs import attach

    return attach(path)


def _controls(*children: widgets.Widget) -> widgets.Box:
    box = row(*children)
    box.add_class("ftk-monitor-controls")
    return box


def _spacer() -> widgets.Box:
    box = widgets.Box()
    box.add_class("ftk-spacer")
    return box
