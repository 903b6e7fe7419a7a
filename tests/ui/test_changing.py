"""The Monitor's controls that change a run while it runs, and what the model answers meanwhile."""

from __future__ import annotations

from typing import Any

import ipywidgets as widgets
import pytest

from ftkit.errors import RunError
from ftkit.runs.summary import SAMPLES_KEPT, Summary
from ftkit.ui import _run_view
from ftkit.ui.changing import Changing
from ftkit.ui.panels.monitor import MonitorPanel
from tests.ui.fake_run import FakeRun


class Asked(FakeRun):
    """Writes down what is asked of it."""

    def save(self) -> None:
        self.asked.append("save")

    def evaluate(self) -> None:
        self.asked.append("evaluate")

    def sample(self) -> None:
        self.asked.append("sample")

    def stop(self, *, after_epoch: bool = False) -> None:
        self.asked.append(f"stop {after_epoch}")

    def set_learning_rate(self, peak: float) -> None:
        if not 0 < peak <= 1:
            raise RunError(f"{peak} is no learning rate.", "Give a number above 0 and at most 1.")
        self.asked.append(f"rate {peak:g}")


@pytest.fixture
def panel() -> Any:
    made = MonitorPanel(run=Asked())
    yield made
    made.close()


def test_each_button_asks_for_its_thing_and_says_so(panel: MonitorPanel) -> None:
    changing = panel.changing
    for one in (changing.save, changing.evaluate, changing.sample, changing.last_epoch):
        one.click()
        assert "after this step" in panel._message.value or "end of this epoch" in panel._message.value
    changing.rate.value = " 3e-5 "
    changing.set_rate.click()
    assert panel.run.asked == ["save", "evaluate", "sample", "stop True", "rate 3e-05"]


@pytest.mark.parametrize("text", ["", "fast", "0", "-1", "7", "<b>1</b>"])
def test_a_rate_that_is_none_stays_in_the_box_with_the_reason(panel: MonitorPanel, text: str) -> None:
    panel.changing.rate.value = text
    panel.changing.set_rate.click()
    assert "is no learning rate" in panel._message.value
    assert "<b>" not in panel._message.value.replace("<b>is", "")
    assert panel.changing.rate.value == text
    assert panel.run.asked == []


def test_they_are_there_only_while_the_run_runs(panel: MonitorPanel) -> None:
    assert panel._change_fold.layout.display is None
    panel.run.status = "finished"
    panel._refresh()
    assert panel._change_fold.layout.display == "none"


def test_every_control_says_what_it_does() -> None:
    changing = Changing(lambda wish, answer: None)
    buttons = [one for one in vars(changing).values() if isinstance(one, widgets.Button)]
    assert len(buttons) == 5
    assert all(one.tooltip for one in buttons)


def test_answers_are_shown_newest_first_as_text() -> None:
    summary = Summary()
    for step in range(1, 200):
        summary.fold({"kind": "sample", "step": step, "prompt": "<script>1</script>", "reply": f"r{step}"})
    summary.fold(
        {
            "kind": "rollout",
            "step": 200,
            "prompt": "p",
            "reply": "<img>",
            "rewards": {"json": 1.0, "x": "<i>"},
        }
    )
    assert len(summary.samples) == SAMPLES_KEPT
    again = Summary.from_json(summary.to_json())
    assert list(again.samples) == list(summary.samples)
    shown = _run_view.samples(again.samples)
    assert shown.index("&lt;img&gt;") < shown.index("r199") < shown.index("r198")
    assert "json 1" in shown
    assert "<script>" not in shown
    assert "<img>" not in shown
    assert _run_view.samples([]) == ""


def test_the_panel_shows_new_answers(panel: MonitorPanel) -> None:
    assert panel._samples.value == ""
    panel.run.summary.fold({"kind": "sample", "step": 3, "prompt": "Who?", "reply": "Marlow."})
    panel._refresh()
    assert "Marlow." in panel._samples.value
