"""The Lab: tabs over one workspace, built when looked at."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from ftkit.recipe import Recipe
from ftkit.ui import Lab, TokenView
from ftkit.ui.code import CodeView

from .fake_run import FakeRun


def test_only_the_first_panel_is_built_and_it_is_quick() -> None:
    Lab()
    before = time.perf_counter()
    lab = Lab()
    assert time.perf_counter() - before < 3
    assert list(lab._panels) == ["model"]
    assert repr(lab) == "Lab(model='starter', data='starter:extract')"


def test_panels_share_the_recipe(tmp_path: Path) -> None:
    lab = Lab(recipe=Recipe(training={"epochs": 3}), folder=tmp_path)
    assert lab.recipe.output.folder == tmp_path
    lab.model.choose("org/name")
    lab.train.preset("thorough")
    assert lab.recipe.model.source == "org/name"
    assert lab.recipe.training.epochs == 5
    assert "org/name" in lab._head.value


def test_a_recipe_file_opens(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    Recipe(training={"epochs": 4}).to_yaml(path)
    assert Lab(recipe=path).recipe.training.epochs == 4


def test_next_leads_through_the_tabs() -> None:
    lab = Lab()
    lab.show("train")
    assert lab._tabs.selected_index == 2
    lab.train._monitor.children[0].click()
    assert lab._tabs.selected_index == 3
    lab.show("train")
    lab.train._monitor.children[0].click()
    assert lab._tabs.selected_index == 3


def test_a_run_is_named_in_the_head_and_marked_on_its_tab() -> None:
    lab = Lab()
    run = FakeRun("<i>mine")
    lab.workspace.run = run
    assert "&lt;i&gt;mine" in lab._head.value
    assert lab._tabs.titles[3] == "Monitor •"
    run.status = "finished"
    end = time.monotonic() + 5
    while "finished" not in lab._head.value and time.monotonic() < end:
        time.sleep(0.05)
    assert "finished" in lab._head.value
    assert lab._tabs.titles[3] == "Monitor"


def test_a_run_that_is_resumed_elsewhere_is_not_called_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ftkit.ui.lab.SECONDS_BETWEEN_LOOKS", 0.05)
    monkeypatch.setattr("ftkit.ui.panels.train.SECONDS_BETWEEN_LOOKS", 0.05)
    lab = Lab()
    lab.show("train")
    run = FakeRun()
    run.status = "stopped"
    lab.workspace.run = run
    assert "stopped" in lab._head.value
    run.status = "running"
    end = time.monotonic() + 5
    while time.monotonic() < end and not ("running" in lab._head.value and lab.train._start.disabled):
        time.sleep(0.02)
    assert "running" in lab._head.value
    assert lab.train._start.disabled
    lab.close()


def test_a_panel_that_cannot_be_built_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: object, tab: str) -> None:
        raise ImportError("no <plotly>")

    lab = Lab()
    monkeypatch.setattr(Lab, "_panel", broken)
    lab.show("monitor")
    assert "no &lt;plotly&gt;" in lab._tabs.children[3].children[0].value


def test_token_and_code_views_carry_the_theme_and_a_stable_repr() -> None:
    tokens = [{"id": 1, "text": "a", "trained": True, "special": False}]
    view = TokenView(tokens, label="Row 1")
    assert repr(view) == "TokenView('Row 1', tokens=1, trained=1)"
    assert "--ftk-brand" in view._css
    assert "innerHTML" not in view._esm
    assert "innerHTML" not in CodeView("x = 1")._esm
