"""A model found from the keyboard, and a pasted file, in a real JupyterLab."""

from __future__ import annotations

from collections.abc import Callable

from playwright.sync_api import expect

from .jupyter import Notebook

FOREIGN = """model_name_or_path: org/<i>name</i>
stage: sft
do_train: true
dataset: poems
learning_rate: 2e-5
tpu_num_cores: 8
output_dir: saves/poems
"""


def test_a_model_is_found_and_taken_from_the_keyboard(open_notebook: Callable[..., Notebook]) -> None:
    notebook = open_notebook(
        [
            "import ftkit",
            "panel = ftkit.ui.ModelPanel()\npanel.workspace.edit({'compute.offline': True})\npanel",
        ],
        height=1200,
    )
    notebook.run_all()
    panel = notebook.output(1)
    panel.get_by_role("button", name="Hub id").click()
    panel.get_by_label("Find a model").fill("qwen 3 instruct")
    expect(panel.get_by_label("Models found").locator("option")).to_have_count(3)
    for key in ("Tab", "ArrowDown"):
        notebook.page.keyboard.press(key)
    expect(panel.locator(".ftk-sheet code")).to_have_text("Qwen/Qwen3-4B-Instruct-2507")
    for key in ("Tab", "Enter"):
        notebook.page.keyboard.press(key)
    expect(panel.get_by_label("Hub id", exact=True)).to_have_value("Qwen/Qwen3-4B-Instruct-2507")
    assert notebook.errors == []


def test_a_pasted_file_is_shown_key_by_key_and_used(open_notebook: Callable[..., Notebook]) -> None:
    notebook = open_notebook(["import ftkit", "panel = ftkit.ui.TrainPanel()\npanel"], height=1800)
    notebook.run_all()
    panel = notebook.output(1)
    panel.get_by_role("button", name="Open or paste").click()
    box = panel.get_by_label("Recipe or LLaMA-Factory file")
    box.fill(FOREIGN + "lora_rnk: 8\n")
    panel.get_by_role("button", name="Show what it becomes").click()
    expect(panel.get_by_text("Did you mean 'lora_rank'?")).to_be_visible()
    expect(panel.get_by_role("button", name="Use it")).to_be_disabled()
    box.fill(FOREIGN)
    panel.get_by_role("button", name="Show what it becomes").click()
    row = panel.get_by_role("row").filter(has_text="learning_rate")
    expect(row.first).to_contain_text("training.learning_rate: 2e-05")
    panel.get_by_role("button", name="Use it").click()
    expect(panel.get_by_label("Learning rate", exact=True)).to_have_value("2e-05")
    expect(panel.get_by_text("In use")).to_be_visible()
    assert notebook.errors == []
