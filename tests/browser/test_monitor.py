"""The Monitor in a real JupyterLab: a chart that grows beside a busy cell and is whole after every reload."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from .jupyter import Notebook

# A run folder written by a thread as a run writes it: 20 steps a second, without a model
GROWING = """
import os, threading, time, ftkit
from ftkit.runs.folder import RunFolder
from ftkit.ui import MonitorPanel

STEPS = {steps}
folder = RunFolder.create(ftkit.Recipe(output={{"folder": "runs", "name": "{name}"}}))
folder.claim(os.getpid(), "thread")
wishes = folder.wishes()

def state(name):
    folder.log.append("state", state=name, detail=None, error=None)

def write():
    folder.log.append("stage", text="Training", fraction=None)
    folder.log.append("steps", step=0, total_steps=STEPS)
    for step in range(1, STEPS + 1):
        if any(wish.name == "stop" for wish in wishes.heard()):
            break
        folder.log.append("train", step=step, epoch=step / 100, loss=0.5 + 3 / step, learning_rate=1e-4,
                          grad_norm=1.0, tokens=100, tokens_per_second=500.0, memory_gb=1.5,
                          gpu_memory_gb=None, elapsed=step / 20)
        if step % 20 == 0:
            folder.log.append("eval", step=step, epoch=step / 100, loss=0.6 + 3 / step, seconds=0.1)
        time.sleep(0.05)
    state("finished" if step == STEPS else "stopped")

