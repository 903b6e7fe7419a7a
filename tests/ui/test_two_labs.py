"""Two Labs on one kernel, two kernels on one run: what each shows is true, and each can steer."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import ftkit
from ftkit.ui import Lab
from tests.waiting import up_to

pytestmark = pytest.mark.slow

until = up_to(90)

OTHER_KERNEL = """
import sys, ftkit
run = ftkit.start(ftkit.Recipe.from_yaml(sys.argv[1]))
print(run.path, flush=True)
for line in sys.stdin:
    print(getattr(run, line.strip()), flush=True)
"""


@pytest.fixture
def recipe(tmp_path: Path, tiny_model_folder: Callable[..., Path]) -> ftkit.Recipe:
    return ftkit.Recipe(
        model=str(tiny_model_folder()),
        data={"source": "starter:extract", "max_rows": 16},
        training={"max_steps": 100_000, "batch_size": 2, "evals": 0},
        compute={"device": "cpu", "fast": False},
        output={"folder": tmp_path / "runs"},
    )


@pytest.fixture
def labs(recipe: ftkit.Recipe) -> Iterator[tuple[Lab, Lab]]:
    both = Lab(recipe=recipe), Lab(recipe=recipe)
    yield both
    for lab in both:
        if lab.run is not None and lab.run.active:
            lab.run.stop()
            lab.run.wait(60)
        lab.close()


class OtherKernel:
    """A process that has started a run and says of it what it is asked."""

    def __init__(self, recipe: ftkit.Recipe, folder: Path) -> None:
        recipe.to_yaml(folder / "other.yaml")
        self._process = subprocess.Popen(
            [sys.executable, "-c", OTHER_KERNEL, str(folder / "other.yaml")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.path = Path(self._line())

    def ask(self, name: str) -> str:
        assert self._process.stdin is not None
        self._process.stdin.write(name + "\n")
        self._process.stdin.flush()
        return self._line()

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


@pytest.fixture
def other(recipe: ftkit.Recipe, tmp_path: Path) -> Iterator[OtherKernel]:
    kernel = OtherKernel(recipe, tmp_path)
    yield kernel
    kernel.kill()


def test_a_run_of_one_lab_is_seen_and_stopped_in_the_other(labs: tuple[Lab, Lab]) -> None:
    one, two = labs
    run = one.train.start()
    until(lambda: run.progress.step > 0)
    two.monitor.refresh_runs()
    until(lambda: len(two.monitor._picker.options) == 2)
    label, path = two.monitor._picker.options[1]
    assert label == f"{run.name} (running)"
    two.monitor._picker.value = path
    until(lambda: two.monitor.run is not None)
    assert two.monitor.run is run
    two.monitor._stop.click()
    run.wait(60)
    until(lambda: all("stopped" in lab.monitor._head.value for lab in labs))
    until(lambda: "stopped" in one._head.value)
    until(lambda: not one.train._start.disabled)


def test_start_in_both_runs_one_after_the_other(labs: tuple[Lab, Lab]) -> None:
    one, two = labs
    first = one.train.start()
    until(lambda: first.progress.step > 0)
    second = two.train.start()
    assert second.path != first.path
    time.sleep(0.5)
    assert (first.status, second.status) == ("running", "queued")
    until(lambda: "queued" in two.monitor._head.value and "running" in one.monitor._head.value)
    two.train.stop()
    second.wait(60)
    assert (first.status, second.status) == ("running", "stopped")
    until(lambda: "stopped" in two.monitor._head.value)


def test_a_taken_name_is_said_in_the_second_lab(labs: tuple[Lab, Lab]) -> None:
    one, two = labs
    for lab in labs:
        lab.workspace.edit({"output.name": "mine"})
    run = one.train.start()
    with pytest.raises(ftkit.errors.RunError, match="already a run"):
        two.train.start()
    assert "already a run" in two.train._message.value
    assert two.run is None
    assert run.active


def test_a_run_of_another_kernel_is_seen_and_steered(labs: tuple[Lab, Lab], other: OtherKernel) -> None:
    lab, _ = labs
    run = ftkit.attach(other.path)
    lab.workspace.run = run
    until(lambda: run.progress.step > 0)
    assert run.status == other.ask("status") == "running"
    until(lambda: "running" in lab.monitor._head.value)
    lab.monitor.pause()
    until(lambda: run.status == other.ask("status") == "paused")
    until(lambda: "paused" in lab.monitor._head.value)
    held = run.progress.step
    lab.train.resume()
    until(lambda: run.progress.step > held)
    lab.monitor.stop()
    until(lambda: run.status == other.ask("status") == "stopped")
    until(lambda: "stopped" in lab.monitor._head.value)

    lab.monitor.resume()  # it goes on in this kernel: the one that began it sees that
    until(lambda: run.progress.step > held and run.status == "running")
    assert other.ask("status") == "running"
    assert other.ask("active") == "True"


def test_a_run_whose_kernel_was_killed_goes_on_here(labs: tuple[Lab, Lab], other: OtherKernel) -> None:
    lab, _ = labs
    lab.workspace.run = run = ftkit.attach(other.path)
    until(lambda: run.progress.step > 0)
    other.kill()
    until(lambda: "interrupted" in lab.monitor._head.value)
    assert not lab.monitor._resume.disabled
    lab.monitor._resume.click()
    until(lambda: run.status == "running")
    until(lambda: "running" in lab.monitor._head.value)
