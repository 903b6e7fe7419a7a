"""What goes wrong inside a kernel is the run's error, said in words: no hang, the gate is free, and the next
run works."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import ftkit
from ftkit.errors import RunError
from ftkit.fast import gated

Make = Callable[..., ftkit.Recipe]


@pytest.fixture
def recipe(tmp_path: Path, tiny_model_folder: Callable[..., Path]) -> Make:
    def make(**changes: Any) -> ftkit.Recipe:
        base = ftkit.Recipe(
            model=str(tiny_model_folder()),
            data={"source": "starter:extract", "max_rows": 16, "held_out_fraction": 0.0},
            training={"max_steps": 5, "batch_size": 4, "evals": 0, "checkpoints": 0},
            compute={"device": "cpu"},
            output={"folder": tmp_path / "runs"},
        )
        return base.replace({key.replace("__", "."): value for key, value in changes.items()})

    return make


def after(
    monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, calls: int, fault: Callable[..., Any]
) -> None:
    """Let a part of a kernel work so many times, and then do `fault` with what it has made."""
    own, done = getattr(owner, name), []

    def broken(*args: Any) -> Any:
        done.append(1)
        made = own(*args)
        return fault(made) if len(done) > calls else made

    monkeypatch.setattr(owner, name, broken)


def fails(run: ftkit.Run, words: str) -> None:
    with pytest.raises(RunError, match=words):
        run.wait(60)
    assert run.status == "failed"
    assert run.error is not None
    assert words in run.error.message
    assert run.loaded is None or run.loaded.gate.holder is None


PARTS = [(gated, "_activated"), (gated, "_activation_back")]


@pytest.mark.parametrize(("owner", "name"), PARTS, ids=["forward", "backward"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, MemoryError])
def test_an_error_inside_a_kernel_is_the_runs(
    error: type[BaseException], owner: Any, name: str, recipe: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fault(_: Any) -> None:
        raise error("in the kernel")

    with monkeypatch.context() as patched:
        after(patched, owner, name, 6, fault)
        run = ftkit.start(recipe())
        fails(run, "memory" if error is MemoryError else "in the kernel")
    if error is MemoryError:
        assert run.error is not None
        assert "batch_size" in run.error.advice
    assert ftkit.start(recipe()).wait(60).status == "finished"


def test_numbers_that_are_none_are_the_runs_error(recipe: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    def fault(made: Any) -> Any:
        return made.fill_(float("nan"))

    with monkeypatch.context() as patched:
        after(patched, gated, "_activated", 10, fault)
        fails(ftkit.start(recipe()), "loss")
    assert ftkit.start(recipe()).wait(60).status == "finished"


def test_a_failed_run_lets_go_of_its_batch(recipe: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[Any] = []

    def fault(made: Any) -> None:
        held.append(weakref.ref(made))
        raise MemoryError("in the kernel")

    with monkeypatch.context() as patched:
        after(patched, gated, "_activated", 6, fault)
        run = ftkit.start(recipe())
        fails(run, "memory")
    gc.collect()
    assert held
    assert held[0]() is None, "the run's error holds on to it"


LIMITED = r"""
import resource, sys, psutil, ftkit
def recipe(model, rows):
    return ftkit.Recipe(
        model=model,
        data={"source": "starter:extract", "max_rows": 64, "held_out_fraction": 0.0},
        training={"max_steps": 2, "batch_size": rows, "evals": 0, "checkpoints": 0},
        compute={"device": "cpu", "dtype": "float32", "gradient_checkpointing": "off", "threads": 2},
        output={"folder": sys.argv[3]},
    )
small, wide = sys.argv[1:3]
ftkit.start(recipe(wide, 1)).wait(60)  # all libraries are loaded, all threads are there
limit = psutil.Process().memory_info().vms + 300_000_000
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
failed = ftkit.start(recipe(wide, 64))
try:
    failed.wait(120)
except ftkit.errors.RunError as error:
    print(str(error))
print(failed.status, failed.loaded is None or failed.loaded.gate.holder is None)
print(ftkit.start(recipe(wide, 1)).wait(60).status)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="memory limits of Linux")
def test_memory_that_is_really_used_up_is_the_runs_error(
    tiny_model_folder: Callable[..., Path], tmp_path: Path
) -> None:
    small = tiny_model_folder()
    wide = tiny_model_folder(intermediate_size=8192)
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(small), str(wide), str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env=os.environ | {"OMP_WAIT_POLICY": "PASSIVE"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    said = done.stdout
    assert "not enough memory" in said
    assert "In order of effect" in said
    assert said.split()[-3:] == ["failed", "True", "finished"]
