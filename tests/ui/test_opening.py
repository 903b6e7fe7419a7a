"""The box for pasted recipes: both kinds of file, errors beside the text, nothing of it trusted."""

from __future__ import annotations

from pathlib import Path

import pytest

from ftkit.errors import RecipeError
from ftkit.recipe import Recipe
from ftkit.ui import TrainPanel, Workspace
from ftkit.ui.opening import OpenBox

FOREIGN = """
model_name_or_path: org/<b>name</b>
stage: sft
do_train: true
dataset: poems
learning_rate: 2e-5
tpu_num_cores: 8
output_dir: saves/poems
"""


@pytest.fixture
def box() -> OpenBox:
    return OpenBox(Workspace())


def test_a_recipe_of_ftkit_is_used(box: OpenBox) -> None:
    recipe = Recipe(training={"epochs": 7})
    box.text = recipe.to_yaml()
    assert "A recipe of ftkit" in box._said.value
    assert box.workspace.recipe != recipe, "nothing changes before Use it"
    box._use.click()
    assert box.workspace.recipe == recipe
    assert "In use" in box._said.value


def test_a_file_of_llamafactory_shows_every_key_escaped(box: OpenBox) -> None:
    box.text = FOREIGN
    shown = box._said.value
    for words in ("learning_rate", "training.learning_rate: 2e-05", "no effect", "tpu_num_cores", "added"):
        assert words in shown
    assert "<b>name" not in shown
    assert "org/&lt;b&gt;name" in shown
    box._use.click()
    assert box.workspace.recipe.training.learning_rate == 2e-5
    assert box.workspace.recipe.data.subset == "poems"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (FOREIGN + "lora_rnk: 8\n", "lora_rank"),
        (FOREIGN + "bf16: true\nfp16: true\n", "Keep one of them"),
        ("model: [", "neither YAML nor JSON"),
        ("trainin: {}\n", "did you mean"),
        ("1: 2\n", "keys are names"),
        ("just words", "no settings"),
        ("absent.yaml", "cannot be read"),
    ],
)
def test_what_is_wrong_stands_beside_the_text(box: OpenBox, text: str, words: str) -> None:
    before = box.workspace.recipe
    box.text = text
    assert words in box._said.value
    assert box._use.disabled
    assert box.text == text
    with pytest.raises(RecipeError):
        box.use()
    assert box.workspace.recipe == before


def test_a_path_is_opened(box: OpenBox, tmp_path: Path) -> None:
    Recipe(training={"epochs": 9}).to_yaml(tmp_path / "own.yaml")
    box.text = str(tmp_path / "own.yaml")
    assert box.use().training.epochs == 9
    box.text = ""
    assert box._said.value == ""


def test_the_train_panel_opens_it() -> None:
    panel = TrainPanel()
    assert panel.opening.layout.display == "none"
    panel._open.value = True
    assert panel.opening.layout.display is None
    panel.opening.text = FOREIGN
    panel.opening.use()
    assert "2e-05" in panel.code()
    panel.close()
