"""A recipe that a tiny model carries out in a second."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import ftkit

ROWS = [
    {"messages": [{"role": "user", "content": f"Count to {n}."}, {"role": "assistant", "content": f"{n}!"}]}
    for n in range(24)
]


@pytest.fixture
def recipe_file(tmp_path: Path, tiny_model_folder: Callable[..., Path]) -> Path:
    """A recipe's file; its run is `tmp_path / "runs" / "counting"`."""
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    recipe = ftkit.Recipe(
        model=str(tiny_model_folder()),
        data=str(data),
        training={"max_steps": 3, "evals": 1, "checkpoints": 0},
        compute={"device": "cpu", "offline": True},
        output={"folder": tmp_path / "runs", "name": "counting"},
    )
    path = tmp_path / "recipe.yaml"
    recipe.to_yaml(path)
    return path
