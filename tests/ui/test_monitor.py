"""The Monitor panel: what it shows of a run in each state, and what its controls do."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import ftkit
from ftkit.errors import FtkitError, RunError
from ftkit.train.checkpoints import Checkpoints
from ftkit.ui import MonitorPanel, Workspace
from ftkit.ui.charts import RunChart
from ftkit.ui.svg_chart import SvgChart
from tests.waiting import up_to

from .fake_run import FakeRun

until = up_to(10)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(ftkit.Recipe(output={"folder": tmp_path / "runs"}))


@pytest.fixture
def monitor(workspace: Workspace) -> Iterator[MonitorPanel]:
    panel = MonitorPanel(workspace)
    yield panel
    panel.close()


@pytest.fixture
def run(tmp_path: Path) -> FakeRun:
    folder = tmp_path / "demo"
    folder.mkdir()
    return FakeRun(path=folder)


def folder_of(name: str, workspace: Workspace, steps: int = 5, state: str = "finished") -> ftkit.Run:
    """A run folder as a real run leaves it, without training."""
    from ftkit.runs.folder import RunFolder

    folder = RunFolder.create(workspace.recipe.replace({"output.name": name}))
    folder.log.append("state", state="running", detail=None, error=None)
    folder.log.append("steps", step=0, total_steps=steps)
    for step in range(1, steps + 1):
        fields = {
            "epoch": step / 5,
            "loss": 3.0 / step,
            "learning_rate": 1e-4,
            "grad_norm": 1.0,
            "tokens": 100,
        }
        folder.log.append(
            "train", step=step, tokens_per_second=500.0, memory_gb=1.0, elapsed=step * 0.1, **fields
        )
    folder.log.append("state", state=state, detail=None, error=None)
    return ftkit.attach(folder.path)


def test_without_a_run_it_says_how_to_begin(monitor: MonitorPanel) -> None:
    assert monitor._empty.layout.display is None
    assert "Train panel" in monitor._empty.value
    assert monitor._body.layout.display == "none"
    assert monitor.chart is None
    assert repr(monitor) == "MonitorPanel(run=None)"
    for act in (monitor.pause, monitor.resume, monitor.stop, monitor.save_metrics):
        with pytest.raises(FtkitError, match="no run"):
            act()


def test_it_follows_the_workspace(monitor: MonitorPanel, workspace: Workspace, run: FakeRun) -> None:
    run.train(30)
    workspace.run = run
    assert monitor.run is run
    assert repr(monitor) == "MonitorPanel(run='demo')"
    assert monitor._empty.layout.display == "none"
    until(lambda: monitor.chart is not None)
    assert isinstance(monitor.chart, RunChart)
    assert len(monitor.chart.data[0].y) == 30
    assert "step 30 of 100" in monitor._head.value
    run.train(10, 31)
    until(lambda: len(monitor.chart.data[0].y) == 40)
    assert "step 40 of 100" in monitor._head.value
    workspace.run = None
    assert monitor._empty.layout.display is None


def test_a_panel_of_one_run_does_not_follow(workspace: Workspace, run: FakeRun) -> None:
    panel = MonitorPanel(workspace, run)
    workspace.run = FakeRun("other")
    assert panel.run is run
    panel.close()


def test_the_tiles(monitor: MonitorPanel, run: FakeRun) -> None:
    run.log(1, loss=2.5, memory_gb=3.0, gpu_memory_gb=7.25)
    run.log(2, loss=1.25, memory_gb=2.0)
    run.evaluate(1, loss=1.5)
    run.evaluate(2, loss=1.75)
    monitor.show(run)
    shown = monitor._tiles.value
    for part in ("1.2500", "1.7500", "1.5000", "at step 1<", "600", "3.00 GB", "GPU 7.25 GB"):
        assert part in shown
    assert "elapsed" in monitor._head.value
    assert "left" in monitor._head.value


def test_a_run_that_has_not_stepped(monitor: MonitorPanel, run: FakeRun) -> None:
    monitor.show(run)
    assert "Loading the model" in monitor._head.value
    assert "–" in monitor._tiles.value
    assert not monitor._pause.disabled
    until(lambda: monitor.chart is not None)
    assert "Waiting for the first step" in {note.text for note in monitor.chart.layout.annotations}


def test_pause_resume_stop_by_click(monitor: MonitorPanel, run: FakeRun) -> None:
    run.train(3)
    monitor.show(run)
    monitor._pause.click()
    assert run.asked == ["pause"]
    assert monitor._pause.disabled
    assert not monitor._resume.disabled
    monitor._resume.click()
    monitor._stop.click()
    assert run.asked == ["pause", "resume", "stop"]
    assert monitor._pause.disabled
    assert monitor._stop.disabled
    run.status = "stopped"
    until(lambda: not monitor._resume.disabled)


def test_a_refusal_is_shown(monitor: MonitorPanel, run: FakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise RunError("It cannot <go> on.", "Start a new run.")

    monkeypatch.setattr(run, "resume", refuse)
    run.status = "stopped"
    monitor.show(run)
    monitor._resume.click()
    assert "It cannot &lt;go&gt; on." in monitor._message.value
    assert "Start a new run." in monitor._message.value
    with pytest.raises(RunError):
        monitor.resume()


def test_a_failure_is_shown_with_advice_and_traceback(monitor: MonitorPanel, run: FakeRun) -> None:
    monitor.show(run)
    assert monitor._failure.layout.display == "none"
    run.fail("The loss is <nan>.", "Lower the learning rate.", "Traceback:\n<module>")
    until(lambda: monitor._failure.layout.display is None)
    for part in ("The loss is &lt;nan&gt;.", "Lower the learning rate.", "<details>", "&lt;module&gt;"):
        assert part in monitor._failure.value
    assert not monitor._resume.disabled
    run.status, run.error = "running", None
    monitor.show(run)
    assert monitor._failure.value == ""


def test_an_ended_run_that_is_resumed_elsewhere_is_seen(
    monitor: MonitorPanel, run: FakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ftkit.ui.panels.monitor.SECONDS_BETWEEN_LOOKS", 0.1)
    run.train(5)
    run.status = "stopped"
    monitor.show(run)
    until(lambda: monitor.chart is not None)
    run.status = "running"
    run.train(5, 6)
    until(lambda: len(monitor.chart.data[0].y) == 10)
    assert not monitor._stop.disabled


def test_remarks_are_text(monitor: MonitorPanel, run: FakeRun) -> None:
    run.note("LoRA on <q_proj>")
    run.note("3 rows were left out", "warning")
    monitor.show(run)
    assert "LoRA on &lt;q_proj&gt;" in monitor._notes.value
    assert "<strong>Warning.</strong> 3 rows" in monitor._notes.value
    run.name = "<img src=x>"
    monitor.show(run)
    assert "<img" not in monitor._head.value


def test_the_controls_of_the_chart(monitor: MonitorPanel, run: FakeRun) -> None:
    run.train(50)
    monitor.log_axis(True)
    monitor.show(run)
    until(lambda: monitor.chart is not None)
    chart = monitor.chart
    assert isinstance(chart, RunChart)
    assert chart.layout.yaxis.type == "log"
    before = list(chart.data[1].y)
    monitor.smooth(0.95)
    assert list(chart.data[1].y) != before
    monitor.smooth(0.0)
    assert list(chart.data[1].y) == list(chart.data[0].y)
    monitor.log_axis(False)
    assert chart.layout.yaxis.type == "linear"
    monitor.draw_with("svg")
    assert isinstance(monitor.chart, SvgChart)
    run.train(1, 51)
    drawn = monitor.chart.value
    until(lambda: monitor.chart.value != drawn)
    monitor.draw_with("plotly")
    assert monitor.chart is chart
    assert len(chart.data[0].y) == 51


def test_the_simple_chart_steps_in_where_plotly_cannot_load(
    monitor: MonitorPanel, run: FakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_anywidget(_: Any) -> None:
        raise ImportError("Please install anywidget")

    monkeypatch.setattr("ftkit.ui.panels.monitor._plotly_chart", no_anywidget)
    run.train(3)
    monitor.show(run)
    until(lambda: monitor.chart is not None)
    assert isinstance(monitor.chart, SvgChart)
    assert "Please install anywidget" in monitor._message.value


def test_metrics_are_saved_in_the_run_folder(monitor: MonitorPanel, workspace: Workspace) -> None:
    run = folder_of("one", workspace)
    monitor.show(run)
    path = monitor.save_metrics()
    assert path == run.path / "metrics.csv"
    assert pd.read_csv(path)["loss"].tolist() == pytest.approx([3.0 / step for step in range(1, 6)])
    assert str(path) in monitor._message.value


def test_earlier_runs_are_listed_and_opened(monitor: MonitorPanel, workspace: Workspace) -> None:
    assert monitor._listing.wait(10)
    assert [label for label, _ in monitor._picker.options] == ["No runs yet"]
    folder_of("one", workspace)
    folder_of("two", workspace, state="failed")
    monitor.shown()
    until(lambda: len(monitor._picker.options) == 3)
    labels = dict(monitor._picker.options)
    assert {"one (finished)", "two (failed)"} < set(labels)
    monitor._picker.value = labels["one (finished)"]
    until(lambda: "finished" in monitor._head.value)
    assert monitor.run is not None
    assert monitor.run.name == "one"
    assert monitor._picker.value == ""


def test_an_interrupted_run_says_how_to_go_on(monitor: MonitorPanel, workspace: Workspace) -> None:
    monitor.show(folder_of("lost", workspace, state="running"))
    assert "interrupted" in monitor._head.value
    assert "no checkpoint to go on from" in monitor._failure.value
    assert not monitor._resume.disabled


@pytest.mark.parametrize("state", ["stopped", "interrupted"])
def test_an_ended_run_says_which_checkpoint_it_goes_on_from(
    monitor: MonitorPanel, workspace: Workspace, state: str
) -> None:
    run = folder_of("ended", workspace, state="running" if state == "interrupted" else state)
    for step in (2, 4):
        with Checkpoints(run.path / "checkpoints").writing(step) as folder:
            (folder / "weights").write_text("1")
    monitor.show(run)
    assert "from the checkpoint of step 4" in monitor._failure.value
    monitor.show(None)
    (run.path / "checkpoints" / "checkpoint-4" / "weights").write_text("torn")
    monitor.show(run)
    assert "from the checkpoint of step 2" in monitor._failure.value


def branched(of: ftkit.Run, name: str, workspace: Workspace) -> ftkit.Run:
    """A run folder as `Run.branch` makes one at step 3, without training."""
    run = folder_of(name, workspace)
    run._folder.log.append("branch", of=str(of.path), step=3)
    return run


def test_a_branch_and_the_run_it_came_from_are_shown_in_one_chart(
    monitor: MonitorPanel, workspace: Workspace
) -> None:
    origin = folder_of("first", workspace)
    branch = branched(origin, "second", workspace)
    folder_of("apart", workspace)
    monitor.show(branch)
    assert "branch of first from step 3" in monitor._head.value
    until(lambda: monitor.chart is not None and len(monitor._history.beside) == 1)
    shown = lambda: {trace.name for trace in monitor.chart.data if trace.visible and trace.showlegend}  # noqa: E731
    until(lambda: "first: smoothed" in shown() and "second: train loss" in shown())
    monitor.show(origin)
    until(lambda: "second: smoothed" in shown() and "first: train loss" in shown())
    assert not any("apart" in name for name in shown())


def test_a_run_is_rewound_to_a_checkpoint(
    monitor: MonitorPanel, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ftkit.Run, "_begin", lambda self, resume=False: None)  # no training
    run = folder_of("first", workspace)
    monitor.show(run)
    assert monitor._branch_fold.layout.display == "none", "there is nothing to go on from"
    for step in (2, 4):
        with Checkpoints(run.path / "checkpoints").writing(step) as folder:
            (folder / "weights").write_text("1")
    monitor.show(run)
    form = monitor.branching
    until(lambda: [value for _, value in form.checkpoint.options] == [4, 2])
    until(lambda: monitor._branch_fold.layout.display is None)
    assert "run.branch(4)" in form.code.value, "the newest, where nothing is chosen"
    form.checkpoint.value = 2
    form.rate.value = "fast"
    form.begin.click()
    assert "&#x27;fast&#x27; is no learning rate" in monitor._message.value
    assert workspace.run is None
    form.rate.value = "1e-5"
    assert "run.branch(2, {&#x27;training.learning_rate&#x27;: 1e-05})" in form.code.value
    form.begin.click()
    until(lambda: workspace.run is not None)
    branch = workspace.run
    assert branch.origin.path == run.path
    assert branch.recipe.training.learning_rate == 1e-5
    assert branch.checkpoints == [2]
    until(lambda: "branch of first from step 2" in monitor._head.value)


def test_branch_pressed_twice_makes_one(
    monitor: MonitorPanel, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on, asked = threading.Event(), []

    def branch(self: ftkit.Run, step: int | None = None, changes: object = None) -> ftkit.Run:
        asked.append(step)
        go_on.wait(10)
        return folder_of("second", workspace)

    monkeypatch.setattr(ftkit.Run, "branch", branch)
    monitor.show(folder_of("first", workspace))
    monitor.branching.begin.click()
    until(lambda: len(asked) == 1)
    monitor.branching.begin.click()
    assert "A branch is being made already" in monitor._message.value
    go_on.set()
    until(lambda: workspace.run is not None)
    assert len(asked) == 1


def test_a_branch_that_cannot_be_is_said(monitor: MonitorPanel, workspace: Workspace) -> None:
    with pytest.raises(FtkitError, match="no run to branch from"):
        monitor.branch()
    monitor.show(folder_of("first", workspace))
    monitor.branch(3)
    until(lambda: "has no checkpoint of step 3" in monitor._message.value)
    assert workspace.run is None


def test_a_branch_whose_origin_is_gone_stands_alone(monitor: MonitorPanel, workspace: Workspace) -> None:
    origin = folder_of("first", workspace)
    branch = branched(origin, "second", workspace)
    shutil.rmtree(origin.path)
    monitor.show(branch)
    assert monitor._relating.wait(10)
    assert branch.origin is None
    assert monitor._history.beside == ()


def test_margins_and_rewards_have_tiles(monitor: MonitorPanel, run: FakeRun) -> None:
    run.log(1)
    monitor.show(run)
    assert "Margin" not in monitor._tiles.value
    run.log(2, margin=0.5, pair_accuracy=0.75, reward=-0.25)
    run.add("eval", step=2, loss=1.0, margin=0.4, pair_accuracy=0.5)
    monitor.show(run)
    for part in ("Margin", "0.4", "held out; train 0.5", "Pairs told apart", "50%", "Reward", "-0.25"):
        assert part in monitor._tiles.value


def test_why_a_run_stopped_by_itself_is_shown(monitor: MonitorPanel, workspace: Workspace) -> None:
    run = folder_of("late", workspace, state="stopped")
    why = "saved before the time limit of 5 minutes; Resume goes on from here"
    run._folder.log.append("state", state="stopped", detail=why, error=None)
    monitor.show(run)
    assert why in monitor._failure.value


@pytest.mark.slow
def test_a_real_run(
    monitor: MonitorPanel, workspace: Workspace, tiny_model_folder: Callable[..., Path]
) -> None:
    workspace.edit(
        {
            "model.source": str(tiny_model_folder()),
            "data": {"source": "starter:extract", "max_rows": 32, "eval_rows": 8},
            "training": {"max_steps": 8, "batch_size": 4, "evals": 2},
        }
    )
    workspace.run = ftkit.start(workspace.recipe)
    workspace.run.wait(120)
    until(lambda: monitor._ended and monitor.chart is not None)
    assert monitor.chart is not None
    loss = workspace.run.metrics["loss"].dropna()
    assert list(monitor.chart.data[0].y) == pytest.approx(loss.tolist())
    assert len(monitor.chart.data[2].y) == workspace.run.metrics["eval_loss"].notna().sum()
    assert "finished" in monitor._head.value


def test_opening_it_is_quick_and_loads_nothing_heavy(tmp_path: Path) -> None:
    code = (
        "import sys, time, ipywidgets; from ftkit.ui import Workspace\n"
        "begun = time.perf_counter()\n"
        "from ftkit.ui import MonitorPanel\n"
        "panel = MonitorPanel(); print(time.perf_counter() - begun)\n"
        "panel._listing.wait(10)\n"
        "print(*(name for name in ('torch', 'transformers', 'pandas', 'plotly') if name in sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True
    )
    seconds, loaded = done.stdout.splitlines()
    assert float(seconds) < 5.0
    assert loaded == ""


def test_accuracy_has_a_tile_where_the_run_tells_it() -> None:
    from ftkit.ui._history import History
    from ftkit.ui._run_view import tiles

    run = FakeRun(total_steps=20)
    run.log(1)
    history = History(run)
    history.read()
    assert "of the training rows" in tiles(history, run.progress)
    run.evaluate(10)
    history.read()
    assert re.search(
        r"Token accuracy</span><b>\d+%</b><small>held out; train \d+%", tiles(history, run.progress)
    )
    silent = FakeRun(total_steps=20)
    silent.log(1, accuracy=None)
    history = History(silent)
    history.read()
    assert "accuracy" not in tiles(history, silent.progress)