state("running")
thread = threading.Thread(target=write, daemon=True)
thread.start()
monitor = MonitorPanel(run=ftkit.attach(folder.path))
monitor
"""
POINTS = "() => document.querySelector('.js-plotly-plot')?.data?.[0]?.y?.length ?? 0"


def points(notebook: Notebook) -> int:
    """How many points of the train loss the page shows."""
    return int(notebook.page.evaluate(POINTS))


LAST_STEP = "() => document.querySelector('.js-plotly-plot')?.data?.[0]?.x?.at(-1) ?? 0"


def last_step(notebook: Notebook) -> int:
    """The newest step that the page shows. A chart has a budget of points: their number does not tell."""
    return int(notebook.page.evaluate(LAST_STEP))


def wait_for_step(notebook: Notebook, step: int) -> None:
    notebook.page.wait_for_function(f"step => ({LAST_STEP})() >= step", arg=step, timeout=30_000)


def wait_for_points(notebook: Notebook, count: int) -> None:
    notebook.page.wait_for_function(f"count => ({POINTS})() >= count", arg=count, timeout=30_000)


def test_the_chart_grows_beside_a_busy_cell_and_survives_reloads(
    open_notebook: Callable[..., Notebook],
) -> None:
    notebook = open_notebook(
        [GROWING.format(name="grown", steps=300), "time.sleep(5)", "thread.join(); time.sleep(1)"]
    )
    notebook.run(0)
    wait_for_points(notebook, 5)
    notebook.start_cell(1)
    before = points(notebook)
    wait_for_points(notebook, before + 20)
    assert notebook.page.evaluate(
        "() => window.jupyterapp.shell.currentWidget.content.widgets[1].model.executionState === 'running'"
    ), "the chart grew, but no longer beside the busy cell"
    notebook.page.wait_for_function(
        "() => window.jupyterapp.shell.currentWidget.content.widgets[1].model.executionState !== 'running'"
    )

    before = points(notebook)
    notebook.reload()
    wait_for_points(notebook, before)
    wait_for_points(notebook, before + 20)  # and it goes on

    notebook.theme("dark")
    notebook.run(2)
    wait_for_points(notebook, 300)
    notebook.output(0).get_by_text("finished", exact=True).wait_for()
    notebook.reload()
    wait_for_points(notebook, 300)
    assert notebook.page.evaluate("() => document.querySelector('.js-plotly-plot').data[2].y.length") == 15
    notebook.output(0).get_by_text("step 300 of 300").wait_for()
    assert notebook.errors == []


STALE = """async (id) => {
    const rendermime = window.jupyterapp.shell.currentWidget.content.rendermime;
    const type = "application/vnd.jupyter.widget-view+json";
    const manager = await rendermime.getFactory(type).createRenderer({ mimeType: type })._manager.promise;
    (await manager.get_model(id)).set("value", "as it was when the page asked");
}"""


def test_what_a_page_missed_while_it_opened_is_told_again(open_notebook: Callable[..., Notebook]) -> None:
    """A page hears of no change between its asking for all states and having made its models."""
    notebook = open_notebook(
        [
            GROWING.format(name="missed", steps=10),
            "thread.join(); time.sleep(1); print(monitor._head.model_id)",
        ]
    )
    notebook.run(0)
    notebook.run(1)
    panel = notebook.output(0)
    panel.get_by_text("finished", exact=True).wait_for()
    notebook.page.evaluate(STALE, notebook.text(1).strip())
    panel.get_by_text("as it was when the page asked").wait_for()
    notebook.page.evaluate("() => { window.jupyterapp.shell.currentWidget.content.activeCellIndex = 0; }")
    notebook.command("notebook:create-output-view")
    panel.get_by_text("finished", exact=True).wait_for()
    assert notebook.errors == []


def test_it_is_steered_by_role_and_name(open_notebook: Callable[..., Notebook]) -> None:
    notebook = open_notebook(
        [GROWING.format(name="steered", steps=10_000), "monitor.run.wait(20).status"], width=900
    )
    notebook.run(0)
    wait_for_points(notebook, 5)
    panel = notebook.output(0)
    panel.get_by_label("Logarithmic loss").check()
    notebook.page.wait_for_function(
        "() => document.querySelector('.js-plotly-plot').layout.yaxis.type === 'log'", timeout=10_000
    )
    panel.get_by_label("Chart", exact=True).select_option("Simple")
    panel.get_by_role("img", name="Losses of steered, now train loss").wait_for()
    panel.get_by_label("Chart", exact=True).select_option("Interactive")
    wait_for_points(notebook, 10)
    assert panel.get_by_role("button", name="Share").count() == 0  # a run stays on this machine
    panel.get_by_role("button", name="Stop").click()
    panel.get_by_text("stopped", exact=True).wait_for()
    notebook.run(1)
    assert "stopped" in notebook.text(1)
    panel.get_by_role("button", name="Resume").wait_for()
    panel.get_by_role("button", name="Save metrics as CSV").click()
    panel.get_by_text("Saved the metrics in").wait_for()
    assert notebook.errors == []


def test_a_cell_run_again_mid_run_shows_a_chart_that_goes_on(open_notebook: Callable[..., Notebook]) -> None:
    notebook = open_notebook(
        [GROWING.format(name="again", steps=400), "monitor", "chart = monitor.run.chart(); chart"]
    )
    notebook.run(0)
    wait_for_points(notebook, 5)
    for cell in (1, 1, 2, 2):
        notebook.run(cell)
    notebook.page.evaluate("() => window.jupyterapp.commands.execute('notebook:clear-cell-output')")
    notebook.run(1)
    charts = "[...document.querySelectorAll('.js-plotly-plot')]"
    views = f"() => {charts}.map(chart => chart.data?.[0]?.y?.length ?? 0)"
    notebook.page.wait_for_function(f"() => ({views})().length === 2 && ({views})().every(n => n > 0)")
    before = max(notebook.page.evaluate(views))
    notebook.page.wait_for_function(f"before => ({views})().every(n => n > before)", arg=before)
    assert notebook.errors == []


def test_a_run_comes_back_in_a_new_kernel_by_the_list(
    open_notebook: Callable[..., Notebook], tmp_path: Path
) -> None:
    cells = [
        f"import os; os.chdir({str(tmp_path)!r})",
        GROWING.format(name="earlier", steps=30) + "\nthread.join()",
        "import ftkit; from ftkit.ui import MonitorPanel; MonitorPanel()",
    ]
    first = open_notebook(cells)
    first.run(0)
    first.run(1)
    second = open_notebook(cells)
    second.run(0)
    second.run(2)
    second.output(2).get_by_text("No run to watch yet").wait_for()
    second.output(2).get_by_label("Open a run").select_option("earlier (finished)")
    wait_for_points(second, 30)
    second.output(2).get_by_text("step 30 of 30").wait_for()
    assert second.errors == []


def test_the_chart_fits_its_place_when_a_hidden_tab_is_shown(open_notebook: Callable[..., Notebook]) -> None:
    show = "import ipywidgets\nipywidgets.Tab(children=[ipywidgets.HTML('first'), monitor])"
    notebook = open_notebook(
        [GROWING.format(name="hidden", steps=20) + "\nthread.join(); None", show], width=1280
    )
    notebook.run(0)
    notebook.run(1)
    notebook.page.wait_for_timeout(2_000)
    notebook.output(1).get_by_role("tab").nth(1).click()
    fits = """() => {
        const chart = document.querySelector('.js-plotly-plot');
        const drawn = Number(chart?.querySelector('.main-svg')?.getAttribute('width'));
        return drawn > 800 && Math.abs(drawn - chart.clientWidth) < 2;
    }"""
    notebook.page.wait_for_function(fits, timeout=10_000)
    notebook.page.set_viewport_size({"width": 1100, "height": 1000})
    notebook.page.wait_for_function(fits.replace("> 800", "> 600 && drawn < 1000"), timeout=10_000)
    assert notebook.errors == []


def test_many_charts_share_one_module_and_all_go_on_after_a_reload(
    open_notebook: Callable[..., Notebook],
) -> None:
    show = "import ipywidgets\nipywidgets.VBox([monitor.run.chart() for _ in range(6)])"
    notebook = open_notebook([GROWING.format(name="many", steps=10_000) + "\nNone", show])
    notebook.run(0)
    notebook.run(1)
    counts = "[...document.querySelectorAll('.js-plotly-plot')].map(chart => chart.data?.[0]?.y?.length ?? 0)"
    all_above = f"before => {counts}.length === 6 && {counts}.every(count => count > before)"
    notebook.page.wait_for_function(all_above, arg=0, timeout=60_000)
    notebook.reload()
    notebook.page.wait_for_function(all_above, arg=0, timeout=60_000)
    before = max(notebook.page.evaluate(f"() => {counts}"))
    notebook.page.wait_for_function(all_above, arg=before, timeout=60_000)
    assert notebook.page.evaluate("() => globalThis.ftkModules.size") == 1
    assert notebook.errors == []
