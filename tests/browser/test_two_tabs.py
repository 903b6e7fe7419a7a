"""Two tabs on one notebook, two kernels on one run: each page shows what is true and steers the run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, expect

from .jupyter import Notebook

pytestmark = pytest.mark.slow

PATIENCE = 120_000
"""Milliseconds: a slow machine has two kernels, a run and three pages to serve."""

START = """
import ftkit
from ftkit.ui import MonitorPanel
run = ftkit.start(ftkit.Recipe(
    model={model!r}, data={{"source": "starter:extract", "max_rows": 16}},
    training={{"max_steps": 100_000, "batch_size": 2, "evals": 0}},
    compute={{"device": "cpu", "fast": False, "threads": 1}},
    output={{"folder": {folder!r}, "name": "shared"}},
))
"""
ATTACH = """
import ftkit
from ftkit.ui import MonitorPanel
run = ftkit.attach({folder!r} + "/shared")
"""
SHOW = "monitor = MonitorPanel(run=run)\nmonitor.draw_with('svg')\nmonitor"


def button(panel: Locator, name: str) -> Locator:
    return panel.get_by_role("button", name=name, exact=True).locator("visible=true")


def shows(state: str, *panels: Locator) -> None:
    for panel in panels:
        head = panel.locator(".ftk-run-head")
        expect(head.get_by_text(state, exact=True)).to_be_visible(timeout=PATIENCE)


def moves_on(*panels: Locator) -> None:
    """Each page shows a later step than now."""
    for panel in panels:
        step = panel.locator(".ftk-progress span").first
        expect(step).to_contain_text("step", timeout=PATIENCE)
        expect(step).not_to_have_text(step.inner_text(), timeout=PATIENCE)


@pytest.fixture
def another_tab(browser: Browser) -> Callable[[Notebook], Notebook]:
    """A factory: a notebook that is open already, in a second tab."""

    def open_(notebook: Notebook) -> Notebook:
        context = browser.new_context(viewport=notebook.page.viewport_size)
        return Notebook(context.new_page(), notebook.url)

    return open_


def test_two_tabs_and_two_kernels_show_one_run_as_it_is(
    open_notebook: Callable[..., Notebook],
    another_tab: Callable[[Notebook], Notebook],
    tiny_model_folder: Callable[..., Path],
    tmp_path: Path,
) -> None:
    folder = str(tmp_path / "runs")
    first = open_notebook([START.format(model=str(tiny_model_folder()), folder=folder), SHOW])
    first.run(0, timeout=PATIENCE / 1000)
    first.run(1, timeout=PATIENCE / 1000)
    one = first.output(1)
    shows("running", one)
    moves_on(one)
    first.save()

    second = open_notebook([ATTACH.format(folder=folder), SHOW])
    second.run(0, timeout=PATIENCE / 1000)
    second.run(1, timeout=PATIENCE / 1000)
    other = second.output(1)  # another kernel

    tab = another_tab(first)
    same = tab.output(1)  # the same kernel and the same panel, in a second tab
    everywhere = (one, same, other)
    shows("running", *everywhere)
    moves_on(*everywhere)

    button(other, "Pause").click()
    shows("paused", *everywhere)
    button(same, "Resume").click()
    shows("running", *everywhere)
    moves_on(*everywhere)
    button(same, "Stop").click()
    shows("stopped", *everywhere)

    button(other, "Resume").click()  # it goes on in the second kernel
    shows("running", *everywhere)
    moves_on(*everywhere)
    button(one, "Stop").click()
    shows("stopped", *everywhere)
    assert first.errors == tab.errors == second.errors == []
    tab.page.context.close()
