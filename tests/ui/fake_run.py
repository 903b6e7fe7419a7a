"""A run that trains nothing: the same surface as `ftkit.Run`, fed by hand or by a thread."""

from __future__ import annotations

import math
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ftkit.runs.summary import Summary


class FakeRun:
    """`log`, `evaluate`, `note` and `end` add events; what the panels read is as on a real run."""

    def __init__(self, name: str = "demo", path: Path | None = None, total_steps: int = 100) -> None:
        self.name = name
        self.path = path or Path("runs") / "demo"
        self.status = "running"
        self.error: Any = None
        self.total_steps = total_steps
        self.asked: list[str] = []
        self.checkpoints: list[int] = []
        self.origin: Any = None
        self.summary = Summary()
        self._events: list[dict[str, Any]] = []
        self._lock = threading.Lock()

    @property
    def active(self) -> bool:
        return self.status in ("queued", "running", "paused", "stopping")

    @property
    def step(self) -> int:
        return max((e.get("step", 0) for e in self._events if e["kind"] == "train"), default=0)

    @property
    def progress(self) -> Any:
        elapsed = self.step * 0.5
        return SimpleNamespace(
            stage="Training" if self.step else "Loading the model",
            fraction=self.step / self.total_steps if self.step else None,
            step=self.step,
            total_steps=self.total_steps,
            epoch=self.step / 50,
            tokens_per_second=600.0 if self.step else None,
            elapsed=elapsed,
            remaining=(self.total_steps - self.step) * 0.5 if self.step and self.active else None,
        )

    @property
    def metrics(self) -> Any:
        import pandas as pd

        return pd.DataFrame([e for e in self._events if e["kind"] == "train"])

    def add(self, kind: str, **fields: Any) -> None:
        with self._lock:
            event = {"time": time.time(), "kind": kind, **fields}
            self._events.append(event)
            self.summary.fold(event)

    def log(self, step: int, loss: float | None = None, **fields: Any) -> None:
        values = {
            "loss": 0.4 + 2.5 * math.exp(-step / 25) + 0.22 * math.sin(step * 1.7) * math.exp(-step / 60)
            if loss is None
            else loss,
            "epoch": step / 50,
            "learning_rate": 2e-4 * min(1.0, step / 10) * max(0.02, 1 - step / self.total_steps),
            "grad_norm": 1.0 + 0.5 * math.cos(step * 0.7) + 2 * math.exp(-step / 10),
            "accuracy": 0.9 - 0.6 * math.exp(-step / 60),
            "tokens_per_second": 600 + 40 * math.sin(step / 3),
            "memory_gb": 2.1 + 0.3 * (1 - math.exp(-step / 20)),
            "gpu_memory_gb": None,
            "elapsed": step * 0.5,
        }
        self.add("train", step=step, **(values | fields))

    def evaluate(self, step: int, loss: float | None = None) -> None:
        value = 0.45 + 2.4 * math.exp(-step / 28) if loss is None else loss
        self.add(
            "eval",
            step=step,
            epoch=step / 50,
            loss=value,
            accuracy=0.9 - 0.6 * math.exp(-step / 60),
            seconds=1.0,
        )

    def note(self, text: str, level: str = "info") -> None:
        self.add("note", level=level, text=text)

    def train(self, steps: int, start: int = 1, pause: float = 0.0) -> None:
        """Log steps and an evaluation every tenth."""
        for step in range(start, start + steps):
            self.log(step)
            if step % 10 == 0:
                self.evaluate(step)
            if pause:
                time.sleep(pause)

    def in_thread(self, steps: int, pause: float) -> FakeRun:
        """Log steps in a thread, then finish."""

        def work() -> None:
            self.train(steps, pause=pause)
            self.status = "finished"

        threading.Thread(target=work, daemon=True).start()
        return self

    def fail(self, message: str, advice: str = "", traceback: str = "") -> None:
        self.error = SimpleNamespace(message=message, advice=advice, traceback=traceback)
        self.status = "failed"

    def pause(self) -> None:
        self.asked.append("pause")
        self.status = "paused"

    def resume(self) -> None:
        self.asked.append("resume")
        self.status = "running"

    def stop(self) -> None:
        self.asked.append("stop")
        self.status = "stopping"
