"""Turns of several processes: one computes at a time, nobody starves, who dies or hangs holds nobody up."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from ftkit.models import machine
from ftkit.models.gate import Gate
from ftkit.models.machine import MachineTurn
from tests.waiting import up_to

until = up_to(30)

OTHER = """
import json, sys, time
from pathlib import Path
from ftkit.models.gate import Gate
from ftkit.models.machine import MachineTurn
gate = Gate(MachineTurn(Path(sys.argv[1]), "cpu"))
print("ready", flush=True)
"""
WORKS = """
sys.stdin.readline()
end, said = time.monotonic() + 1.5, []
while time.monotonic() < end:
    asked = time.monotonic()
    with gate.turn("work"):
        begun = time.monotonic()
        while time.monotonic() < begun + 0.01:
            pass
        said.append((asked, begun, time.monotonic()))
print(json.dumps(said))
"""
HOLDS = """
with gate.turn("hold"):
    print("mine", flush=True)
    time.sleep(60)
"""

Start = Callable[[str], subprocess.Popen[str]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start another process that does something with its turns."""
    started: list[subprocess.Popen[str]] = []

    def begin(code: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", OTHER + code, str(tmp_path)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert _line(process) == "ready"
        return process

    yield begin
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    """This process's, on the machine that the others are on."""
    return Gate(MachineTurn(tmp_path, "cpu"))


def _line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def seconds_to_a_turn(gate: Gate) -> float:
    asked = time.monotonic()
    with gate.turn("mine"):
        return time.monotonic() - asked


def test_two_processes_compute_one_at_a_time_and_alternate(start: Start) -> None:
    both = [start(WORKS), start(WORKS)]
    for process in both:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    one, two = (json.loads(_line(process)) for process in both)
    inside = sorted((begun, end) for _, begun, end in (*one, *two))
    assert all(end <= begun for (_, end), (begun, _) in pairwise(inside)), "they were in at once"
    assert min(len(one), len(two)) > 0.3 * (len(one) + len(two)), "one of them starves"
    for mine, others in ((one, two), (two, one)):
        starts = [begun for _, begun, _ in others]
        ahead = sorted(sum(asked < other < begun for other in starts) for asked, begun, _ in mine)
        assert ahead[len(ahead) * 9 // 10] <= 1, "it waits for more than one turn of the other"


def test_a_killed_holder_gives_its_turn_up(start: Start, gate: Gate) -> None:
    holder = start(HOLDS)
    assert _line(holder) == "mine"
    came = threading.Event()

    def take() -> None:
        with gate.turn("mine"):
            came.set()

    threading.Thread(target=take, daemon=True).start()
    assert not came.wait(0.2)
    holder.send_signal(signal.SIGKILL)
    assert came.wait(10)


def test_a_killed_waiter_is_waited_for_no_more(start: Start, gate: Gate) -> None:
    with gate.turn("mine"):
        assert gate.waiting == 0
        waiter = start(HOLDS)
        until(lambda: gate.waiting == 1)
        waiter.send_signal(signal.SIGKILL)
        until(lambda: gate.waiting == 0)
    assert seconds_to_a_turn(gate) < 10


def test_a_suspended_holder_costs_patience_once(
    start: Start, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "PATIENCE", 1.0)
    monkeypatch.setattr(machine, "NO_PATIENCE", 0.1)
    holder = start(HOLDS)
    assert _line(holder) == "mine"
    holder.send_signal(signal.SIGSTOP)
    assert seconds_to_a_turn(gate) >= 1.0
    assert 0.1 <= seconds_to_a_turn(gate) < 1.0
    holder.send_signal(signal.SIGKILL)
    holder.wait(10)
    seconds_to_a_turn(gate)
    again = start(HOLDS)
    assert _line(again) == "mine"
    assert seconds_to_a_turn(gate) >= 1.0, "the turn had come meanwhile: there is patience again"


def test_threads_of_a_process_are_in_its_turn_together(gate: Gate, start: Start) -> None:
    another = Gate(gate._machine)  # of another model in the same process
    with gate.turn("training"), another.turn("scoring"):
        came = threading.Event()

        def take() -> None:
            with Gate(gate._machine).turn("chat"):
                came.set()

        threading.Thread(target=take, daemon=True).start()
        assert came.wait(10)
        waiter = start(HOLDS)
        until(lambda: gate.waiting == 1)
    assert _line(waiter) == "mine"


def test_a_device_does_not_wait_for_another(tmp_path: Path, start: Start) -> None:
    assert _line(start(HOLDS)) == "mine"
    assert seconds_to_a_turn(Gate(MachineTurn(tmp_path, "cuda"))) < 10


def test_where_nothing_can_be_locked_everybody_computes(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    gate = Gate(MachineTurn(tmp_path / "file", "cpu"))
    assert seconds_to_a_turn(gate) < 10
    assert gate.waiting == 0
