"""Faults on purpose: runs that are killed, starved of disk and damaged at random moments, and then resumed.

    python -m tests.faults.driver [--faults 200] [--stops 100] [--seed 0]

Each trial starts a small run, does something to it at a random moment, and checks that the folder tells the
truth; it goes on until the run has finished, perhaps with more faults on the way. What it ends with must
equal, to the bit, what a run without any fault ends with. Processes are forked from this one, which has torch
imported, so that a trial takes seconds; what is killed is a real process in the middle of real work.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("FTKIT_QUEUE", tempfile.mkdtemp(prefix="ftkit-queue-"))
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from safetensors.torch import load_file

import ftkit
import ftkit.fast.logprobs
import ftkit.models.adapters
import ftkit.train.fit
import ftkit.train.trainer
from ftkit.data import load
from ftkit.runs.folder import ENDED, RunFolder
from ftkit.runs.launch import Carrying
from ftkit.runs.wishes import Wish
from tests.conftest import CHATML, _save_tiny_model

STEPS = 12
PATIENCE = 120.0
MOST_FAULTS_A_RUN = 4


class LostRunError(AssertionError):
    """A run that did not come to the right end."""


class FalseStateError(AssertionError):
    """A folder that did not tell the truth."""


class Trials:
    """Everything that trials share: the model, the Recipe, the result to reach."""

    def __init__(self, work: Path, chance: random.Random) -> None:
        self.work = work
        self.chance = chance
        self.model = work / "model"
        self.injected: Counter[str] = Counter()
        self.model.mkdir()
        _in_a_child(lambda: _save_tiny_model(self.model, CHATML, {}))
        self.wanted: dict[str, torch.Tensor] = {}
        self.losses: list[float] = []
        self.logs_damaged: set[Path] = set()
        """Runs that lost a part of their log: a step that is in a checkpoint is not logged again."""
        begun = time.monotonic()
        whole = self.new(work / "reference")
        self.child(whole, resume=False).wait()
        self.seconds = time.monotonic() - begun
        run = ftkit.attach(whole.path)
        if run.status != "finished":
            raise LostRunError(f"the run without a fault is {run.status}: {run.error}")
        self.wanted, self.losses = _result(run)

    def recipe(self, folder: Path) -> ftkit.Recipe:
        """A few seconds of work with all that a checkpoint must bring back: momentum, dropout, warm-up."""
        return ftkit.Recipe(
            model=str(self.model),
            data={"source": "starter:extract", "max_rows": 40, "eval_rows": 8},
            method={"rank": 4, "dropout": 0.1},
            training={
                "max_steps": STEPS, "batch_size": 4, "evals": 2, "checkpoints": 5, "learning_rate": 1e-2
            },
            compute={"dtype": "float32", "device": "cpu", "threads": 1},
            output={"folder": folder},
        )  # fmt: skip

    def new(self, folder: Path) -> RunFolder:
        """A run folder that nobody carries out yet."""
        return RunFolder.create(self.recipe(folder))

    def child(self, folder: RunFolder, *, resume: bool) -> Child:
        """A process that carries out the run."""

        def work() -> None:
            Carrying(RunFolder.open(folder.path), resume=resume).carry_out()

        child = Child(work)
        with contextlib.suppress(OSError):
            folder.claim(child.pid, "process")
        return child

    def moment(self) -> float:
        """Seconds from the start of a run to some moment of it; half of them where it trains and saves."""
        return self.chance.uniform(0, self.seconds * self.chance.choice([1.0, 1.2]))


class Child:
    """A forked process in a session of its own."""

    def __init__(self, work: Callable[[], None]) -> None:
        self.pid = os.fork()
        self.code: int | None = None
        if self.pid == 0:
            status = 1
            try:
                os.setsid()
                with open(os.devnull, "w") as nothing:
                    os.dup2(nothing.fileno(), 1)
                    os.dup2(nothing.fileno(), 2)
                work()
                status = 0
            finally:
                os._exit(status)

    def running(self) -> bool:
        """Whether it has not ended."""
        if self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.code = os.waitstatus_to_exitcode(status)
        return self.code is None

    def wait(self, seconds: float = PATIENCE) -> None:
        """Until it has ended; a process that hangs is a lost run."""
        deadline = time.monotonic() + seconds
        while self.running():
            if time.monotonic() > deadline:
                self.kill()
                raise LostRunError(f"a process hung for {seconds:.0f} s")
            time.sleep(0.005)

    def kill(self) -> None:
        """As the system does it: no chance to tidy up."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        while self.running():
            time.sleep(0.005)


