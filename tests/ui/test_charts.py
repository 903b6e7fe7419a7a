"""The run's chart: what is drawn, that it stays small, and that it is whole after a reload."""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest

from ftkit.ui import _figure
from ftkit.ui._history import History
from ftkit.ui.charts import RunChart, live_chart, still_figure
from ftkit.ui.svg_chart import SvgChart, loss_svg
from tests.waiting import up_to

from .fake_run import FakeRun

until = up_to(10)

NAMES = [curve.name for curve in _figure.CURVES]  # of a name that stands twice, index() finds the run's own


def state_of(chart: RunChart, name: str) -> np.ndarray:
    """A curve as the browser would get it after a reload."""
    trace = chart.get_state()["_widget_data"][NAMES.index(name)]
    return np.frombuffer(trace["y"]["buffer"], dtype=trace["y"]["dtype"])


def test_values_that_cannot_be_drawn_are_left_out() -> None:
    run = FakeRun()
    run.log(1)
    run.add("train", step=2, loss=None, learning_rate="broken")
    run.add("train", step="broken", loss=1.0)
    run.add("train")
    run.add("something else")
    history = History(run)
    history.read()
    assert len(history.points("loss")[0]) == 1


def test_a_reading_names_what_changed() -> None:
    run = FakeRun()
    history = History(run)
    for start in (1, 6, 11):
        run.train(5, start)
        changed = history.read()
    assert "loss" in changed
    assert "eval_loss" not in changed
    assert history.read() == set()
    assert len(history.points("loss")[0]) == 15
    assert history.points("eval_loss")[0].tolist() == [10]


def test_a_resumed_run_replaces_what_came_after_its_checkpoint() -> None:
    run = FakeRun()
    history = History(run)
    run.train(50)
    run.add("steps", step=40, total_steps=60)
    assert "loss" in (changed := history.read())
    assert "eval_loss" in changed
    assert history.points("loss")[0][-1] == 40
    assert history.points("eval_loss")[0][-1] == 40
    run.log(41, loss=9.0)
    run.log(41, loss=8.0)
    history.read()
    assert history.last("loss") == 8.0
    assert len(history.points("loss_smooth")[0]) == 41


def test_an_empty_chart_says_what_it_waits_for() -> None:
    run = FakeRun()
    for figure in (RunChart(run), still_figure(run)):
        assert "Waiting for the first step" in {note.text for note in figure.layout.annotations}
        assert not figure.layout.yaxis.showticklabels
    run.status = "stopped"
    assert "This run logged no step" in {note.text for note in still_figure(run).layout.annotations}
    assert "No run to show yet" in {note.text for note in RunChart().layout.annotations}


def test_a_chart_grows_and_a_reload_gets_all_of_it() -> None:
    run = FakeRun()
    chart = RunChart(run)
    run.train(60)
    until(lambda: len(state_of(chart, "loss")) == 60)
    assert len(state_of(chart, "eval_loss")) == 6
    assert "Waiting for the first step" not in {note.text for note in chart.layout.annotations}
    assert chart.layout.yaxis.showticklabels
    run.train(20, 61)
    run.status = "finished"
    until(lambda: not chart._follower.ticker.running)
    assert len(state_of(chart, "loss")) == len(state_of(chart, "loss_smooth")) == 80
    chart.close()


def test_a_reload_keeps_the_logarithmic_axis_and_a_zoom() -> None:
    run = FakeRun()
    run.train(5)
    chart = RunChart(run)
    chart.log_axis()
    chart.set_state(
        {
            "_js2py_relayout": {
                "relayout_data": {"xaxis.range[0]": 2, "xaxis.range[1]": 4},
                "source_view_id": "a",
            }
        }
    )
    layout = chart.get_state()["_widget_layout"]
    assert layout["yaxis"]["type"] == "log"
    assert list(layout["xaxis"]["range"]) == [2, 4]
    chart.close()


