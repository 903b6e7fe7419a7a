"""What fifty runs and ten Labs leave behind in the process that they lived in: nothing that adds up."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from ipywidgets.widgets.widget import _instances as open_widgets

import ftkit
from ftkit.runs.folder import RunFolder
from ftkit.ui import Lab, MonitorPanel

RUNS, LABS = 50, 10


@dataclass
class Held:
    """What the process holds."""

    threads: int
    files: int
    comms: int
    megabytes: float

    @classmethod
    def now(cls) -> Held:
        gc.collect()
        process = psutil.Process()
        return cls(
            threading.active_count(),
            process.num_fds(),
            len(open_widgets),
            process.memory_info().rss / 1e6,
        )


_before_us: set[threading.Thread] = set()


@pytest.fixture(autouse=True)
def others() -> None:
    """Threads that tests before this one have left behind, such as an open panel's, are theirs."""
    _before_us.clear()
    _before_us.update(threading.enumerate())


def settled() -> Held:
    """What is held once the workers have come to their ends."""
    deadline = time.monotonic() + 60
    while any(one.name.startswith("ftkit") for one in set(threading.enumerate()) - _before_us):
        assert time.monotonic() < deadline, "a worker does not end"
        time.sleep(0.1)
    return Held.now()


def come_back(before: Held, megabytes: float) -> None:
    """What is held now is what was held before."""
    now = settled()
    assert now.threads <= before.threads, [thread.name for thread in threading.enumerate()]
    assert now.files <= before.files, psutil.Process().open_files()
    assert now.comms <= before.comms, list(open_widgets.values())[-20:]
    assert now.megabytes - before.megabytes < megabytes, f"{before} became {now}"


@pytest.mark.slow
def test_fifty_runs_leave_nothing(tmp_path: Path, tiny_model_folder: Callable[..., Path]) -> None:
    recipe = ftkit.Recipe(
        model=str(tiny_model_folder()),
        data={"source": "starter:extract", "max_rows": 4},
        training={"max_steps": 1, "batch_size": 2, "evals": 0},
        compute={"fast": False, "device": "cpu"},
        output={"folder": tmp_path},
    )
    for _ in range(3):  # what is loaded once for good: libraries, caches of kernels
        ftkit.start(recipe).wait(60)
    before = settled()
    for _ in range(RUNS):
        run = ftkit.start(recipe).wait(60)
        assert run.status == "finished"
        assert len(run.metrics) == 1
    come_back(before, megabytes=60)


@pytest.mark.slow
def test_ten_labs_leave_nothing(tmp_path: Path, tiny_model_folder: Callable[..., Path]) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "Hello?", "completion": "Good day."}\n' * 4)
    recipe = ftkit.Recipe(
        model=str(tiny_model_folder()),
        data={"source": str(rows), "held_out_fraction": 0.25},
        output={"folder": tmp_path, "name": "one"},
    )
    folder = RunFolder.create(recipe)
    folder.log.append("state", state="running", detail=None, error=None)
    for step in range(1, 50):
        folder.log.append("train", step=step, epoch=0.1, loss=1 / step, memory_gb=1.0)
    folder.log.append("state", state="finished", detail=None, error=None)
    run = ftkit.attach(folder.path)

    def open_and_close() -> None:
        lab = Lab(recipe=recipe)
        for name in ("model", "data", "train", "monitor", "chat"):
            lab.show(name)
        lab.workspace.run = run
        deadline = time.monotonic() + 20
        while lab.monitor.chart is None:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        lab.close()
        alone = MonitorPanel(run=run)
        alone.draw_with("svg")
        alone.close()

    for _ in range(3):
        open_and_close()
    before = settled()
    for _ in range(LABS):
        open_and_close()
    come_back(before, megabytes=60)