def _in_a_child(work: Callable[[], None]) -> None:
    """So that this process never starts torch's threads, which a fork does not take along."""
    child = Child(work)
    child.wait()
    if child.code:
        raise LostRunError(f"preparing ended with status {child.code}")


def _result(run: ftkit.Run) -> tuple[dict[str, torch.Tensor], list[float]]:
    return load_file(run.path / "adapter" / "adapter_model.safetensors"), run.metrics.loss.dropna().tolist()


# Faults: each does its worst to a run under way and returns when the run's process is gone


def killed(trials: Trials, folder: RunFolder, child: Child) -> None:
    """kill -9 at a random moment: in a step, a checkpoint, the log, the export."""
    deadline = time.monotonic() + trials.moment()
    while child.running() and time.monotonic() < deadline:
        time.sleep(0.002)
    child.kill()


def killed_while_saving(trials: Trials, folder: RunFolder, child: Child) -> None:
    """kill -9 while a checkpoint or the result is being written."""
    wanted = trials.chance.choice(["checkpoints/.checkpoint-*", ".adapter-*"])
    nth = trials.chance.randint(1, 4)
    while child.running() and not _seen(folder.path, wanted, nth):
        time.sleep(0.0005)
    time.sleep(trials.chance.uniform(0, 0.02))
    child.kill()


def _seen(folder: Path, pattern: str, nth: int) -> bool:
    made = len(list((folder / "checkpoints").glob("checkpoint-*")))
    return bool(list(folder.glob(pattern))) and (made >= nth - 1 or pattern.startswith(".adapter"))


def damaged(trials: Trials, folder: RunFolder, child: Child) -> None:
    """kill -9, and a file of the folder cut short, or a few bytes of it changed."""
    killed(trials, folder, child)
    files = [
        path
        for path in folder.path.rglob("*")
        if path.is_file() and path.name not in {".lock"} and path.stat().st_size
    ]
    victim = trials.chance.choice(sorted(files))
    content = bytearray(victim.read_bytes())
    if trials.chance.random() < 0.5:
        content = content[: trials.chance.randrange(len(content))]
    else:
        for _ in range(trials.chance.randint(1, 20)):
            content[trials.chance.randrange(len(content))] ^= trials.chance.randint(1, 255)
    victim.write_bytes(content)
    if victim == folder.log.path:
        trials.logs_damaged.add(folder.path)


def stopped(trials: Trials, folder: RunFolder, child: Child) -> None:
    """Stop, as a person does it."""
    deadline = time.monotonic() + trials.moment()
    while child.running() and time.monotonic() < deadline:
        time.sleep(0.002)
    folder.wishes().ask(Wish("stop"))
    child.wait()


def terminated_mid_log(trials: Trials, folder: RunFolder, child: Child) -> None:
    """kill -9, and half a line at the end of the log, as a torn write leaves it."""
    killed(trials, folder, child)
    with folder.log.path.open("ab") as file:
        file.write(b'{"time": 1.0, "kind": "train", "step": 99, "lo')


FAULTS: list[Callable[[Trials, RunFolder, Child], None]] = [
    killed, killed, killed, killed_while_saving, killed_while_saving, damaged, stopped, terminated_mid_log
]  # fmt: skip


@contextlib.contextmanager
def small_disk(work: Path) -> Iterator[Path | None]:
    """A file system of a few megabytes in memory; None where this process may not mount one."""
    place = work / "disk"
    place.mkdir(exist_ok=True)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(place)], capture_output=True, check=False
    )
    if mounted.returncode:
        yield None
        return
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], capture_output=True, check=False)


def disk_full(trials: Trials, folder: RunFolder, child: Child, place: Path) -> None:
    """The disk fills up at a random moment, and has room again after the run has ended."""
    deadline = time.monotonic() + trials.moment()
    while child.running() and time.monotonic() < deadline:
        time.sleep(0.002)
    filler = place / "filler"
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    child.wait()
    filler.unlink()


