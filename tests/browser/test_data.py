"""The Data panel in a real JupyterLab: columns mapped by hand, findings followed, hostile text as text."""

from __future__ import annotations

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

    expect(panel.locator(".ftk-tokens").first).to_contain_text("Antwort", timeout=60_000)
    panel.get_by_role("button", name="Next row").click()
    expect(panel.get_by_text("Row 2 as the model reads it")).to_be_visible()

    finding = panel.locator(".ftk-findings .ftk-row").filter(has_text="E-mail addresses")
    finding.get_by_role("button").click()
    expect(panel.get_by_text("Row 21 as the model reads it")).to_be_visible()
    expect(panel.locator(".ftk-table")).to_contain_text("<script>window.hacked = 1</script>")
    expect(panel.locator(".ftk-tokens").first).to_contain_text("onerror")
    assert notebook.page.evaluate("() => window.hacked === undefined")
    assert notebook.errors == []
