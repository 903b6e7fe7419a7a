"""GRPO and RLOO through TRL on a tiny model: rewards grow, rollouts are told, wrong rewards end in words."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import ftkit
from ftkit.errors import RunError
from ftkit.recipe import Recipe

pytest.importorskip("trl")
ROWS = [{"instruction": f"What is on table {n}?", "output": "A lamp."} for n in range(10)]


@pytest.fixture
def recipe(tiny_model_folder: Callable[..., Path], tmp_path: Path) -> Callable[..., Recipe]:
    def make(kind: str = "grpo", **changes: Any) -> Recipe:
        return Recipe(
            model=str(tiny_model_folder(initializer_range=0.3)),  # an adapter can make words likely
            data={"source": str(ftkit.data.save_rows(ROWS)), "held_out_fraction": 0.2},
            method="lora",
            objective={"type": kind, "max_new_tokens": 8, "num_generations": 8, **changes},
            training={
                "max_steps": 12, "batch_size": 2, "evals": 1, "learning_rate": 2e-2, "warmup": 0,
                "lr_scheduler": "constant", "checkpoints": 1,
            },
            compute={"device": "cpu", "dtype": "float32"},
            output={"folder": tmp_path},
        )  # fmt: skip

    return make


def vowels(completions: list[str]) -> list[float]:
    return [10 * sum(letter in "aeiou" for letter in text) / max(len(text), 1) for text in completions]


@pytest.mark.parametrize(("kind", "beta"), [("grpo", 0.0), ("grpo", 0.05), ("rloo", 0.05)])
def test_replies_that_are_rewarded_become_likelier(
    recipe: Callable[..., Recipe], kind: str, beta: float
) -> None:
    run = ftkit.start(recipe(kind, beta=beta), rewards=[vowels]).wait()
    assert run.status == "finished"
    reward = run.metrics.reward.dropna()
    assert len(reward) == 12
    assert reward.iloc[-3:].mean() > reward.iloc[:3].mean()
    held_out = run.metrics.eval_reward.dropna()
    assert held_out.iloc[-1] > held_out.iloc[0]
    told = [event for event in run.events() if event["kind"] == "rollout"]
    assert {event["held_out"] for event in told} == {True, False}
    for event in told:
        assert event["prompt"].startswith("What is on table")
        assert event["rewards"]["vowels"] == pytest.approx(vowels([event["reply"]])[0])
    assert (run.path / "adapter" / "adapter_model.safetensors").exists()
    assert [event["step"] for event in run.events() if event["kind"] == "checkpoint"]
    loaded = run.open_model()
    assert loaded.gate.holder is None
    assert list(loaded.model.peft_config) == ["default"]  # the reference is the model without it, no copy
    if beta:
        divergence = run.metrics.kl.dropna()
        assert abs(divergence.iloc[0]) < 1e-4 < divergence.iloc[-1]


def test_a_stopped_run_goes_on(recipe: Callable[..., Recipe]) -> None:
    run = ftkit.start(recipe(rewards=["length:5"]))
    while not any(event["kind"] == "train" for event in run.events()):
        pass
    run.stop()
    assert run.wait().status == "stopped"
    assert run.resume().wait().status == "finished"
    steps = [event["step"] for event in run.events() if event["kind"] == "train"]
    assert steps == list(range(1, 13))


def test_a_reward_that_goes_wrong_ends_the_run_in_words(recipe: Callable[..., Recipe]) -> None:
    def judge(completions: list[str]) -> list[float]:
        return [float("nan")] * len(completions)

    with pytest.raises(RunError, match="'judge' returned nan for row"):
        ftkit.start(recipe(), rewards=[judge]).wait()
    with pytest.raises(RunError, match="'somebody_elses' is not known in this process"):
        ftkit.start(recipe(rewards=["somebody_elses"])).wait()


def test_a_reference_beside_full_fine_tuning_would_be_a_second_copy() -> None:
    for method in ("full", "freeze"):
        with pytest.raises(ftkit.errors.RecipeError, match=rf"objective.beta .* method.type '{method}'"):
            Recipe(objective={"type": "rloo"}, method=method)


def test_trained_biases_leave_no_reference() -> None:
    with pytest.raises(ftkit.errors.RecipeError, match=r"objective.beta .* method.bias 'all'"):
        Recipe(objective={"type": "rloo"}, method={"bias": "all"})
    assert Recipe(objective={"type": "rloo", "beta": 0.0}, method={"bias": "all"}).method.bias == "all"
