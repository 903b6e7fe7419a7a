"""The Lab in a real JupyterLab: the main job by clicking, and what a page sees of it."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest
from playwright.sync_api import Locator, expect

from .jupyter import Notebook, Server
from .test_monitor import last_step, wait_for_points, wait_for_step

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"
LEARNED = ("assert losses", "assert after", "assert replies")
OPEN = """
lab = ftkit.Lab(recipe=ftkit.Recipe(
    model={model!r}, data={{"eval_rows": 8}}, training={{"epochs": 300}},
    compute={{"device": "cpu", "dtype": "float32"}}, output={{"name": {name!r}}},
))
lab
"""
LOADED = "import sys; print('torch' in sys.modules, 'pandas' in sys.modules)"
SECONDS_TO_PAINT = """async index => {
    const content = window.jupyterapp.shell.currentWidget.content;
    content.activeCellIndex = index;
    const begun = performance.now();
    window.jupyterapp.commands.execute("notebook:run-cell");
    while (!content.widgets[index].node.querySelector(".ftk-lab [role=tab]")) {
        if (performance.now() - begun > 30_000) throw new Error("the Lab did not come");
        await new Promise(resolve => requestAnimationFrame(resolve));
    }
    return (performance.now() - begun) / 1000;
}"""
SECONDS_TO_ANSWER = """async button => {
    const begun = performance.now();
    button.click();
    while (!button.disabled) {
        if (performance.now() - begun > 10_000) throw new Error("the button did not answer");
        await new Promise(resolve => requestAnimationFrame(resolve));
    }
    return (performance.now() - begun) / 1000;
}"""


@pytest.fixture
def open_lab(
    open_notebook: Callable[..., Notebook], tiny_model_folder: Callable[..., Path]
) -> Callable[[str], Notebook]:
    """A factory: `open_lab(name)` shows, in cell 1, a Lab set to a tiny model, whose run is called `name`."""

    def open_(name: str) -> Notebook:
        cell = OPEN.format(model=str(tiny_model_folder()), name=name)
        notebook = open_notebook(["import ftkit", cell, LOADED, "lab.run.wait(60).status"], height=1400)
        notebook.run(0)
        return notebook

    return open_


def tab(lab: Locator, name: str) -> Locator:
    return lab.get_by_role("tab", name=re.compile(f"^{name}"))


def button(lab: Locator, name: str) -> Locator:
    return lab.get_by_role("button", name=name, exact=True).locator("visible=true")


def test_from_model_to_data_to_train_to_monitor_by_clicking(
    open_lab: Callable[[str], Notebook], record_property: Callable[[str, object], None]
) -> None:
    notebook = open_lab("clicked")
    painted = notebook.page.evaluate(SECONDS_TO_PAINT, 1)
    notebook.run(2)
    assert notebook.text(2).split() == ["False", "False"], "the Lab must open without torch and pandas"
    record_property("first paint of the Lab, seconds", painted)
    assert painted < 10, "the figure for a quiet machine is tests/benchmarks/NOTES.md's"
    lab = notebook.output(1)

    expect(tab(lab, "Model")).to_have_attribute("aria-selected", "true")
    button(lab, "Next: Data").click()
    expect(lab.get_by_text(re.compile("640"))).not_to_have_count(0)
    expect(lab.locator(".ftk-tokens").first).to_be_visible(timeout=30_000)
    button(lab, "Next: Train").click()

    rate = lab.get_by_label("Learning rate", exact=True)
    rate.fill("abc")
    rate.press("Enter")
    button(lab, "Start").click()
    expect(lab.get_by_text("Mend this first; nothing was started.")).to_be_visible()
    assert rate.input_value() == "abc"
    rate.fill("0.001")
    rate.press("Enter")
    expect(lab.get_by_text("Mend this first; nothing was started.")).to_have_count(0)

    answered = button(lab, "Start").evaluate(SECONDS_TO_ANSWER)
    print(f"lab: first paint {painted:.2f} s, Start answers in {answered * 1000:.0f} ms")
    assert answered < 0.5, f"Start answered after {answered:.2f} s"
    button(lab, "Next: Monitor").click()
    wait_for_points(notebook, 5)

    before = last_step(notebook)
    notebook.reload()
    wait_for_step(notebook, before + 10)
    lab = notebook.output(1)
    expect(tab(lab, "Monitor")).to_have_attribute("aria-selected", "true")
    notebook.theme("dark")
    button(lab, "Stop").click()
    notebook.run(3)
    assert "stopped" in notebook.text(3)
    expect(lab.get_by_text("stopped").first).to_be_visible()

    whole = last_step(notebook)
    notebook.reload()
    wait_for_step(notebook, whole)
    assert last_step(notebook) == whole
    assert notebook.errors == []


def test_start_pressed_twice_starts_one_run(
    open_lab: Callable[[str], Notebook], jupyter_server: Server
) -> None:
    notebook = open_lab("twice")
    notebook.run(1)
    lab = notebook.output(1)
    tab(lab, "Train").click()
    start = button(lab, "Start")
    start.evaluate("button => { button.click(); button.click(); }")
    expect(button(lab, "Stop")).to_be_enabled(timeout=30_000)
    button(lab, "Stop").click()
    notebook.run(3)
    folders = [path.name for path in (jupyter_server.folder / "runs").iterdir()]
    assert folders.count("twice") == 1
    assert not [name for name in folders if name.startswith("twice-")]
    assert notebook.errors == []


@pytest.mark.slow
def test_the_quickstart_notebook_runs_in_the_page(
    open_notebook: Callable[..., Notebook], tmp_path: Path
) -> None:
    """Its cells, panels and charts. What it learns in 20 steps nbval asks; the page takes three of them."""
    book = nbformat.read(NOTEBOOKS / "01-quickstart.ipynb", as_version=4)
    for cell in book.cells:
        short = cell.source.replace(
            'preset("quick look")',
            'preset("quick look")\nlab.recipe = lab.recipe.replace({"training.max_steps": 3})',
        )
        lines = short.replace("held_out[:12]", "held_out[:2]").splitlines()
        cell.source = "\n".join(line for line in lines if not line.startswith(LEARNED))
    nbformat.write(book, tmp_path / "short.ipynb")
    notebook = open_notebook(tmp_path / "short.ipynb")
    notebook.run_all(timeout=240)
    expect(notebook.page.locator(".js-plotly-plot").locator("visible=true").first).to_be_visible()
    # the badges at its head are pictures from the net, which a test machine may not reach
    assert [error for error in notebook.errors if "ERR_NAME_NOT_RESOLVED" not in error] == []
