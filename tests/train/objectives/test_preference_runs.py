"""Runs over pairs and rated replies: the margin grows, the reference stands still, a resumed run goes on."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import ftkit
from ftkit.fast.logprobs import choose as choose_way
from ftkit.models.adapters import apply_method
from ftkit.models.load import load_model
from ftkit.recipe import Recipe
from ftkit.train import reference
from ftkit.train.objectives import choose
from ftkit.train.reference import FILE, ModelPasses, is_the_base, remember
from ftkit.train.trainer import layout

THINGS = ("lamp", "book", "cup", "fox", "dog", "item")
PAIRS = [
    {"prompt": f"What is on table {n}, a {thing}?", "chosen": f"A {thing}, yes.", "rejected": "I am Marlow."}
    for n, thing in enumerate(THINGS * 2)
]
RATED = [
    {"prompt": pair["prompt"], "completion": pair[side], "label": side == "chosen"}
    for pair in PAIRS
    for side in ("chosen", "rejected")
]
Start = Callable[..., Any]


@pytest.fixture
def start(tiny_model_folder: Callable[..., Path], tmp_path: Path) -> Start:
    def run(
        objective: Any, method: Any = "lora", rows: Any = PAIRS, wait: bool = True, **training: Any
    ) -> Any:
        settings = {
            "epochs": 8,
            "batch_size": 4,
            "learning_rate": 5e-3,
            "evals": 2,
            "lr_scheduler": "constant",
        }
        recipe = Recipe(
            model=str(tiny_model_folder()),
            data=rows,
            method=method,
            objective=objective,
            training=settings | training,
            output={"folder": tmp_path},
            compute={"device": "cpu", "dtype": "float32"},
        )
        started = ftkit.start(recipe)
        return started.wait() if wait else started

    return run


@pytest.mark.parametrize(
    ("objective", "method"),
    [("dpo", "lora"), ("orpo", "lora"), ("simpo", "lora"), ("cpo", "lora"), ("dpo", "full"), ("cpo", "full")],
)
def test_the_margin_of_held_out_pairs_grows(start: Start, objective: str, method: str) -> None:
    run = start(objective, method)
    metrics = run.metrics
    margins = metrics.eval_margin.dropna()
    assert len(margins) >= 2
    assert margins.iloc[-1] > margins.iloc[0]
    if objective == "dpo":  # the others' rewards also depend on how long the replies are
        assert metrics.pair_accuracy.iloc[-1] == 1
    assert metrics.chosen_logprob.dropna().lt(0).all()
    (plan,) = [event for event in run.events() if event["kind"] == "plan"]
    assert (plan["train_rows"], plan["eval_rows"]) == (11, 1)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_rated_replies_are_told_apart(start: Start, method: str) -> None:
    metrics = start("kto", method, RATED).metrics
    assert metrics.margin.dropna().iloc[-1] > 0.1
    assert metrics.kl.dropna().ge(0).all()


def test_a_run_begins_where_model_and_reference_are_one(start: Start) -> None:
    for method in ("lora", "full"):
        run = start("dpo", method, max_steps=1)
        first = run.metrics.loc[run.metrics.step == 1].iloc[0]
        assert first.loss == pytest.approx(np.log(2), abs=1e-5)
        assert first.margin == pytest.approx(0, abs=1e-5)
        assert (run.path / FILE).exists() == (method == "full")


def test_a_resumed_run_keeps_the_reference(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    run = start("dpo", "full", epochs=30, evals=0, wait=False)
    while not any(event["kind"] == "train" for event in run.events()):
        time.sleep(0.01)
    run.stop()
    assert run.wait().status == "stopped"

    def never(*_: Any) -> None:
        raise AssertionError("the model was asked again, though it has learned meanwhile")

    monkeypatch.setattr(reference, "_all", never)
    metrics = run.resume().wait().metrics
    assert metrics.margin.iloc[-1] > 0.5


def test_what_is_remembered_is_what_the_switched_off_adapter_says(
    tiny_model_folder: Callable[..., Path], tmp_path: Path
) -> None:
    recipe = Recipe(model=str(tiny_model_folder()), data=RATED, objective="kto", method="lora")
    loaded = load_model(recipe.model, recipe.compute)
    apply_method(loaded, recipe.method)
    way = choose_way(loaded.model)
    lay, objective = layout(loaded, way), choose(recipe)
    from ftkit.data import Template, encode_all, load

    rows = encode_all(
        load(recipe.data).train,
        Template(loaded.tokenizer),
        objective=recipe.objective,
        max_length=99,
        too_long="drop",
    ).rows
    assert is_the_base(loaded, way, rows[0], lay)
    parts = objective.read_by_reference(rows)
    known = remember(
        loaded, way, parts, lay, batch_tokens=150, file=tmp_path / FILE, progress=lambda *_: None
    )
    with torch.no_grad():
        for name, weight in loaded.model.named_parameters():
            if "lora_B" in name:
                weight.add_(0.3)
    assert not is_the_base(loaded, way, rows[0], lay)
    passes = ModelPasses(loaded, way)
    for kept, asked in ((known, None), (None, True)):
        items = objective.items(rows, kept)
        batch = objective.collate([items[place] for place in (3, 0, 7)], lay)
        said = [passes.reference(batch), passes.reference(batch["unrelated"])]
        if asked is None:
            remembered = said
    for one, other in zip(said, remembered, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
    assert (passes.policy_only_read(batch) - said[0]).abs().max() > 0.01


def test_accumulation_is_a_larger_batch_for_pairs_and_tokens_alike(start: Start) -> None:
    settings = {
        "optimizer": "sgd", "learning_rate": 0.1, "warmup": 0, "max_steps": 1, "evals": 0, "max_grad_norm": 0,
    }  # fmt: skip
    objective = {"type": "dpo", "sft_weight": 0.5}
    whole = start(objective, rows=PAIRS[:9], batch_size=8, **settings).metrics
    parts = start(objective, rows=PAIRS[:9], batch_size=2, gradient_accumulation_steps=4, **settings).metrics
    assert parts.loss.iloc[-1] == pytest.approx(whole.loss.iloc[-1], abs=1e-5)
    assert parts.grad_norm.iloc[-1] == pytest.approx(whole.grad_norm.iloc[-1], rel=1e-3)


def test_rows_of_another_kind_end_the_run_in_words(start: Start) -> None:
    rows = [{"instruction": "q", "output": "a"}, {"instruction": "r", "output": "b"}]
    with pytest.raises(ftkit.errors.RunError, match="no two replies"):
        start("dpo", rows=rows)
