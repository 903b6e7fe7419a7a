"""What tests of several processes share: a small Recipe, and how two runs and their processes compare."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import load_file

import ftkit

Recipes = Callable[..., ftkit.Recipe]
TWO = {"compute__launch": "torchrun", "compute__processes": 2}


def recipes(model: Path, folder: Path) -> Recipes:
    """Makes a Recipe for a tiny model, with changes by `section__field`."""

    def make(**changes: Any) -> ftkit.Recipe:
        base = ftkit.Recipe(
            model=str(model),
            data={"source": "starter:extract", "max_rows": 18, "eval_rows": 6},
            method={"rank": 4},
            # five batches an epoch: two processes have an odd one left, of held-out rows, too
            training={"max_steps": 7, "batch_size": 4, "evals": 2, "checkpoints": 3, "learning_rate": 1e-2},
            compute={"dtype": "float32", "device": "cpu"},
            output={"folder": folder},
        )
        return base.replace({key.replace("__", "."): value for key, value in changes.items()})

    return make


def weights(run: ftkit.Run) -> dict[str, torch.Tensor]:
    result = (
        "model/model.safetensors" if run.recipe.method.type == "full" else "adapter/adapter_model.safetensors"
    )
    return load_file(run.path / result)


def assert_alike(one: ftkit.Run, other: ftkit.Run, tolerance: float) -> None:
    """The same steps on the same tokens, the same losses and weights."""
    kept = ["loss", "accuracy", "entropy", "grad_norm", "eval_loss"]
    first, second = (run.metrics[kept].fillna(0.0) for run in (one, other))
    apart = (first - second).abs().max()
    assert apart.max() <= tolerance, f"apart at most by {apart.to_dict()}"
    tokens = [[(e["step_tokens"], e["trained_tokens"]) for e in steps(run)] for run in (one, other)]
    assert tokens[0] == tokens[1]
    mine, theirs = weights(one), weights(other)
    assert mine.keys() == theirs.keys()
    assert max((mine[name] - theirs[name]).abs().max().item() for name in mine) <= tolerance


def steps(run: ftkit.Run) -> list[dict[str, Any]]:
    return [event for event in run.events() if event["kind"] == "train"]


def processes(run: ftkit.Run) -> list[psutil.Process]:
    """Who carries the run out, and its ranks in order."""
    over = psutil.Process(json.loads((run.path / "process.json").read_text())["pid"])
    ranks = [one for one in over.children() if "ftkit.runs.rank" in one.cmdline()]
    return [over, *sorted(ranks, key=lambda one: int(one.environ()["RANK"]))]


def gone(all_of_them: list[psutil.Process]) -> bool:
    return not any(map(_lives, all_of_them))


def _lives(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):  # it may end between the two questions
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def assert_alike_from(run: ftkit.Run, whole: ftkit.Run, step: int) -> None:
    """A run that was lost has steps twice: the newest count."""
    newest = {event["step"]: event["loss"] for event in steps(run)}
    once = {event["step"]: event["loss"] for event in steps(whole)}
    assert newest.keys() == once.keys()
    assert all(abs(newest[at] - once[at]) < 1e-4 for at in once if at >= step)
    mine, theirs = weights(run), weights(whole)
    assert max((mine[name] - theirs[name]).abs().max().item() for name in mine) < 1e-4


def assert_rolled_back_twice(run: ftkit.Run) -> None:
    """It finished after two bad losses, at a ninth of its rate, with every step taken and sound weights."""
    assert run.status == "finished"
    assert len([event for event in run.events() if "Back to step" in event.get("text", "")]) == 2
    assert run.metrics.learning_rate.dropna().iloc[-1] == pytest.approx(1e-2 / 9)
    assert run.metrics.loss.notna().sum() == 7
    assert all(bool(torch.isfinite(weight).all()) for weight in weights(run).values())


SPOILT = """
import itertools, os, sys

if "ftkit.runs.rank" in sys.orig_argv and os.environ.get("RANK") == "1":
    from ftkit.train import trainer

    real, calls = trainer.FtkitTrainer.compute_loss, itertools.count(1)

    def spoilt(self, *given, **more):
        loss = real(self, *given, **more)
        return loss * float("nan") if next(calls) in (5, 7) else loss

    trainer.FtkitTrainer.compute_loss = spoilt
"""
"""A `sitecustomize.py` for processes that a test starts: twice the loss of rank 1, and of it alone, is no
number."""
