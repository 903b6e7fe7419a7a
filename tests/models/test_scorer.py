"""A reward model is trained, saved, loaded by what it is, and scores what is preferred higher."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import ftkit
from ftkit.data import Conversation, Message
from ftkit.errors import ModelError, RunError
from ftkit.models import load_scorer

THINGS = ("lamp", "book", "cup", "fox", "dog", "item")
ROWS = [
    {"prompt": f"What is on table {n}, a {thing}?", "chosen": f"A {thing}, yes.", "rejected": "I am Marlow."}
    for n, thing in enumerate(THINGS * 2)
]


def talk(row: dict[str, str], side: str) -> Conversation:
    return Conversation((Message("user", row["prompt"]), Message("assistant", row[side])))


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_reward_model_is_a_scorer(
    tiny_model_folder: Callable[..., Path], tmp_path: Path, method: str
) -> None:
    settings: dict[str, Any] = {"epochs": 12, "batch_size": 6, "learning_rate": 1e-2, "evals": 1}
    recipe = ftkit.Recipe(
        model=str(tiny_model_folder()),
        data=ROWS,
        method=method,
        objective="reward",
        training=settings,
        output={"folder": tmp_path},
    )
    run = ftkit.start(recipe).wait()
    assert run.metrics.pair_accuracy.iloc[-1] == 1
    scorer = load_scorer(run.path)
    chosen, rejected = (scorer.score([talk(row, side) for row in ROWS]) for side in ("chosen", "rejected"))
    assert all(good > bad for good, bad in zip(chosen, rejected, strict=True))
    alone = [scorer.score([talk(row, "chosen")])[0] for row in ROWS[:3]]
    assert alone == pytest.approx(chosen[:3], abs=1e-4)
    saved = run.path / ("adapter" if method == "lora" else "model")
    assert load_scorer(saved).score([talk(ROWS[0], "chosen")]) == pytest.approx(chosen[:1], abs=1e-5)
    with pytest.raises(RunError, match="does not talk"):
        run.open_model()


def test_a_model_without_such_a_head_is_refused(tiny_model_folder: Callable[..., Path]) -> None:
    with pytest.raises(ModelError, match="no head for a score"):
        load_scorer(tiny_model_folder())
