"""A page that opens may miss what changes meanwhile: it is told again."""

from __future__ import annotations

from typing import Any

import ipywidgets as widgets
import pytest

from ftkit.ui import Lab, MonitorPanel
from ftkit.ui.charts import RunChart
from ftkit.ui.closing import all_parts
from ftkit.ui.reopened import Reopened


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[widgets.Widget]:
    """The widgets whose whole state was sent."""
    sent: list[widgets.Widget] = []
    real = widgets.Widget.send_state

    def send_state(self: widgets.Widget, key: Any = None) -> None:
        if key is None:
            sent.append(self)
        real(self, key)

    monkeypatch.setattr(widgets.Widget, "send_state", send_state)
    return sent


def shows(widget: widgets.Widget) -> None:
    """What a page says once it shows a widget."""
    widget._handle_custom_msg({"shown": True}, [])


def test_a_panel_says_all_again_to_the_second_page(told: list[widgets.Widget]) -> None:
    panel = MonitorPanel()
    beacon = next(part for part in panel.children if isinstance(part, Reopened))
    told.clear()
    shows(beacon)
    assert told == []
    shows(beacon)
    assert {panel._head, panel._message, panel._stop} <= set(told)
    panel.close()


def test_the_lab_says_its_head_and_tabs_again(told: list[widgets.Widget]) -> None:
    lab = Lab()
    beacon = next(part for part in lab.children if isinstance(part, Reopened))
    shows(beacon)
    told.clear()
    shows(beacon)
    assert told == [lab._head, lab._tabs]
    lab.close()


def test_a_chart_draws_all_again(monkeypatch: pytest.MonkeyPatch) -> None:
    chart = RunChart()
    drawn: list[bool] = []
    monkeypatch.setattr(RunChart, "draw", lambda self, changed=None, final=False: drawn.append(final))
    shows(chart)
    assert drawn == []
    shows(chart)
    assert drawn == [True]
    assert chart in all_parts(widgets.VBox([chart]))
    chart.close()