def test_a_view_that_reports_its_defaults_takes_nothing_away() -> None:
    run = FakeRun(name="done")
    run.train(30)
    run.status = "finished"
    chart = RunChart(run)
    deltas = [{"uid": trace.uid, "y": [1.0], "hoverinfo": "all"} for trace in chart.data]
    chart.set_state(
        {"_js2py_traceDeltas": {"trace_deltas": deltas, "trace_edit_id": chart._last_trace_edit_id}}
    )
    assert len(state_of(chart, "loss")) == 30
    assert len(chart.data[0].y) == 30


def test_at_most_a_thousand_points_travel() -> None:
    run = FakeRun()
    run.train(5_000)
    run.status = "finished"
    chart = RunChart(run)
    assert len(state_of(chart, "loss")) <= 1_000


def test_pushes_and_reports_from_many_threads_lose_nothing() -> None:
    run = FakeRun()
    chart = RunChart(run)
    stop = threading.Event()
    errors: list[Exception] = []

    def ask() -> None:
        try:
            while not stop.is_set():
                chart.get_state()
        except Exception as error:  # noqa: BLE001 - looked at below
            errors.append(error)

    def zoom() -> dict[str, Any]:
        return {"relayout_data": {"xaxis.autorange": True}, "source_view_id": "view"}

    chart.set_state({"_js2py_relayout": zoom()})
    threads = [threading.Thread(target=ask, daemon=True), threading.Thread(target=ask, daemon=True)]
    for thread in threads:
        thread.start()
    for step in range(1, 200):
        run.log(step)
        chart.draw(chart._history.read())
        chart.set_state({"_js2py_relayout": zoom()})
    stop.set()
    for thread in threads:
        thread.join(10)
    assert not errors
    assert len(state_of(chart, "loss")) == 199
    chart.close()


def test_the_gpu_is_drawn_only_where_there_is_one() -> None:
    run = FakeRun()
    run.train(3)
    figure = still_figure(run)
    assert not figure.data[NAMES.index("gpu_memory_gb")].visible
    run.log(4, gpu_memory_gb=5.5)
    figure = still_figure(run)
    assert figure.data[NAMES.index("gpu_memory_gb")].visible
    assert any("GPU" in note.text for note in figure.layout.annotations)


def test_what_preferences_tell_is_drawn_where_a_run_tells_it() -> None:
    run = FakeRun()
    run.train(20)
    plain = still_figure(run)
    assert not plain.layout.xaxis6.visible
    for step in range(21, 31):
        run.log(step, margin=step / 10, pair_accuracy=0.75)
    run.add("eval", step=30, loss=0.5, margin=2.0, pair_accuracy=1.0)
    figure = still_figure(run)
    assert figure.layout.height > plain.layout.height
    assert figure.layout.xaxis6.visible
    assert figure.layout.xaxis7.visible
    assert not figure.layout.xaxis8.visible, "it has no rewards"
    assert list(figure.data[NAMES.index("eval_margin")].y) == [2.0]
    assert len(figure.data[NAMES.index("pair_accuracy")].y) == 10
    titles = {note.text for note in figure.layout.annotations}
    assert {"Margin: chosen less rejected", "Pairs told apart"} < titles
    assert "Reward" not in titles
    low, high = figure.layout.yaxis6.domain
    assert figure.layout.yaxis2.domain[1] < low < high < figure.layout.yaxis.domain[0]


def test_other_runs_stand_beside_it_with_their_names() -> None:
    origin, branch = FakeRun("first"), FakeRun("first-from-20")
    origin.train(40)
    branch.add("branch", of="runs/first", step=20)
    for step in range(21, 31):
        branch.log(step)
    history = History(branch)
    history.put_beside([origin])
    assert "beside" in history.read()
    chart = RunChart(history=history)
    names = [trace.name for trace in chart.data if trace.visible and trace.showlegend]
    assert names[:2] == ["first-from-20: train loss", "first-from-20: smoothed"]
    assert names[-2:] == ["first: smoothed", "first: eval loss"]
    assert chart.data[0].x[0] == 21
    place = next(i for i, curve in enumerate(_figure.CURVES) if curve.beside == 0)
    assert list(chart.data[place].x)[:1] == [1]
    origin.train(10, 41)
    chart.draw(history.read())
    assert len(chart.data[place].x) == 50
    chart.follow(origin, History(origin))
    assert not chart.data[place].visible
    assert chart.data[0].name == "train loss"
    chart.close()


