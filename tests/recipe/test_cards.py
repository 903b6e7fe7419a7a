"""Cards: every choice of a union has its facts beside it."""

from __future__ import annotations

import pytest

from ftkit.recipe import Kind, Recipe, extras
from ftkit.recipe.cards import card, cards, clashes, kinds, why_not

SECTIONS = [(section, name) for section in ("method", "objective") for name in kinds(section)]


@pytest.mark.parametrize(("section", "name"), SECTIONS)
def test_every_choice_has_its_facts(section: str, name: str) -> None:
    kind, made = kinds(section)[name], card(section, name)
    assert issubclass(kind, Kind)
    assert kind.title == made.title
    assert made.group
    assert "arXiv" not in made.sentence
    assert made.papers or name == "full"
    assert all(address.startswith("https://arxiv.org/abs/") for _, address in made.papers)
    assert set(kind.main) <= set(kind.model_fields)
    assert all(kind().model_dump()[field] in ("", ()) for field in kind.needs), "others have a default"


def test_a_docstring_with_two_papers_names_both() -> None:
    assert [who for who, _ in card("method", "oft").papers] == ["Qiu et al. 2023", "OFTv2"]


def test_those_that_are_alike_stand_beside_each_other() -> None:
    for section in ("method", "objective"):
        groups = [one.group for one in cards(section)]
        assert groups == sorted(groups, key=groups.index)
        assert len(set(groups)) > 1


def test_a_missing_package_is_named_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    assert why_not("objective", "grpo") == "needs the package trl: pip install 'ftkit[trl]'"
    assert why_not("objective", "dpo") == ""


def test_what_does_not_go_together_says_what_with() -> None:
    recipe = Recipe(data={"system_prompt": "Be brief."})
    found = clashes(recipe, "objective", {name: {"type": name} for name in kinds("objective")})
    assert list(found) == ["pretraining"]
    assert found["pretraining"].startswith("data.system_prompt has no place")


@pytest.mark.parametrize(
    ("version", "reason"), [("2.9.1+cpu", ""), ("2.10.0", ""), ("2.8.0", "needs torch 2.9 or newer")]
)
def test_a_version_that_is_too_old_is_said(
    version: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extras, "version", lambda _: version)
    assert extras.older("torch", (2, 9)) == reason