def read_only(trials: Trials, folder: RunFolder, child: Child, place: Path) -> None:
    """Nothing may be written any more from a random moment on, until after the run has ended."""
    deadline = time.monotonic() + trials.moment()
    while child.running() and time.monotonic() < deadline:
        time.sleep(0.002)
    again = ["mount", "-o", "remount,ro", str(place)]
    made = subprocess.run(again, capture_output=True, check=False)
    child.wait()
    if made.returncode == 0:
        subprocess.run(["mount", "-o", "remount,rw", str(place)], check=True)


# What must hold


def check_truth(folder: Path) -> str:
    """Nobody carries the run out: its state must be an end, and what it says is there must be there."""
    run = ftkit.attach(folder)
    status = run.status
    if status not in ENDED:
        raise FalseStateError(f"{folder} says {status}, and nobody carries it out")
    if status == "failed" and (run.error is None or not run.error.advice):
        raise FalseStateError(f"{folder} failed without a reason or advice")
    if run.progress.step > STEPS:
        raise FalseStateError(f"{folder} is at step {run.progress.step} of {STEPS}")
    return status


def check_result(trials: Trials, folder: Path) -> None:
    """The run ended as one without faults does, to the bit."""
    run = ftkit.attach(folder)
    if run.status != "finished":
        raise LostRunError(f"{folder} is {run.status}: {run.error}")
    weights, losses = _result(run)
    same = all(torch.equal(weights[name], tensor) for name, tensor in trials.wanted.items())
    if not same:
        raise LostRunError(f"{folder}: the weights differ from a run without faults")
    if folder not in trials.logs_damaged and losses[-1:] != trials.losses[-1:]:
        raise LostRunError(f"{folder}: the final loss is {losses[-1:]} instead of {trials.losses[-1:]}")


def forget(folder: Path) -> None:
    """What a new kernel knows of a run: nothing."""
    from ftkit.runs import run as runs

    runs._here.pop(folder, None)


def one_run(trials: Trials, base: Path, place: Path | None) -> None:
    """A run with one to four faults on its way to the right end."""
    folder = trials.new(base)
    faults = trials.chance.randint(1, MOST_FAULTS_A_RUN)
    resume = False
    for _ in range(faults):
        child = trials.child(folder, resume=resume)
        if place is not None:
            trouble = trials.chance.choice([disk_full, read_only])
            trouble(trials, folder, child, place)
        else:
            trouble = trials.chance.choice(FAULTS)
            trouble(trials, folder, child)
        trials.injected[trouble.__name__] += 1
        forget(folder.path)
        status = check_truth(folder.path)
        resume = True
        if status == "finished" and ftkit.attach(folder.path)._output_fault() is None:
            break
        folder = RunFolder.open(folder.path)
    if ftkit.attach(folder.path).status != "finished" or ftkit.attach(folder.path)._output_fault():
        trials.child(folder, resume=True).wait()
    forget(folder.path)
    check_result(trials, folder.path)


def kernel_dropped(trials: Trials, base: Path) -> None:
    """The kernel that started a run in a process of its own is killed: the run goes on to its end."""
    recipe = trials.recipe(base).replace({"compute.launch": "process"})
    file = base / "recipe.yaml"
    base.mkdir(parents=True, exist_ok=True)
    recipe.to_yaml(file)
    told = base / "told"

    def kernel() -> None:
        told.write_text(str(ftkit.start(file).path))
        time.sleep(600)

    child = Child(kernel)
    while not told.exists() or not told.read_text():
        time.sleep(0.01)
    time.sleep(trials.chance.uniform(0, 1))
    child.kill()
    trials.injected["kernel_dropped"] += 1
    run = ftkit.attach(told.read_text())
    run.wait(PATIENCE)
    check_result(trials, run.path)


