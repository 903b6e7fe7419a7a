"""Processes that train together: one process's run with more accumulation, whose every end is true."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

import ftkit
from ftkit.errors import RecipeError, RunError
from ftkit.runs.folder import RunFolder
from ftkit.runs.launch import End
from ftkit.runs.ranks import _end, file_of, how_it_ended, leave_end
from ftkit.runs.wishes import Wish
from tests.runs.several import (
    SPOILT,
    TWO,
    Recipes,
    assert_alike,
    assert_alike_from,
    assert_rolled_back_twice,
    gone,
    processes,
    recipes,
)
from tests.waiting import up_to

until = up_to(300)


@pytest.fixture
def recipe(tmp_path: Path, tiny_model_folder: Callable[..., Path]) -> Recipes:
    return recipes(tiny_model_folder(), tmp_path / "runs")


def listening(all_of_them: list[psutil.Process]) -> set[str]:
    """The addresses at which anybody can reach them."""
    sockets = [one for process in all_of_them for one in process.net_connections()]
    return {one.laddr.ip for one in sockets if one.status == psutil.CONN_LISTEN}


@pytest.mark.slow
def test_two_processes_equal_one_with_twice_the_accumulation(recipe: Recipes) -> None:
    one = ftkit.start(recipe(training__gradient_accumulation_steps=2)).wait(300)
    two = ftkit.start(recipe(**TWO)).wait(300)
    assert_alike(one, two, 1e-5)
    assert two.progress.step == 7
    assert not list(two.path.glob("rank-*.json"))


@pytest.mark.slow
def test_one_process_of_torchrun_equals_a_thread_to_the_bit(recipe: Recipes) -> None:
    with_dropout = {"method__dropout": 0.1, "training__max_steps": 4}
    thread = ftkit.start(recipe(**with_dropout)).wait(300)
    torchrun = ftkit.start(recipe(**with_dropout, compute__launch="torchrun")).wait(300)
    assert_alike(thread, torchrun, 0.0)


@pytest.mark.slow
def test_a_killed_process_ends_the_others_and_the_run_goes_on_from_its_checkpoint(recipe: Recipes) -> None:
    full = {"method": {"type": "full"}, "training__learning_rate": 1e-3, "training__evals": 0}
    whole = ftkit.start(recipe(**full, training__gradient_accumulation_steps=2, training__max_steps=40)).wait(
        300
    )
    run = ftkit.start(recipe(**full, **TWO, training__max_steps=40))
    until(lambda: any(event["kind"] == "checkpoint" for event in run.events()))
    all_of_them = processes(run)
    assert len(all_of_them) == 3
    assert listening(all_of_them) <= {"127.0.0.1"}, "they talk on this machine only"
    all_of_them[2].send_signal(signal.SIGKILL)
    with pytest.raises(RunError, match=r"process 1 of 2 was ended from outside \(SIGKILL"):
        run.wait(60)
    assert run.status == "failed"
    until(lambda: gone(all_of_them), 30)
    run.resume().wait(300)
    assert run.status == "finished"
    assert_alike_from(run, whole, step=20)


@pytest.mark.slow
def test_wishes_reach_all_and_another_number_of_processes_goes_on(recipe: Recipes) -> None:
    long = {"training__max_steps": 200, "training__evals": 0}
    whole = ftkit.start(recipe(**long, training__gradient_accumulation_steps=2)).wait(300)
    run = ftkit.start(recipe(**long, **TWO))
    until(lambda: run.progress.step >= 2)
    run.pause()
    until(lambda: run.status == "paused")
    at = run.progress.step
    time.sleep(0.5)
    assert run.progress.step == at
    run.resume()
    until(lambda: run.progress.step > at)
    all_of_them = processes(run)
    asked = time.monotonic()
    run.stop()
    run.wait(60)
    assert run.status == "stopped"
    assert time.monotonic() - asked < 20
    until(lambda: gone(all_of_them), 20)
    assert (run.path / "checkpoints" / f"checkpoint-{run.progress.step}").is_dir()
    RunFolder.open(run.path).write(
        "recipe.yaml", recipe(**long, training__gradient_accumulation_steps=2).to_yaml()
    )
    run.resume().wait(300)
    assert run.status == "finished"
    assert_alike(run, whole, 1e-4)
    assert not any("batches a step" in event.get("text", "") for event in run.events())


@pytest.mark.slow
def test_a_loss_that_is_bad_on_one_process_rolls_all_of_them_back(
    recipe: Recipes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text(SPOILT)
    monkeypatch.syspath_prepend(tmp_path)
    changes = {"training__on_bad_loss": "roll_back", "training__lr_scheduler": "constant"}
    run = ftkit.start(recipe(**TWO, **changes, training__warmup=0))
    run.wait(300)
    assert_rolled_back_twice(run)


@pytest.mark.slow
def test_all_processes_save_and_end_before_the_time_limit(recipe: Recipes) -> None:
    run = ftkit.start(
        recipe(**TWO, training__max_steps=100_000, training__time_limit=0.25, training__evals=0)
    )
    until(lambda: run.progress.step >= 1)
    all_of_them = processes(run)
    run.wait(60)
    assert run.status == "stopped"
    assert "time limit of 0.25 minutes" in [e for e in run.events() if e["kind"] == "state"][-1]["detail"]
    assert (run.path / "checkpoints" / f"checkpoint-{run.progress.step}").is_dir()
    until(lambda: gone(all_of_them), 20)


def test_a_rank_ends_with_the_process_that_started_it() -> None:
    rank = "import sys; from ftkit.runs.rank import _end_with; _end_with(int(sys.argv[1]))"
    over = (
        "import os, subprocess, sys, time\n"
        f"rank = subprocess.Popen([sys.executable, '-c', {rank!r}, str(os.getpid())])\n"
        "print(rank.pid, flush=True)\n"
        "time.sleep(600)"
    )
    started = subprocess.Popen([sys.executable, "-c", over], stdout=subprocess.PIPE, text=True)
    assert started.stdout is not None
    child = psutil.Process(int(started.stdout.readline()))
    started.kill()
    started.wait()
    until(lambda: gone([child]), 60)


@pytest.fixture
def folder(recipe: Recipes) -> RunFolder:
    return RunFolder.create(recipe())


def _failure(message: str) -> End:
    return End("failed", None, {"message": message, "advice": "", "traceback": "t"})


def test_the_failure_that_made_the_others_fail_is_the_one_that_is_told(folder: RunFolder) -> None:
    leave_end(folder, 0, _failure("connection closed"), of_another=True)
    leave_end(folder, 1, _failure("row 3 is odd"), of_another=False)
    end = _end(folder, 2, {0: how_it_ended(1), 1: how_it_ended(1)})
    assert (end.state, end.error and end.error["message"]) == ("failed", "Process 1 of 2: row 3 is odd")


def test_rank_0_knows_how_a_run_ended_that_did_not_fail(folder: RunFolder) -> None:
    leave_end(folder, 0, End("stopped", "before the first step"), of_another=False)
    assert _end(folder, 2, {1: how_it_ended(-15)}) == End("stopped", "before the first step")
    file_of(folder, 0).write_text("[]")
    assert _end(folder, 2, {}).state == "failed"


def test_a_wish_before_the_processes_are_there_is_heard_by_them(folder: RunFolder) -> None:
    from ftkit.runs.ranks import CarryingByRanks, Part

    class Started(CarryingByRanks):
        part: Part

        def run_ranks(self, count: int, part: Part) -> dict[int, str]:
            self.part = part
            self.wish(Wish("stop"))  # as by SIGTERM: now it is for rank 0
            leave_end(self.folder, 0, End("finished"), of_another=False)
            return {}

    carrying = Started(folder)
    folder.wishes().ask(Wish("pause"))
    carrying.listen()
    carrying.carry_out()
    heard = folder.wishes(carrying.part.wishes_from).heard()
    assert [wish.name for wish in heard] == ["pause", "stop"]
    assert [e["state"] for e in folder.log.read() if e["kind"] == "state"] == ["running", "finished"]


def test_several_processes_need_a_launch_that_has_them() -> None:
    with pytest.raises(RecipeError, match=r"compute\.processes is 2, but compute\.launch 'thread'"):
        ftkit.Recipe(compute={"processes": 2})
