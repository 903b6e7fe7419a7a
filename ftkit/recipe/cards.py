"""Cards: what a person reads of a method or an objective before they choose it.

All of it stands beside the class: its docstring (one sentence, the papers in parentheses), its `title`, what
it trains or reads. A new class of the union has its card without a word here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, get_args, get_origin

from ftkit.errors import RecipeError
from ftkit.recipe import extras
from ftkit.recipe._base import Kind
from ftkit.recipe.methods import SAVES
from ftkit.recipe.objectives import READS
from ftkit.recipe.schema import Recipe

_CITED = re.compile(r"\s*\(([^()]*arXiv:[^()]*)\)")
_PAPER = re.compile(r"([^;]*?),?\s*arXiv:(\d{4}\.\d{4,5})[,;]?\s*")

_GROUPS: Mapping[str, str] = dict([*READS.items(), *SAVES.items()])


@dataclass(frozen=True)
class Card:
    """One choice.

    Attributes
    ----------
    type
        Its name in a Recipe.
    title
        Its name on the screen.
    sentence
        What it does.
    papers
        Who described it, and the address of the paper.
    group
        Heading of the choices that are like it.
    """

    type: str
    title: str
    sentence: str
    papers: tuple[tuple[str, str], ...]
    group: str


@cache
def kinds(section: str) -> Mapping[str, type[Kind]]:
    """The classes that a section of a Recipe chooses from (`method`, `objective`), by their type."""
    annotation = Recipe.model_fields[section].annotation
    if get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    parts = get_args(annotation) or (annotation,)
    return {get_args(part.model_fields["type"].annotation)[0]: part for part in parts}


def cards(section: str) -> tuple[Card, ...]:
    """All choices of a section, those that are alike beside each other, otherwise in the schema's order."""
    found = [_card(name, kind) for name, kind in kinds(section).items()]
    groups = list(dict.fromkeys(card.group for card in found))
    return tuple(sorted(found, key=lambda card: groups.index(card.group)))


def card(section: str, name: str) -> Card:
    """The card of one choice."""
    return _card(name, kinds(section)[name])


def why_not(section: str, name: str) -> str:
    """Why a choice cannot be had on this machine; empty where it can."""
    kind = kinds(section)[name]
    return extras.missing(kind.package, kind.extra)


def clashes(recipe: Recipe, section: str, choices: Mapping[str, Any]) -> dict[str, str]:
    """The choices that do not go with the rest of the Recipe, each with the reason.

    Parameters
    ----------
    choices
        What the section would become, by type.
    """
    found = {}
    for name, values in choices.items():
        try:
            recipe.replace({section: values})
        except RecipeError as error:
            found[name] = error.message.removeprefix("recipe: ")
    return found


def unfilled(recipe: Recipe) -> dict[str, str]:
    """The fields that still have to be filled before a run can start, by path, with what to put there."""
    chosen = {"method": recipe.method, "objective": recipe.objective}
    return {
        f"{section}.{name}": what
        for section, kind in chosen.items()
        for name, what in kind.needs.items()
        if not getattr(kind, name)
    }


@cache
def _card(name: str, kind: type[Kind]) -> Card:
    text = " ".join((kind.__doc__ or "").split())
    cited = "; ".join(_CITED.findall(text))
    papers = tuple(
        (who or f"arXiv:{number}", f"https://arxiv.org/abs/{number}") for who, number in _PAPER.findall(cited)
    )
    group = _GROUPS.get(getattr(kind, "reads", "")) or _GROUPS.get(getattr(kind, "saves", ""), "")
    title = kind.title or name.replace("_", " ").capitalize()
    return Card(name, title, _CITED.sub("", text), papers, group)