def inject(trials: Trials, wanted: int) -> dict[str, list[str]]:
    """Runs with faults until there were so many; what went wrong, by kind."""
    wrong: dict[str, list[str]] = {"lost": [], "false": []}
    number = 0
    with small_disk(trials.work) as disk:
        while sum(trials.injected.values()) < wanted:
            number += 1
            on_disk = disk if disk is not None and number % 6 == 0 else None
            base = (on_disk or trials.work) / f"runs-{number}"
            try:
                if number % 20 == 5:
                    kernel_dropped(trials, base)
                else:
                    one_run(trials, base, on_disk)
            except FalseStateError as error:
                wrong["false"].append(str(error))
            except Exception as error:  # noqa: BLE001  whatever it is, a person would have lost the run
                wrong["lost"].append(f"{base.name}: {type(error).__name__}: {error}")
            else:
                shutil.rmtree(base, ignore_errors=True)
    if disk is None:
        print("(no small disk: this process may not mount one)")
    return wrong


@dataclass
class Stoppable:
    """A run under way."""

    folder: RunFolder
    running: Callable[[], bool]
    stop: Callable[[], object]
    wait: Callable[[], object]


def in_a_process(trials: Trials, number: int) -> Stoppable:
    """A run in a process of its own."""
    folder = trials.new(trials.work / f"stops-{number}")
    child = trials.child(folder, resume=False)
    return Stoppable(folder, child.running, lambda: folder.wishes().ask(Wish("stop")), child.wait)


def in_a_thread(trials: Trials, number: int) -> Stoppable:
    """A run in this process; only after all forks, for it starts torch's threads here."""
    run = ftkit.start(trials.recipe(trials.work / f"threads-{number}"))
    return Stoppable(RunFolder.open(run.path), lambda: run.active, run.stop, lambda: run.wait(60))


def stop_latency(
    trials: Trials, wanted: int, begin: Callable[[Trials, int], Stoppable]
) -> tuple[list[float], float]:
    """Seconds from Stop to the run's end, each at another moment; and the longest step.

    A run that ends before its moment does not count, and another takes its place.
    """
    waits: list[float] = []
    longest = 0.0
    for number in itertools.count():
        if len(waits) == wanted:
            break
        run = begin(trials, number)
        deadline = time.monotonic() + trials.chance.uniform(0, trials.seconds)
        while run.running() and time.monotonic() < deadline:
            time.sleep(0.002)
        if not run.running():
            continue
        asked = time.monotonic()
        run.stop()
        run.wait()
        waits.append(time.monotonic() - asked)
        longest = max(longest, _stopped(run.folder))
    return waits, longest


def _stopped(folder: RunFolder) -> float:
    """The longest step of a run that was asked to stop, in seconds.

    Raises
    ------
    FalseStateError
        When its folder says anything else.
    """
    status = check_truth(folder.path)
    if status not in {"stopped", "finished"}:
        raise FalseStateError(f"{folder.path} was stopped and says {status}")
    times = [event["elapsed"] for event in folder.log.read(0) if event["kind"] == "train"]
    return max([0.0, *(b - a for a, b in zip([0.0, *times], times, strict=False))])


def main() -> int:
    """Inject, stop, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--faults", type=int, default=200)
    parser.add_argument("--stops", type=int, default=100)
    parser.add_argument("--seed", type=int, default=None)
    given = parser.parse_args()
    seed = random.randrange(10**6) if given.seed is None else given.seed
    print(f"seed {seed}", flush=True)
    load(ftkit.Recipe().data)  # imported here once, not in every child
    with tempfile.TemporaryDirectory(prefix="ftkit-faults-") as work:
        trials = Trials(Path(work), random.Random(seed))
        wrong = inject(trials, given.faults)
        for what, texts in wrong.items():
            for text in texts:
                print(f"{what}: {text}")
        injected = sum(trials.injected.values())
        bad = sum(map(len, wrong.values()))
        print(json.dumps(trials.injected))
        ends = f"{len(wrong['lost'])} runs lost, {len(wrong['false'])} false states"
        print(
            f"faults: {injected} injected, {injected - bad} recovered, {ends}",
            flush=True,
        )
        late = 0
        if given.stops:
            for kind, begin in (("process", in_a_process), ("thread", in_a_thread)):
                waits, step = stop_latency(trials, given.stops, begin)
                too_late = sum(wait > step + 2 for wait in waits)
                late += too_late
                print(
                    f"stops: {len(waits)}, each of a {kind}, longest {max(waits):.2f} s, "
                    f"longest step {step:.2f} s, {too_late} too late",
                    flush=True,
                )
    return 1 if bad or late else 0


if __name__ == "__main__":
    sys.exit(main())
