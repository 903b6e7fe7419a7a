"""Cards in a real JupyterLab: a method and an objective chosen, their fields, what is greyed out, a run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from playwright.sync_api import Locator, expect

from .jupyter import Notebook
from .test_lab import button, tab
from .test_monitor import wait_for_points

LAB = """
import importlib.util, ftkit
from ftkit.recipe import extras
ABSENT = ("trl", "pytorch_optimizer")
extras.find_spec = lambda name: None if name in ABSENT else importlib.util.find_spec(name)
lab = ftkit.Lab(recipe=ftkit.Recipe(
    model={model!r}, data={{"source": {rows!r}, "eval_rows": 2}},
    compute={{"device": "cpu", "dtype": "float32"}}, output={{"name": "by-cards"}},
))
lab
"""


def pairs(folder: Path) -> Path:
    """Preference pairs, easy to tell apart."""
    rows = [
        {"prompt": f"What is {n} + 1?", "chosen": f"It is {n + 1}.", "rejected": "The quick brown fox."}
        for n in range(24)
    ]
    path = folder / "pairs.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def field(lab: Locator, name: str) -> Locator:
    return lab.get_by_label(name, exact=True).locator("visible=true")


def test_a_method_and_an_objective_are_chosen_by_their_cards_and_trained(
    open_notebook: Callable[..., Notebook], tiny_model_folder: Callable[..., Path], tmp_path: Path
) -> None:
    cell = LAB.format(model=str(tiny_model_folder()), rows=str(pairs(tmp_path)))
    notebook = open_notebook([cell, "lab.run.wait(60); lab.recipe.method.type, lab.recipe.objective.type"])
    notebook.run(0)
    lab = notebook.output(0)

    expect(field(lab, "Alpha")).to_have_value("32")
    button(lab, "Choose another method").click()
    methods = lab.get_by_role("radiogroup", name="Method")
    expect(methods.get_by_role("link", name="Kopiczko et al. 2023")).to_have_attribute(
        "href", "https://arxiv.org/abs/2310.11454"
    )
    methods.get_by_role("radio", name="VeRA").check()
    expect(field(lab, "First scale")).to_have_value("0.1")
    expect(field(lab, "Alpha")).to_have_count(0)
    notebook.page.keyboard.press("ArrowRight")  # the keys of radio buttons, which JupyterLab would take
    expect(methods.get_by_role("radio", name="Prompt tuning")).to_be_checked()
    expect(field(lab, "Tokens")).to_have_value("20")
    notebook.page.keyboard.press("ArrowLeft")
    expect(field(lab, "First scale")).to_be_visible()

    tab(lab, "Train").click()
    expect(field(lab, "Train on")).to_be_visible()
    button(lab, "Choose another objective").click()
    objectives = lab.get_by_role("radiogroup", name="Objective")
    expect(objectives.get_by_role("radio", name="GRPO")).to_be_disabled()
    expect(objectives.get_by_text("pip install 'ftkit[trl]'").first).to_be_visible()
    objectives.get_by_text("GRPO", exact=True).click(force=True)
    expect(objectives.get_by_role("radio", name="Chat (supervised)")).to_be_checked()
    objectives.get_by_text("Prefer the chosen reply to the rejected").click()  # anywhere on the card
    expect(objectives.get_by_role("radio", name="DPO")).to_be_checked()
    expect(field(lab, "Beta")).to_have_value("0.1")
    expect(field(lab, "Train on")).to_have_count(0)
    expect(field(lab, "Learning rate")).to_have_value("0.0004")
    button(lab, "Done").click()
    expect(objectives).to_have_count(0)

    lab.get_by_text("More training settings").click()
    optimizer = field(lab, "Optimizer")
    expect(optimizer.locator("option", has_text="lion").first).to_be_disabled()
    optimizer.select_option("sgd")
    expect(field(lab, "Settings of the optimizer")).to_have_attribute(
        "placeholder", "momentum: 0.0, nesterov: false"
    )
    optimizer.select_option("adamw")

    button(lab, "Start").click()
    tab(lab, "Monitor").click()
    expect(lab.get_by_text("Pairs told apart").first).to_be_visible(timeout=60_000)
    wait_for_points(notebook, 2)
    expect(lab.locator(".js-plotly-plot").get_by_text("Margin: chosen less rejected")).to_be_visible()
    notebook.run(1)
    assert "('vera', 'dpo')" in notebook.text(1)
    assert notebook.errors == []


def test_what_an_objective_needs_is_asked_for_before_anything_starts(
    open_notebook: Callable[..., Notebook], tiny_model_folder: Callable[..., Path], tmp_path: Path
) -> None:
    cell = LAB.format(model=str(tiny_model_folder()), rows=str(pairs(tmp_path)))
    notebook = open_notebook([cell.replace('"trl", ', ""), "lab.run"])
    notebook.run(0)
    lab = notebook.output(0)
    tab(lab, "Train").click()
    for name, asked, text in (
        ("A teacher's words (distillation)", "Teacher", "starter"),
        ("GRPO", "Rewards", "json"),
    ):
        button(lab, "Choose another objective").click()
        lab.get_by_role("radio", name=name).check()
        button(lab, "Done").click()
        button(lab, "Start").click()
        expect(lab.get_by_role("alert").get_by_text(f"{asked} is empty.")).to_be_visible()
        field(lab, asked).fill(text)
        field(lab, asked).blur()
        expect(lab.get_by_role("alert")).to_have_count(0)
    notebook.run(1)
    assert notebook.text(1) == "", "nothing was started"
    assert notebook.errors == []
