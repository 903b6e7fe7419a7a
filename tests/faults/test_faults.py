"""The short form of the fault test; `make soak` runs the long one."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="it forks processes and kills them")
def test_no_run_is_lost_and_no_state_is_false() -> None:
    command = [sys.executable, "-m", "tests.faults.driver", "--faults", "12", "--stops", "4"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=550)
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    counts = re.search(r"faults: (\d+) injected, (\d+) recovered, 0 runs lost, 0 false states", done.stdout)
    assert counts is not None
    assert int(counts[1]) == int(counts[2]) >= 12
    assert re.search(r"stops: \d+, .* 0 too late", done.stdout)
