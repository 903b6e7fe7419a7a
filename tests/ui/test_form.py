"""Forms: controls from fields, errors below the control, nothing typed is lost."""

from __future__ import annotations

from pathlib import Path

import ipywidgets as widgets
import pytest

from ftkit.models.capabilities import refused
from ftkit.recipe import Recipe, extras
from ftkit.ui import Workspace
from ftkit.ui.form import Field, folded, label, section_form
from ftkit.ui.typed import read, show


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
        ("beta2: 0.95, eps=1e-8", dict, False, {"beta2": 0.95, "eps": 1e-8}),
        ("nesterov: true, projection: std", dict, False, {"nesterov": True, "projection": "std"}),
        ("", dict, False, {}),
    ],
)
def test_text_is_read(text: str, plain: type, optional: bool, value: object) -> None:
    assert read(text, plain, optional) == value


@pytest.mark.parametrize("text", ["beta2: 0.95, eps", "[1, 2]", "a: [", "&a b: *a", "1: 2"])
def test_what_is_no_list_of_settings_is_refused(text: str) -> None:
    workspace = Workspace()
    field = Field(workspace, "training.optimizer_kwargs")
    field.control.value = text
    assert field.error
    assert field.control.value == text
    assert workspace.recipe == Recipe()


def test_texts_that_hold_spaces_and_commas_stand_one_a_line() -> None:
    workspace = Workspace(Recipe(training={"sample_prompts": ["Who, then, are you?"]}))
    field = Field(workspace, "training.sample_prompts")
    assert isinstance(field.control, widgets.Textarea)
    assert field.control.value == "Who, then, are you?"
    field.control.value = "Who, then, are you?\n\n  What is 2 + 2?"
    assert workspace.recipe.training.sample_prompts == ("Who, then, are you?", "What is 2 + 2?")


@pytest.mark.parametrize(
    "value",
    [
        *(2e-4, 1e-5, 0.1 + 0.2, 3.0, 7, ("q_proj", "v_proj"), "all-linear"),
        *({"eps": 1e-8, "name": "1e-8 it is"}, {"prompt": "a, b: c"}, {}),
    ],
)
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
    assert Field(workspace, "training.lr_scheduler").control.options[0] == ("linear", "linear")
    assert Field(workspace, "training.optimizer").control.options[0] == ["adamw", "adamw"]
    assert Field(workspace, "model.quantization").control.options[0] == ["none", None]


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("training.max_steps", "none"),
        ("training.early_stopping_patience", "never"),
        ("training.time_limit", "no limit"),
        (
            "data.held_out_source",
            "the starter set's own held-out rows, or held_out_fraction of the training rows",
        ),
        ("method.layers_to_transform", "all"),
        ("training.epochs", "2"),
    ],
)
def test_an_empty_control_says_what_empty_means(path: str, said: str) -> None:
    assert Field(Workspace(), path).control.placeholder == said


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


def test_settings_are_those_of_the_choice_and_come_back_with_it() -> None:
    workspace = Workspace()
    choice, settings = (Field(workspace, f"training.{name}") for name in ("optimizer", "optimizer_kwargs"))
    assert settings.control.placeholder.startswith("beta1: 0.9")
    settings.control.value = "beta2: 0.95"
    assert workspace.recipe.training.optimizer_kwargs == {"beta2": 0.95}
    choice.control.value = "sgd"
    assert workspace.recipe.training.optimizer_kwargs == {}
    assert settings.control.value == ""
    assert settings.control.placeholder == "momentum: 0.0, nesterov: false"
    settings.control.value = "momentun: 0.9"
    assert settings.error == "momentun: sgd has no such setting; did you mean 'momentum'?"
    choice.control.value = "adamw"
    assert workspace.recipe.training.optimizer_kwargs == {"beta2": 0.95}


@pytest.fixture
def nothing_optional(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without the optional packages and without a GPU."""
    real = extras.find_spec
    absent = {"bitsandbytes", "torchao", "pytorch_optimizer", "apollo_torch", "trl", "ray", "unsloth"}
    monkeypatch.setattr(extras, "find_spec", lambda name: None if name in absent else real(name))
    monkeypatch.setattr("ftkit.models.device._gpu", lambda: None)


def test_what_this_machine_cannot_do_is_greyed_out_with_the_reason(nothing_optional: None) -> None:
    workspace = Workspace()
    field = Field(workspace, "training.optimizer")
    field.wait()
    assert field.control.blocked["lion"] == "needs the package pytorch-optimizer"
    assert "adamw" not in field.control.blocked
    note = field.children[-1].value
    assert "pip install &#x27;ftkit[optimizers]&#x27;" in note
    field.control.value = "lion"
    assert "needs the package pytorch-optimizer: pip install" in field.error
    assert workspace.recipe.training.optimizer == "adamw"
    field.control.value = "sgd"
    assert workspace.recipe.training.optimizer == "sgd"
    device = Field(workspace, "compute.device")
    device.wait()
    assert device.control.blocked == {"cuda": "needs a CUDA GPU"}


def test_a_recipe_with_what_this_machine_cannot_do_is_shown_with_the_reason(nothing_optional: None) -> None:
    workspace = Workspace(Recipe(model={"source": "starter", "quantization": "4bit"}))
    field = Field(workspace, "model.quantization")
    field.wait()
    assert field.control.value == "4bit"
    assert "4bit needs the package bitsandbytes" in field.children[-1].value
    assert workspace.problems == {}, "the Recipe is as it was read"
    assert list(refused(workspace.recipe)) == ["model.quantization"]
    field.control.value = None
    assert workspace.recipe.model.quantization is None
    assert refused(workspace.recipe) == {}
