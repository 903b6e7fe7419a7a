"""The starter model is fine-tuned inside 1.5 GB: what a container of Binder leaves to a kernel."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

LIMIT = 1_500_000_000
RUN = r"""
import pathlib, re, sys, ftkit
run = ftkit.start(ftkit.Recipe(
    data={"source": "starter:extract", "eval_rows": 4},
    method={"type": "lora", "rank": 8},
    training={
        "max_steps": 4, "batch_size": 1, "gradient_accumulation_steps": 2, "evals": 1, "checkpoints": 1,
    },
    compute={"gradient_checkpointing": "layers"},
    output={"folder": sys.argv[1], "name": "small"},
)).wait()
# not ru_maxrss, which begins with that of the process that started this one
most = re.search(r"VmHWM:\s*(\d+)", pathlib.Path("/proc/self/status").read_text())[1]
print(run.status, int(most) * 1024)
"""


@contextlib.contextmanager
def confined() -> Iterator[list[str]]:
    """How to begin a command that the kernel keeps within `LIMIT`; nothing where this user may not."""
    groups = dict(line.split(":", 2)[1:] for line in Path("/proc/self/cgroup").read_text().splitlines())
    own = groups["memory"] if "memory" in groups else groups.get("", "/")
    root = Path("/sys/fs/cgroup") / ("memory" if "memory" in groups else "")
    group = root / own.lstrip("/") / f"ftkit-{os.getpid()}"
    limit = "memory.limit_in_bytes" if "memory" in groups else "memory.max"
    try:
        group.mkdir()
        (group / limit).write_text(str(LIMIT))
    except OSError:
        with contextlib.suppress(OSError):
            group.rmdir()
        yield []
        return
    try:
        yield ["sh", "-c", f'echo $$ > "{group}/cgroup.procs" && exec "$@"', "sh"]
    finally:
        with contextlib.suppress(OSError):
            group.rmdir()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="memory limits of Linux")
def test_the_starter_model_is_fine_tuned_in_one_and_a_half_gigabytes(
    tmp_path: Path, starter_tokenizer: object
) -> None:
    with confined() as begin:
        done = subprocess.run(
            [*begin, sys.executable, "-c", RUN, str(tmp_path)],
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
            env=os.environ | {"OMP_WAIT_POLICY": "PASSIVE"},
        )
    assert done.returncode == 0, done.stderr[-2000:]
    status, peak = done.stdout.split()[-2:]
    assert status == "finished"
    assert int(peak) < LIMIT
