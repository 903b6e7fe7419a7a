"""Cards of methods and objectives: what is on them, what they change, and what cannot be chosen."""

from __future__ import annotations

import pytest

from ftkit.errors import RecipeError
from ftkit.recipe import Recipe, extras
from ftkit.recipe.cards import unfilled
from ftkit.ui import Workspace
from ftkit.ui.union_form import UnionForm


def paths(form: UnionForm) -> list[str]:
    """The fields that are shown."""
    fields = form.children[-1]
    first = fields if hasattr(fields.children[0], "path") else fields.children[0]
    return [field.path for field in first.children]


@pytest.mark.parametrize("section", ["method", "objective"])
def test_every_choice_is_a_card_and_choosing_it_shows_its_own_fields(section: str) -> None:
    workspace = Workspace()
    form = UnionForm(workspace, section)
    assert form.cards is None, "made when they are looked at"
    form.others.value = True
    assert form.cards in form.children
    for one in form.cards.cards:
        assert one["title"]
        assert one["sentence"].endswith(".")
        assert one["papers"] or one["type"] == "full"
        form.cards.value = one["type"]
        chosen = getattr(workspace.recipe, section)
        assert chosen.type == one["type"]
        known = {f"{section}.{name}" for name in type(chosen).model_fields}
        if len(known) > 1:
            assert 0 < len(paths(form)) <= 6
            assert set(paths(form)) <= known


def test_of_many_fields_the_others_are_folded() -> None:
    form = UnionForm(Workspace(), "method")
    assert paths(form) == ["method.rank", "method.alpha", "method.dropout", "method.target_modules"]
    fold = form.children[-1].children[1]
    fold.selected_index = 0
    others = [field.path for field in fold.children[0].children[0].children]
    assert "method.use_dora" in others
    assert not set(others) & set(paths(form))


def test_a_field_that_no_default_can_fill_asks_for_itself() -> None:
    workspace = Workspace()
    form = UnionForm(workspace, "objective")
    form.choose("distillation")
    teacher = form.children[-1].children[0].children[0]
    assert "Name the model to learn from" in teacher.children[1].value
    teacher.control.value = "starter"
    assert "Name the model" not in "".join(part.value for part in teacher.children)
    assert unfilled(workspace.recipe) == {}
    teacher.control.value = ""
    assert list(unfilled(workspace.recipe)) == ["objective.teacher"]
    assert "Name the model to learn from" in teacher.children[1].value


def test_what_was_set_for_a_choice_comes_back_with_it() -> None:
    workspace = Workspace()
    form = UnionForm(workspace, "method")
    workspace.edit({"method.rank": 4})
    form.choose("full")
    assert workspace.recipe.method.type == "full"
    form.choose("lora")
    assert workspace.recipe.method.rank == 4


def test_a_preset_stays_and_its_numbers_follow() -> None:
    workspace = Workspace()
    method, objective = UnionForm(workspace, "method"), UnionForm(workspace, "objective")
    method.choose("full")
    assert workspace.recipe.training.learning_rate == 2e-5
    method.choose("lora")
    objective.choose("dpo")
    assert workspace.recipe.training.learning_rate == 2e-5
    assert workspace.recipe.training.epochs == 1
    objective.choose("sft")
    assert workspace.recipe == Recipe()
    workspace.edit({"training.learning_rate": 3e-4})
    method.choose("full")
    assert workspace.recipe.training.learning_rate == 3e-4, "a person's own number is theirs"


def test_what_is_not_installed_cannot_be_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda name: None if name == "trl" else object())
    workspace = Workspace()
    form = UnionForm(workspace, "objective")
    form.others.value = True
    assert form.cards.reasons == dict.fromkeys(
        ("grpo", "rloo"), "Needs the package trl: pip install 'ftkit[trl]'"
    )
    with pytest.raises(RecipeError, match="GRPO needs the package trl"):
        form.choose("grpo")
    form.cards.value = "grpo"  # as a page might say that does not grey out
    assert form.cards.value == "sft"
    assert "needs the package trl" in form._wrong.value
    assert workspace.recipe.objective.type == "sft"
    workspace.edit({"objective": "grpo"})
    assert form.cards.value == "grpo"
    assert "This machine cannot do it: needs the package trl" in form._chosen.value


def test_what_does_not_go_with_the_rest_is_greyed_out_until_it_does() -> None:
    workspace = Workspace(Recipe(model={"source": "starter", "quantization": "8bit"}))
    form = UnionForm(workspace, "method")
    form.others.value = True
    assert set(form.cards.reasons) == {"full", "freeze"}
    assert "model.quantization '8bit'" in form.cards.reasons["full"]
    workspace.edit({"model.quantization": None})
    assert form.cards.reasons == {}


def test_the_page_cannot_choose_what_there_is_not() -> None:
    workspace = Workspace()
    form = UnionForm(workspace, "method")
    form.others.value = True
    form.cards.value = "<b>"
    assert form.cards.value == "lora"
    assert workspace.recipe == Recipe()