def test_the_simple_chart_shows_other_runs_too() -> None:
    origin, branch = FakeRun("<first>"), FakeRun("second")
    origin.train(40)
    history = History(branch)
    history.put_beside([origin])
    history.read()
    svg = loss_svg(history)
    assert "&lt;first&gt;" in svg
    assert _figure.OTHERS[0] in svg


def test_a_name_is_text_not_markup() -> None:
    run = FakeRun(name="<b>&</b> $x$ 'q'")
    assert RunChart(run).layout.title.text == "&lt;b&gt;&amp;&lt;/b&gt; &#36;x&#36; 'q'"
    beside = History(FakeRun("other"))
    beside.put_beside([run])
    run.train(3)
    beside.read()
    trace = RunChart(history=beside).data[len(NAMES) - 2 * len(_figure.OTHERS)]
    assert trace.name.startswith("&lt;b&gt;")
    assert "<b>" not in trace.hovertemplate
    svg = loss_svg(History(FakeRun(name='"><script>')))
    assert "<script>" not in svg
    assert "&quot;&gt;&lt;script&gt;" in svg


def test_another_run_in_the_same_chart() -> None:
    first, second = FakeRun("first"), FakeRun("second")
    first.train(20)
    second.train(7)
    chart = RunChart(first)
    chart.follow(second)
    assert len(state_of(chart, "loss")) == 7
    assert chart.layout.title.text == "second"
    assert repr(chart) == "RunChart('second')"
    first.train(5, 21)
    time.sleep(0.6)
    assert len(state_of(chart, "loss")) == 7
    chart.close()


def test_the_form_of_the_chart_fits_the_place(monkeypatch: pytest.MonkeyPatch) -> None:
    run = FakeRun()
    run.train(3)
    run.status = "finished"
    assert type(live_chart(run)) is go.Figure  # this is no notebook
    assert isinstance(live_chart(run, "plotly"), RunChart)
    assert isinstance(live_chart(run, "svg"), SvgChart)
    with pytest.raises(ValueError, match="'jpg'"):
        live_chart(run, "jpg")

    def no_anywidget(self: Any, *_: Any, **__: Any) -> None:
        raise ImportError("Please install anywidget to use the FigureWidget class")

    monkeypatch.setattr("ftkit.ui.charts._in_kernel", lambda: True)
    assert isinstance(live_chart(run), RunChart)
    monkeypatch.setattr(RunChart, "__init__", no_anywidget)
    assert isinstance(live_chart(run), SvgChart)
    with pytest.raises(ImportError):
        live_chart(run, "plotly")


@pytest.mark.parametrize("steps", [0, 1, 2, 60, 3_000])
@pytest.mark.parametrize("log", [False, True])
def test_the_svg_is_well_formed_and_says_what_it_shows(steps: int, log: bool) -> None:
    import xml.etree.ElementTree as ET

    run = FakeRun()
    run.train(steps)
    history = History(run)
    history.read()
    svg = loss_svg(history, log=log, message="Waiting & waiting")
    root = ET.fromstring(svg)
    assert root.get("role") == "img"
    assert ("Losses of demo, now train loss" in root.get("aria-label", "")) == (steps > 0)
    assert ("Waiting & waiting" in "".join(root.itertext())) == (steps == 0)
    assert "nan" not in svg
    assert len(svg) < 60_000


def test_the_svg_survives_odd_losses() -> None:
    run = FakeRun()
    for step, loss in enumerate((2.0, 2.0, 2.0), 1):
        run.log(step, loss=loss)
    history = History(run)
    history.read()
    assert "polyline" in loss_svg(history)
    assert "polyline" in loss_svg(history, log=True)
    negative = FakeRun()
    negative.log(1, loss=-1.0)
    negative.log(2, loss=0.0)
    history = History(negative)
    history.read()
    assert "polyline" in loss_svg(history)
    assert "polyline" not in loss_svg(history, log=True)
