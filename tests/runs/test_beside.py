"""A chat beside a run in a process of its own: they compute in turns, and neither needs the other to live."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

import ftkit
from ftkit.chat import ChatSession, Reply, Sampling
from ftkit.errors import RunError
from ftkit.evaluate.generate import greedy_replies
from ftkit.models.machine import MachineTurn
from tests.waiting import up_to

pytestmark = pytest.mark.slow

until = up_to(120)

HOLDS = """
import time
from ftkit.models.machine import machine_turn
with machine_turn("cpu").turn():
    print("mine", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def run(tmp_path: Path, tiny_model_folder: Callable[..., Path]) -> Iterator[ftkit.Run]:
    recipe = ftkit.Recipe(
        model=str(tiny_model_folder()),
        data={"source": "starter:extract", "max_rows": 16, "held_out_fraction": 0.0},
        training={"max_steps": 100_000, "batch_size": 4, "evals": 0, "checkpoints": 0},
        compute={"device": "cpu", "fast": False, "launch": "process", "threads": 1},
        output={"folder": tmp_path / "runs"},
    )
    run = ftkit.start(recipe)
    until(lambda: run.progress.step > 0)
    yield run
    if run.active:
        run.stop()
        run.wait(60)


class Watch:
    """What the run's process computes, the main thread of it, while this one has the turn."""

    def __init__(self, run: ftkit.Run) -> None:
        owner = run._folder.owner()
        assert owner is not None
        self.process = psutil.Process(owner.pid)
        self.turns = 0
        self.held = 0.0
        self.computed = 0.0

    def seconds(self) -> float:
        return int(Path(f"/proc/{self.process.pid}/schedstat").read_text().split()[0]) / 1e9

    @contextlib.contextmanager
    def watching(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        own = MachineTurn.turn

        @contextlib.contextmanager
        def turn(machine: MachineTurn) -> Iterator[None]:
            with own(machine):
                begun, before = time.monotonic(), self.seconds()
                try:
                    yield
                finally:
                    self.turns += 1
                    self.held += time.monotonic() - begun
                    self.computed += self.seconds() - before

        with monkeypatch.context() as patched:
            patched.setattr(MachineTurn, "turn", turn)
            yield


def talker(run: ftkit.Run, tokens: int) -> ChatSession:
    return ChatSession(run, sampling=Sampling(max_new_tokens=tokens, seed=1))


def saved(run: ftkit.Run) -> int:
    """Have the run save, and wait for it: the step."""
    before = run.checkpoints
    run.save()
    until(lambda: run.checkpoints != before)
    return run.checkpoints[-1]


@pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="it needs Linux's own clock of threads")
def test_they_compute_in_turns_and_the_newest_checkpoint_answers(
    run: ftkit.Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = talker(run, 200)
    with pytest.raises(RunError, match="no checkpoint yet"):
        session.send("What is your name?")
    first = saved(run)
    watch = Watch(run)
    session.send("What is your name?")  # loads
    session.clear()
    with watch.watching(monkeypatch):
        before = run.progress.step
        reply = session.send("What is your name?")["adapter"]
        loaded = run.open_model()
        prompts = [loaded.tokenizer(text).input_ids for text in ("What", "is", "your", "name") * 4]
        assert len(list(greedy_replies(loaded, prompts, max_new_tokens=20, batch_size=2))) == 16
        steps = run.progress.step - before
    assert reply.checkpoint == first
    assert watch.turns > 8
    assert watch.computed < 0.25 * watch.held, "the run computed in the chat's turns"
    assert steps >= watch.turns // 2, "the run starved"

    session.clear()
    newer = saved(run)
    assert newer > first
    assert session.send("And now?")["adapter"].checkpoint == newer
    assert session.send("And before?", mode="base")["base"].checkpoint is None


def test_a_killed_chat_holds_nobody_up_and_a_killed_run_neither(run: ftkit.Run) -> None:
    other = subprocess.Popen([sys.executable, "-c", HOLDS], stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None
    assert other.stdout.readline() == "mine\n"
    held = run.progress.step  # at most one step is under way
    time.sleep(1.0)
    assert run.progress.step <= held + 1
    assert run.status == "running"
    other.kill()
    other.communicate()
    until(lambda: run.progress.step > held + 3)

    saved(run)
    session, said = talker(run, 200), []
    session.send("What is your name?")
    session.clear()
    begun = threading.Event()

    def talk() -> None:
        said.append(session.send("Tell me.", on_piece=lambda *_: begun.set())["adapter"])

    thread = threading.Thread(target=talk, daemon=True)
    thread.start()
    assert begun.wait(60)
    owner = run._folder.owner()
    assert owner is not None
    psutil.Process(owner.pid).kill()
    thread.join(60)
    assert not thread.is_alive()
    reply: Reply = said[0]
    assert reply.tokens > 0
    until(lambda: run.status == "interrupted")
