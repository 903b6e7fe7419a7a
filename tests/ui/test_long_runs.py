"""A run of a million steps takes no more memory, points, time or messages than a short one."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import comm
import psutil
import pytest

import ftkit
from ftkit.runs.folder import RunFolder
from ftkit.ui import Lab, MonitorPanel
from ftkit.ui.charts import RunChart
from tests.benchmarks.long_runs import write_run
from tests.waiting import up_to

until = up_to(20)

STEPS = 1_000_000
SHORT = (
    '{{"time": 1.5, "kind": "train", "step": {step}, "epoch": 1.5, "loss": {loss:.4f}, "memory_gb": 2.5}}\n'
)


def megabytes() -> float:
    return psutil.Process().memory_info().rss / 1e6


@pytest.mark.slow
def test_a_million_steps(tmp_path: Path) -> None:
    path = write_run(tmp_path, STEPS, SHORT)
    before = megabytes()
    assert ftkit.attach(path).status == "finished"  # the first reading, which leaves a digest
    assert megabytes() - before < 60, "events are remembered"

    begun = time.process_time()
    run = ftkit.attach(path)
    assert (run.status, run.progress.step) == ("finished", STEPS)
    curves = {name: curve.points() for name, curve in run.summary.curves.items()}
    assert time.process_time() - begun < 1.0
    assert max(len(x) for x, _ in curves.values()) <= 1_000
    x, y = curves["loss"]
    assert (x[0], x[-1]) == (1, STEPS)
    first = next(event for event in run._folder.log.events() if event["kind"] == "train")
    assert y.max() == first["loss"], "the highest loss is the first"
    assert [event["step"] for event in run.events(STEPS + 990) if event["kind"] == "train"][-1] == STEPS

    before = megabytes()
    panel = MonitorPanel(run=run)
    until(lambda: panel.chart is not None)
    assert isinstance(panel.chart, RunChart)
    assert all(trace.x is None or len(trace.x) <= 1_000 for trace in panel.chart.data)
    assert f"step {STEPS:,} of {STEPS:,}" in panel._head.value
    assert megabytes() - before < 250, "plotly's own is half of it"
    panel.close()


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the messages that widgets send, as they are sent."""
    sizes: list[int] = []

    def count(
        self: Any, kind: str, data: Any = None, metadata: Any = None, buffers: Any = None, **_: Any
    ) -> None:
        sizes.append(len(repr(data)) + sum(memoryview(part).nbytes for part in buffers or ()))

    monkeypatch.setattr(comm.DummyComm, "publish_msg", count)
    return sizes


def test_messages_a_second_do_not_grow_with_events_a_second(tmp_path: Path, sent: list[int]) -> None:
    folder = RunFolder.create(ftkit.Recipe(output={"folder": tmp_path, "name": "quick"}))
    folder.log.append("state", state="running", detail=None, error=None)
    folder.log.append("steps", step=0, total_steps=10**9)
    stop = threading.Event()

    def write() -> None:
        count = 0
        while not stop.wait(0.01):
            count += 20
            for step in range(count - 19, count + 1):
                folder.log.append(
                    "train", step=step, epoch=0.1, loss=1 / step, memory_gb=1.0 + step / 1e6, elapsed=step
                )

    lab = Lab(folder=tmp_path)
    lab.train  # noqa: B018  built at its first mention
    lab.monitor  # noqa: B018
    thread = threading.Thread(target=write)
    thread.start()
    try:
        run = ftkit.attach(folder.path)
        run._folder.owner_alive = lambda: True  # type: ignore[method-assign]
        lab.workspace.run = run
        until(lambda: lab.monitor.chart is not None)
        until(lambda: run.progress.step > 100)
        sent.clear()
        before, begun = run.progress.step, time.monotonic()
        time.sleep(4.0)
        seconds = time.monotonic() - begun
        assert (run.progress.step - before) / seconds > 50, "the events came too slowly to prove anything"

        assert len(sent) / seconds < 40
        assert sum(sent) / seconds < 2e6
        lab.show("monitor")
    finally:
        stop.set()
        thread.join()
        lab.close()
