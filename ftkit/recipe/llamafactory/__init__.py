"""LLaMA-Factory's files as Recipes, and back: every key honoured, mapped, or reported with the reason.

    from ftkit.recipe import llamafactory

    found = llamafactory.load("llama3_lora_sft.yaml")
    found.mapped, found.not_applicable, found.errors
    recipe = found.checked()

`keys.yaml` says what becomes of each key; `KEYS.md` shows it. Nothing here knows torch or transformers.
"""

from ftkit.recipe.llamafactory.back import Written, to_yaml
from ftkit.recipe.llamafactory.convert import convert, load, loads, parse
from ftkit.recipe.llamafactory.report import Import, Problem
from ftkit.recipe.llamafactory.table import looks_like

__all__ = ["Import", "Problem", "Written", "convert", "load", "loads", "looks_like", "parse", "to_yaml"]
