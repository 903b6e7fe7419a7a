"""How a run of a million steps weighs: reading it, attaching to it, its panel, its table.

    python -m tests.benchmarks.long_runs [--steps 1000000]

The folder is written as a run writes it, without training. Times are of the processor, so that a busy machine
gives the same figures. Most of the first reading is a digest's making: it happens while the run goes on, and
again only where the digest file was lost.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

import ftkit
from ftkit.runs.folder import RunFolder

LINE = (
    '{{"time": {time:.3f}, "kind": "train", "step": {step}, "epoch": {epoch:.4f}, "loss": {loss:.6f}, '
    '"accuracy": 0.81234, "entropy": 1.23456, "learning_rate": 0.0001, "grad_norm": {norm:.6f}, '
    '"tokens": {tokens}, "trained_tokens": {tokens}, "step_tokens": 512, "step_trained_tokens": 200, '
    '"tokens_per_second": 612.345, "memory_gb": 2.1345, "gpu_memory_gb": null, "elapsed": {elapsed:.3f}}}\n'
)


def write_run(base: Path, steps: int, line: str = LINE) -> Path:
    """A finished run of so many steps, with an evaluation every thousandth, below `base`."""
    folder = RunFolder.create(ftkit.Recipe(output={"folder": base, "name": "long"}))
    folder.log.append("state", state="running", detail=None, error=None)
    folder.log.append("steps", step=0, total_steps=steps)
    with folder.log.path.open("a") as log:
        for step in range(1, steps + 1):
            loss = 0.5 + 300 / (step + 100) + (step * 2_654_435_761 % 1_000) / 4_000
            log.write(
                line.format(
                    time=1.7e9 + step,
                    step=step,
                    epoch=step / 5_000,
                    loss=loss,
                    norm=1 + loss / 3,
                    tokens=step * 512,
                    elapsed=step * 0.5,
                )
            )
            if step % 1_000 == 0:
                log.write(
                    f'{{"time": {1.7e9 + step}, "kind": "eval", "step": {step}, "epoch": {step / 5_000}, '
                    f'"loss": {loss + 0.1}, "accuracy": 0.8, "entropy": 1.2, "seconds": 1.0}}\n'
                )
    folder.log.append("state", state="finished", detail=None, error=None)
    return folder.path


@contextmanager
def measured(what: str, show: Callable[[str], object] = print) -> Iterator[None]:
    """Seconds of the processor and megabytes of memory that the body took."""
    process = psutil.Process()
    memory, begun = process.memory_info().rss, time.process_time()
    yield
    seconds, grown = time.process_time() - begun, (process.memory_info().rss - memory) / 1e6
    show(f"{what:<44}{seconds:8.2f} s   {grown:+8.0f} MB")


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=1_000_000)
    steps = parser.parse_args().steps

    import pandas  # noqa: F401  so that its loading is not measured

    from ftkit.ui import MonitorPanel

    with tempfile.TemporaryDirectory() as base:
        path = write_run(Path(base), steps)
        size = (path / "events.jsonl").stat().st_size / 1e6
        print(f"{steps:,} steps, {size:,.0f} MB of events")
        with measured("first reading, without a digest"):
            assert ftkit.attach(path).status == "finished"
        print(f"{'digest file':<44}{(path / '.events.digest').stat().st_size / 1e3:8.0f} kB")
        with measured("attach: state, progress, curves"):
            run = ftkit.attach(path)
            points = [len(curve.points()[0]) for curve in run.summary.curves.values()]
        with measured("a Monitor panel on it, with its chart"):
            panel = MonitorPanel(run=run)
            while panel.chart is None:
                time.sleep(0.05)
        panel.close()
        with measured("the last ten events"):
            assert len(run.events(steps - 10)) > 0
        with measured("run.metrics"):
            rows = len(run.metrics)
        print(f"points a trace: at most {max(points)}; rows of metrics: {rows:,}")


if __name__ == "__main__":
    main()
