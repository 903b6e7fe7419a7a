from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import ftkit
from ftkit.cli import main


def test_a_recipe_is_carried_out(
    recipe_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", str(recipe_file)]) == 0
    shown = capsys.readouterr().out
    assert "step 3/3" in shown
    assert "eval loss" in shown
    assert f"ftkit chat {tmp_path / 'runs' / 'counting'}" in shown
    assert (tmp_path / "runs" / "counting" / "adapter").is_dir()


def test_set_changes_fields_one_after_the_other(recipe_file: Path, tmp_path: Path) -> None:
    changes = ["--set", "training.max_steps=1", "--set", "method=lora", "--set", "method.rank=2"]
    assert main(["run", str(recipe_file), *changes]) == 0
    run = ftkit.attach(tmp_path / "runs" / "counting")
    assert (run.recipe.training.max_steps, run.recipe.method.rank) == (1, 2)
    assert run.progress.step == 1


def test_a_failed_run_is_a_message_and_advice(recipe_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(recipe_file), "--set", "data.source=absent.jsonl"]) == 1
    shown = capsys.readouterr()
    assert "absent.jsonl" in shown.err
    assert "Traceback" not in shown.err + shown.out


def test_ctrl_c_saves_and_the_run_goes_on_where_it_stopped(recipe_file: Path, tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "counting"
    stopped_at = [0]
    for what, steps in ((recipe_file, 100_000), (folder, None)):
        process = begin(what, steps)
        wait_for_step(process, stopped_at[-1])
        process.send_signal(signal.SIGINT)
        shown, _ = process.communicate(timeout=60)
        assert process.returncode == 130, shown
        assert "Stopped at step" in shown
        assert f"ftkit run {folder}" in shown
        assert (folder / "adapter").is_dir()
        assert "Traceback" not in shown
        stopped_at.append(ftkit.attach(folder).progress.step)
    assert 0 < stopped_at[1] < stopped_at[2]
    steps = [event["step"] for event in ftkit.attach(folder).events() if event["kind"] == "train"]
    assert steps == list(range(1, stopped_at[2] + 1))


def test_a_second_ctrl_c_ends_at_once(recipe_file: Path, tmp_path: Path) -> None:
    process = begin(recipe_file, steps=100_000)
    wait_for_step(process)
    # Two presses may reach the process as one while it has not handled the first.
    while process.poll() is None:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(timeout=0.3)
        except subprocess.TimeoutExpired:
            continue
    process.communicate()
    assert process.returncode == 130
    assert not ftkit.attach(tmp_path / "runs" / "counting").active


def test_a_run_that_is_to_go_on_keeps_its_recipe(
    recipe_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", str(recipe_file)]) == 0
    folder = str(tmp_path / "runs" / "counting")
    assert main(["run", folder, "--set", "training.epochs=2"]) == 1
    assert "its recipe is what it is" in capsys.readouterr().err
    assert main(["run", folder]) == 1
    assert "is finished" in capsys.readouterr().err


def test_runs_lists_them_newest_first(
    recipe_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", str(recipe_file)]) == 0
    assert main(["run", str(recipe_file), "--set", "output.name=second"]) == 0
    capsys.readouterr()
    assert main(["runs", "--folder", str(tmp_path / "runs")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines[1:]] == [["second", "finished"], ["counting", "finished"]]
    assert all("3/3" in line for line in lines[1:])


def test_runs_of_an_empty_folder_says_how_to_start_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["runs", "--folder", str(tmp_path)]) == 0
    assert "ftkit demo" in capsys.readouterr().out


def begin(what: Path, steps: int | None = None) -> subprocess.Popen[str]:
    words = ["run", str(what)]
    if steps is not None:
        words += ["--set", f"training.max_steps={steps}", "--set", "training.evals=0"]
    return subprocess.Popen(
        [sys.executable, "-u", "-m", "ftkit", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_for_step(process: subprocess.Popen[str], after: int = 0) -> None:
    """Read what `process` prints until it has made a step after that one."""
    assert process.stdout is not None
    seen = []
    for line in process.stdout:
        seen.append(line)
        if any(int(step) > after for step in re.findall(r"step (\d+)/", line)):
            return
    raise AssertionError("".join(seen))
