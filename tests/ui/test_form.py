"""Forms: controls from fields, errors below the control, nothing typed is lost."""

from __future__ import annotations

from pathlib import Path

import ipywidgets as widgets
import pytest

from ftkit.recipe import Recipe
from ftkit.ui import Workspace
from ftkit.ui.form import Field, UnionForm, folded, label, read, section_form, show


def test_labels_are_words() -> None:
    assert label("learning_rate") == "Learning rate"
    assert label("use_rslora") == "rsLoRA"


@pytest.mark.parametrize(
    ("text", "plain", "optional", "value"),
    [
        ("2e-4", float, False, 2e-4),
        (" 8 ", int, False, 8),
        ("", int, True, None),
        ("all-linear", tuple, False, "all-linear"),
        ("q_proj, v_proj", tuple, False, ("q_proj", "v_proj")),
        ("my runs", Path, False, Path("my runs")),
    ],
)
def test_text_is_read(text: str, plain: type, optional: bool, value: object) -> None:
    assert read(text, plain, optional) == value


@pytest.mark.parametrize("value", [2e-4, 1e-5, 0.1 + 0.2, 3.0, 7, ("q_proj", "v_proj"), "all-linear"])
def test_what_is_shown_reads_back(value: object) -> None:
    plain = tuple if isinstance(value, (tuple, str)) else type(value)
    assert read(show(value), plain, False) == value


def test_every_field_of_the_recipe_has_a_labelled_control_with_its_docstring() -> None:
    workspace = Workspace()
    for section in ("model", "data", "training", "compute", "output"):
        for field in section_form(workspace, section).children:
            assert field.control.description
            assert len(field.control.tooltip) > 10


def test_kinds_of_controls() -> None:
    workspace = Workspace()
    assert isinstance(Field(workspace, "compute.fast.lora").control, widgets.Checkbox)
    assert Field(workspace, "training.optimizer").control.options[:3] == ("adamw", "adafactor", "sgd")
    assert Field(workspace, "training.max_steps").control.placeholder == "auto"


def test_a_wrong_text_is_explained_kept_and_leaves_the_recipe() -> None:
    workspace = Workspace()
    field = Field(workspace, "training.learning_rate")
    field.control.value = "abc"
    assert "'abc' is not a number" in field.error
    assert field.control.value == "abc"
    assert workspace.recipe == Recipe()
    assert list(workspace.problems) == ["training.learning_rate"]
    workspace.edit({"training.epochs": 5})
    assert field.control.value == "abc"
    field.control.value = "7"
    assert field.error == "It should be less than or equal to 1 (given: 7.0)"
    field.control.value = "3e-4"
    assert field.error == ""
    assert field.control.value == "3e-4"
    assert workspace.recipe.training.learning_rate == 3e-4
    assert workspace.problems == {}


def test_what_was_typed_is_escaped_in_the_error() -> None:
    field = Field(Workspace(), "training.seed")
    field.control.value = "<img src=x>"
    assert "<img" not in field.children[1].value


def test_a_change_from_elsewhere_is_shown() -> None:
    workspace = Workspace()
    field = Field(workspace, "training.epochs")
    field.control.value = "abc"
    workspace.edit({"training.epochs": 4})
    assert field.control.value == "4"
    assert workspace.problems == {}


def test_two_controls_of_a_field_agree() -> None:
    workspace = Workspace()
    one, other = Field(workspace, "method.rank"), Field(workspace, "method.rank")
    one.control.value = "abc"
    third = Field(workspace, "method.rank")
    assert list(workspace.problems) == ["method.rank"]
    other.control.value = "16.5"
    other.control.value = "16"
    assert one.control.value == "16"
    assert third.control.value == "16"
    assert workspace.problems == {}


def test_a_field_that_the_method_lacks_is_hidden_with_its_problem() -> None:
    workspace = Workspace()
    field = Field(workspace, "method.rank")
    field.control.value = "abc"
    workspace.edit({"method": "full"})
    assert field.layout.display == "none"
    assert workspace.problems == {}
    workspace.edit({"method": "lora"})
    assert field.layout.display is None
    assert field.control.value == "16"


def test_a_union_keeps_what_was_set_for_each_type() -> None:
    workspace = Workspace()
    form = UnionForm(workspace, "method")
    workspace.edit({"method.rank": 4})
    form.choice.value = "full"
    assert workspace.recipe.method.type == "full"
    form.choice.value = "lora"
    assert workspace.recipe.method.rank == 4


def test_a_fold_is_built_when_it_is_opened() -> None:
    built: list[int] = []

    def build() -> widgets.Widget:
        built.append(1)
        return widgets.HTML("here")

    accordion = folded({"More": build})
    assert built == []
    accordion.selected_index = 0
    accordion.selected_index = None
    accordion.selected_index = 0
    assert built == [1]


def test_each_objective_shows_its_sentence_its_paper_and_its_own_fields() -> None:
    workspace = Workspace()
    form = UnionForm(workspace, "objective")
    fields = {}
    for name, kind in form.choice.options:
        form.choice.value = kind
        assert workspace.recipe.objective.type == kind, name
        top, grid = form.children
        assert 'href="https://arxiv.org/abs/' in top.children[1].value
        fields[kind] = {field.path.split(".")[1] for field in grid.children}
    assert fields["kto"] == {"beta", "desirable_weight", "undesirable_weight", "sft_weight"}
    assert fields["reward"] == {"center_coefficient"}
    assert "ld_alpha" in fields["dpo"]
    assert "train_on" not in fields["dpo"]
