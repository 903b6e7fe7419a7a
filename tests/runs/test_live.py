"""Changing a run while it runs, and going on from a checkpoint with other settings."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import ftkit
from ftkit.errors import RunError
from ftkit.runs.branch import relatives
from ftkit.runs.wishes import Wish, Wishes
from tests.waiting import up_to

until = up_to(120)


def of(run: ftkit.Run, kind: str) -> list[dict[str, Any]]:
    return [event for event in run.events() if event["kind"] == kind]


@pytest.fixture
def recipe(tmp_path: Path, tiny_model_folder: Callable[..., Path]) -> ftkit.Recipe:
    return ftkit.Recipe(
        model=str(tiny_model_folder()),
        data={"source": "starter:extract", "max_rows": 32, "eval_rows": 4},
        method={"rank": 4},
        training={
            "max_steps": 5000, "batch_size": 4, "evals": 1, "checkpoints": 0, "learning_rate": 1e-3,
            "lr_scheduler": "constant", "warmup": 0, "sample_prompts": ["What is your name?"],
        },
        output={"folder": tmp_path / "runs"},
    )  # fmt: skip


@pytest.fixture
def run(recipe: ftkit.Recipe) -> Iterator[ftkit.Run]:
    made = ftkit.start(recipe)
    until(lambda: made.progress.step >= 1)
    yield made
    made.stop()
    made.wait(60)


def test_everything_can_be_asked_of_a_run_under_way(run: ftkit.Run) -> None:
    evaluated = len(of(run, "eval"))
    run.save()
    run.evaluate()
    run.sample()
    run.set_learning_rate(5e-4)
    until(lambda: bool(of(run, "checkpoint")) and bool(of(run, "sample")))
    until(lambda: len(of(run, "eval")) > evaluated)
    until(lambda: run.metrics.learning_rate.dropna().iloc[-1] == pytest.approx(5e-4))
    assert run.checkpoints == [of(run, "checkpoint")[0]["step"]]
    sample = of(run, "sample")[0]
    assert sample["prompt"] == "What is your name?"
    assert isinstance(sample["reply"], str)
    rates = run.metrics.learning_rate.dropna()
    assert rates.iloc[0] == pytest.approx(1e-3)
    run.stop()
    run.wait(60)
    rate_at_stop = run.metrics.learning_rate.dropna().iloc[-1]
    run.resume()
    until(lambda: run.progress.step > len(rates) + 3)
    assert run.metrics.learning_rate.dropna().iloc[-1] == pytest.approx(rate_at_stop), "it is kept"


def test_it_stops_at_the_end_of_an_epoch(run: ftkit.Run) -> None:
    run.stop(after_epoch=True)
    run.wait(60)
    assert run.status == "stopped"
    assert run.metrics.epoch.iloc[-1] == pytest.approx(round(run.metrics.epoch.iloc[-1]))
    assert "end of an epoch" in of(run, "state")[-1]["detail"]
    assert run.checkpoints[-1] == run.progress.step


def test_samples_come_by_themselves(recipe: ftkit.Recipe) -> None:
    run = ftkit.start(recipe.replace(training={"max_steps": 6, "sample_every": 2})).wait(120)
    assert [event["step"] for event in of(run, "sample")] == [2, 4, 6]


def test_a_branch_goes_on_with_other_settings_and_leaves_the_run_alone(recipe: ftkit.Recipe) -> None:
    run = ftkit.start(recipe.replace(training={"max_steps": 9, "checkpoints": 2})).wait(120)
    before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    step = run.checkpoints[0]
    branch = run.branch(step, {"training.learning_rate": 1e-4, "training.max_steps": 12})
    branch.wait(120)
    assert branch.path.parent == run.path.parent
    assert branch.origin is run
    assert run.origin is None
    assert [one.path for one in relatives(branch, 4)] == [run.path]
    assert [one.path for one in relatives(run, 4)] == [branch.path]
    assert of(branch, "branch")[0]["step"] == step
    assert of(branch, "branch")[0]["of"] == str(run.path)
    metrics = branch.metrics
    assert metrics.step.dropna().tolist()[-1] == 12
    assert metrics.loss.dropna().index.size == 12 - step
    assert metrics.learning_rate.dropna().iloc[-1] == pytest.approx(1e-4)
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.parametrize(
    ("step", "changes", "said"),
    [
        (999, {}, "no checkpoint of step 999"),
        (None, {"method.rank": 8}, "keeps the run's method"),
        (None, {"training.batch_size": 2}, r"keeps training\.batch_size"),
    ],
)
def test_a_branch_that_cannot_be_says_why(
    recipe: ftkit.Recipe, step: int | None, changes: dict[str, Any], said: str
) -> None:
    run = ftkit.start(recipe.replace(training={"max_steps": 2})).wait(120)
    there = sorted(path.name for path in run.path.parent.iterdir())
    with pytest.raises(RunError, match=said):
        run.branch(step, changes)
    assert sorted(path.name for path in run.path.parent.iterdir()) == there, "nothing is left behind"


def test_a_learning_rate_that_is_none_is_refused(recipe: ftkit.Recipe) -> None:
    run = ftkit.start(recipe.replace(training={"max_steps": 1})).wait(120)
    for rate in (0.0, -1.0, 2.0, float("nan")):
        with pytest.raises(RunError, match="no learning rate"):
            run.set_learning_rate(rate)
    with pytest.raises(RunError, match="has ended"):
        run.set_learning_rate(1e-4)


def test_wishes_are_heard_once_and_rubbish_is_not(tmp_path: Path) -> None:
    path = tmp_path / "wishes.jsonl"
    early = Wishes(path)
    early.ask(Wish("stop"))
    late = Wishes(path)
    with path.open("ab") as file:
        for line in ({"wish": "rm"}, {"wish": ["stop"]}, {"wish": "learning_rate", "value": "x"}, 3, None):
            file.write(json.dumps(line).encode() + b"\n")
        file.write(b'\xff\xfe\n{"wish": "learning_rate", "value": 7}\n')
    late.ask(Wish("learning_rate", 0.5))
    late.ask(Wish("save"))
    with path.open("ab") as file:
        file.write(b'{"wish": "pa')
    assert late.heard() == [Wish("learning_rate", 0.5), Wish("save")]
    assert late.heard() == []
    with path.open("ab") as file:
        file.write(b'use"}\n')
    assert late.heard() == [Wish("pause")]
    assert early.heard()[0] == Wish("stop")
