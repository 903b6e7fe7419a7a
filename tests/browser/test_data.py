"""The Data panel in a real JupyterLab: columns mapped by hand, findings followed, hostile text as text."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import expect

from .jupyter import Notebook

ROWS = """
import csv, ftkit
hostile = "<script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'>"
rows = [(f"Frage {{n}}", f"Antwort {{n}}") for n in range(30)]
rows[20] = (hostile, hostile + " ann@example.org")
with open("fragen.csv", "w", newline="") as file:
    csv.writer(file).writerows([("frage", "antwort"), *rows])
panel = ftkit.ui.DataPanel(ftkit.ui.Workspace(ftkit.Recipe(
    model={model!r}, data={{"source": "fragen.csv", "held_out_fraction": 0}})))
panel
"""
ASKED = "print(panel.workspace.recipe.data.format, panel.workspace.recipe.data.columns)"


@pytest.fixture
def notebook(open_notebook: Callable[..., Notebook], tiny_model_folder: Callable[..., Path]) -> Notebook:
    opened = open_notebook([ROWS.format(model=str(tiny_model_folder())), ASKED], height=1400)
    opened.run(0)
    return opened


def test_columns_are_mapped_and_a_finding_is_followed(notebook: Notebook) -> None:
    panel = notebook.output(0)
    expect(panel.get_by_role("alert")).to_contain_text("not of a known format")
    panel.get_by_label("Format", exact=True).select_option("prompt-completion")
    panel.get_by_label("Prompt *").select_option("frage")
    panel.get_by_label("Response *").select_option("antwort")
    expect(panel.get_by_text("30 to train on")).to_be_visible(timeout=30_000)
    expect(panel.get_by_role("alert")).to_have_count(0)
    notebook.run(1)
    assert notebook.text(1).split() == [
        "prompt-completion",
        "{'prompt':",
        "'frage',",
        "'response':",
        "'antwort'}",
    ]

    tokens = panel.locator(".ftk-tokens").first
    expect(tokens).to_contain_text("Antwort", timeout=60_000)
    panel.get_by_role("button", name="Next row").click()
    expect(panel.get_by_text("Row 2 as the model reads it")).to_be_visible()
    reader = tokens.get_by_role("group")
    reader.press("PageDown")
    expect(panel.get_by_text("Row 3 as the model reads it")).to_be_visible()
    reader.press("ArrowRight")
    expect(tokens.get_by_role("status")).to_contain_text("Token 1 of")
    expect(tokens.get_by_role("status")).to_contain_text("id ")

    finding = panel.locator(".ftk-findings .ftk-row").filter(has_text="E-mail addresses")
    finding.get_by_role("button", name="Show rows").click()
    expect(panel.get_by_text("Row 21 as the model reads it")).to_be_visible()
    expect(panel.get_by_text("1 of 30 rows: E-mail addresses")).to_be_visible()
    table = panel.get_by_role("grid")
    expect(table.locator("tbody tr")).to_have_count(1)
    expect(table).to_contain_text("<script>window.hacked = 1</script>")
    expect(tokens).to_contain_text("onerror")
    assert notebook.page.evaluate("() => window.hacked === undefined")
    panel.get_by_role("button", name="Show all rows").click()
    expect(table.locator("tbody tr")).to_have_count(5)
    assert notebook.errors == []


def test_rows_are_searched_jumped_to_and_moved_through_by_keyboard(notebook: Notebook) -> None:
    panel = notebook.output(0)
    panel.get_by_label("Format", exact=True).select_option("prompt-completion")
    panel.get_by_label("Prompt *").select_option("frage")
    panel.get_by_label("Response *").select_option("antwort")
    table = panel.get_by_role("grid")
    expect(table).to_contain_text("Frage 0", timeout=30_000)

    panel.get_by_label("Search").fill("ANTWORT 1")
    expect(panel.get_by_text("11 of 30 rows hold")).to_be_visible()
    expect(table.locator("mark").first).to_have_text("Antwort 1")
    expect(table.locator("tbody tr")).to_have_count(5)
    table.press("PageDown")
    expect(table.locator("tbody tr[aria-selected=true]")).to_contain_text("Frage 14")
    table.press("End")
    expect(table.locator("tbody tr[aria-selected=true]")).to_contain_text("Frage 19")
    table.press("ArrowUp")
    expect(table.locator("tbody tr[aria-selected=true]")).to_contain_text("Frage 18")
    panel.get_by_label("Search").fill("<script>")
    expect(panel.get_by_text("1 of 30 rows hold")).to_be_visible()
    expect(table.locator("mark").first).to_have_text("<script>")
    panel.get_by_label("Search").fill("")
    expect(table.locator("tbody tr")).to_have_count(5)

    row = panel.get_by_label("Row", exact=True)
    row.fill("28")
    row.press("Enter")
    expect(table.locator("tbody tr[aria-selected=true]")).to_contain_text("Frage 27")
    table.locator("tbody tr").nth(0).click()
    expect(table.locator("tbody tr[aria-selected=true]")).to_contain_text("Frage 25")
    expect(panel.locator(".ftk-tokens").first).to_contain_text("Row 26", timeout=60_000)
    expect(panel.get_by_role("button", name="Copy text")).to_be_visible()
    assert notebook.page.evaluate("() => window.hacked === undefined")
    assert notebook.errors == []


UPLOADED = """
import ftkit
rows_here = [{{"prompt": f"kernel {{n}}", "completion": f"answer {{n}}"}} for n in range(9)]
panel = ftkit.ui.DataPanel(ftkit.ui.Workspace(ftkit.Recipe(model={model!r}, data="starter:persona")))
panel
"""


def test_files_are_uploaded_and_rows_of_the_notebook_chosen(
    open_notebook: Callable[..., Notebook], tiny_model_folder: Callable[..., Path], tmp_path: Path
) -> None:
    hostile = "<img src=x onerror='window.hacked = 1'>"
    small = tmp_path / "chats.jsonl"
    small.write_text((json.dumps({"prompt": f"uploaded {hostile}", "completion": "fine"}) + "\n") * 3)
    big = tmp_path / "big.csv"  # several pieces
    big.write_text("prompt,completion\n" + "".join(f"question {n},{'word ' * 400}\n" for n in range(3000)))
    notebook = open_notebook([UPLOADED.format(model=str(tiny_model_folder()))], height=1400)
    notebook.run(0)
    panel = notebook.output(0)
    panel.get_by_role("button", name="Your data").click()
    upload = panel.locator(".ftk-upload")
    upload.locator("input[type=file]").set_input_files(small)
    expect(upload.get_by_role("status")).to_have_text("chats.jsonl is there.", timeout=30_000)
    expect(panel.get_by_role("grid")).to_contain_text(hostile, timeout=30_000)

    upload.locator("input[type=file]").set_input_files([big, small])
    expect(upload.get_by_role("status")).to_have_text("2 files are there.", timeout=60_000)
    expect(panel.get_by_text("uploads/big.csv + uploads/chats.jsonl").first).to_be_visible(timeout=60_000)

    wrong = tmp_path / "model.bin"
    wrong.write_bytes(b"\0")
    upload.locator("input[type=file]").set_input_files([wrong, small])
    expect(upload.get_by_role("status")).to_contain_text("chats.jsonl is there. model.bin is no data file")

    panel.get_by_label("Found here").select_option("rows_here: list of 9 rows")
    expect(panel.get_by_role("grid")).to_contain_text("kernel 0", timeout=30_000)
    assert notebook.page.evaluate("() => window.hacked === undefined")
    assert notebook.errors == []


def test_an_upload_is_cancelled_while_it_runs_and_while_the_kernel_is_silent(
    open_notebook: Callable[..., Notebook], tiny_model_folder: Callable[..., Path], tmp_path: Path
) -> None:
    large = tmp_path / "large.txt"
    large.write_bytes(b"a line of text\n" * 8_000_000)
    cells = [
        UPLOADED.format(model=str(tiny_model_folder())),
        "import os; print(os.getpid())",
        "print([n for n in os.listdir('uploads') if 'large' in n], panel.workspace.recipe.data.source)",
    ]
    notebook = open_notebook(cells, height=1400)
    notebook.run(0)
    panel = notebook.output(0)
    panel.get_by_role("button", name="Your data").click()
    expect(panel.get_by_text("Nothing is chosen yet")).to_be_visible()
    upload = panel.locator(".ftk-upload")
    says, cancel = upload.get_by_role("status"), upload.get_by_role("button", name="Cancel upload")
    upload.locator("input[type=file]").set_input_files(large)
    expect(says).to_contain_text("of 120.0 MB,", timeout=30_000)
    cancel.click()
    expect(says).to_contain_text("Cancelled; nothing is kept")
    expect(upload.get_by_role("button", name="Upload files")).to_be_enabled()
    notebook.run(1)
    notebook.run(2)
    assert notebook.text(2).split() == ["[]", "starter:persona"]

    kernel = int(notebook.text(1))
    os.kill(kernel, signal.SIGSTOP)
    try:
        upload.locator("input[type=file]").set_input_files(large)
        expect(says).to_contain_text("kernel is busy with a cell", timeout=10_000)
        cancel.click()
        expect(says).to_contain_text("Cancelled; nothing is kept", timeout=1_000)
    finally:
        os.kill(kernel, signal.SIGCONT)
    for _ in range(20):  # the cell may run before the messages that waited
        notebook.run(2)
        if notebook.text(2).startswith("[]"):
            break
        notebook.page.wait_for_timeout(250)
    assert notebook.text(2).split() == ["[]", "starter:persona"]
    assert notebook.errors == []
