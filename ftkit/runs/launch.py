"""Carrying out a run: one at a time on this machine, the others wait their turn.

`Carrying` does it, in whatever thread or process it is called: it is the Sink that training tells and the
Control that training obeys. `ThreadLaunch` calls it in a thread of this process, `ftkit.runs.process` in a
process of its own.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from ftkit import threads
from ftkit.errors import FtkitError
from ftkit.runs import turns
from ftkit.runs.folder import ENDED, RunFolder
from ftkit.runs.wishes import Wish

if TYPE_CHECKING:
    from ftkit.models.load import LoadedModel

POLL = 0.05
"""Seconds between two looks at what was asked for, while a run waits."""
MARGIN = 5.0
"""Seconds kept free before a time limit, beside what saving takes."""

SAMPLE_TOKENS = 96
"""Longest answer to a sample prompt, in tokens."""

_NO_MEMORY = ("out of memory", "not enough memory", "can't allocate memory", "could not create a primitive")
"""How CUDA, torch's allocators and oneDNN say that there is none left."""


class Launch(Protocol):
    """A run that was begun from this process, wherever it is carried out.

    Attributes
    ----------
    loaded
        The live model where it is in this process.
    """

    loaded: LoadedModel | None

    @property
    def error(self) -> BaseException | None:
        """What ended it, where that is known here."""

    def __init__(self, folder: RunFolder, *, resume: bool = False) -> None: ...

    def begin(self, keep: object = None) -> None:
        """Begin and return at once; `keep` is held until the end."""

    @property
    def alive(self) -> bool:
        """Whether it is still under way."""

    def wish(self, wish: Wish) -> None:
        """Ask for something, from any thread; returns at once."""


@dataclass(frozen=True)
class End:
    """How a run ended, as its last state says: see `ftkit.runs.events`."""

    state: str
    detail: str | None = None
    error: dict[str, str] | None = None


class Carrying:
    """One carrying-out of a run, from its turn to its end. The folder tells the rest.

    Parameters
    ----------
    resume
        Go on from the newest sound checkpoint.
    wishes_from
        Where in the file of wishes this carrying-out begins; None: at its end now.
    """

    def __init__(self, folder: RunFolder, *, resume: bool = False, wishes_from: int | None = None) -> None:
        self.folder = folder
        self.resume = resume
        self.loaded: LoadedModel | None = None
        self.error: BaseException | None = None
        self._wishes = folder.wishes(wishes_from)
        self._wish: str = "run"
        self._asked: list[Wish] = []
        self._why_stopped: str | None = None
        self._paused = False
        self._deadline: float | None = None
        self._saying = threading.RLock()
        self._ended = False

    # Sink

    def emit(self, kind: str, **fields: Any) -> None:
        """Append an event to the run's log."""
        if kind == "environment":
            self.folder.write_json("environment.json", fields["facts"])
        self.folder.log.append(kind, **fields)

    def say(self, state: str, detail: str | None = None, error: dict[str, str] | None = None) -> None:
        """Append a state; nothing comes after an end."""
        with self._saying:
            if not self._ended:
                self._ended = state in ENDED
                self.emit("state", state=state, detail=detail, error=error)

    # Control

    def wish(self, wish: Wish) -> None:
        """Take in a wish; a stop is not taken back."""
        with self._saying:
            if wish.name not in ("pause", "run", "stop"):
                self._asked.append(wish)
            elif self._wish != "stop":
                self._wish = wish.name
                if wish.name == "stop":
                    self.say("stopping", "finishing the step, then saving")

    def asked(self) -> list[Wish]:
        """What is to be done once at the end of this step; each wish is given once."""
        self.listen()
        with self._saying:
            given, self._asked = self._asked, []
            return given

    def listen(self) -> None:
        """Take in what was asked through the folder."""
        with self._saying:
            for wish in self._wishes.heard():
                self.wish(wish)

    @property
    def stopping(self) -> bool:
        """Whether Stop was asked for, here or in another process."""
        self.listen()
        return self._wish == "stop"

    def out_of_time(self, needed: float) -> bool:
        """Whether the Recipe's time limit leaves no room for another step and saving."""
        if self._deadline is None or time.time() + needed + MARGIN < self._deadline:
            return False
        if self._why_stopped is None:
            limit = self.folder.recipe().training.time_limit
            self._why_stopped = f"saved before the time limit of {limit:g} minutes; Resume goes on from here"
            self.wish(Wish("stop"))
        return True

    def checkpoint(self) -> None:
        """Wait here while the run is to be paused."""
        while not self.stopping and self._wish == "pause":
            if not self._paused:
                self._paused = True
                self.say("paused")
            if self.out_of_time(0.0):
                break
            time.sleep(POLL)
        if self._paused:
            self._paused = False
            if not self.stopping:
                self.say("running")

    def end(self, why: str) -> None:
        """The run ends early without having failed."""
        self._why_stopped = why

    def sample(self, step: int) -> None:
        """Answer the Recipe's sample prompts with the live model; what fails is said, and no more."""
        from ftkit.chat.engine import Sampling, generate
        from ftkit.data import Message

        recipe = self.folder.recipe()
        why_not = ""
        if not recipe.training.sample_prompts:
            why_not = "There are no sample prompts (training.sample_prompts)."
        elif self.loaded is None:
            why_not = "No samples are made: the model of this run cannot be asked while it trains."
        if why_not or self.loaded is None:
            self.emit("note", level="warning", text=why_not)
            return
        system = [Message("system", recipe.data.system_prompt)] if recipe.data.system_prompt else []
        for prompt in recipe.training.sample_prompts:
            try:
                pieces = generate(
                    self.loaded,
                    [*system, Message("user", prompt)],
                    sampling=Sampling(temperature=0.0, max_new_tokens=SAMPLE_TOKENS),
                )
                reply = "".join(piece.text for piece in pieces)
            except Exception as error:  # noqa: BLE001  a look at the model must not end its training
                self.emit("note", level="warning", text=f"A sample could not be made: {error}")
                return
            self.emit("sample", step=step, prompt=prompt, reply=reply)

    # The work

    def carry_out(self) -> None:
        """Wait for the turn, train, and leave the run's end in its folder, whatever it is. Raises nothing."""
        end = self.to_the_end(self._in_turn)
        try:
            self.say(end.state, end.detail, end.error)
        except OSError as error:  # a full disk may be what failed: wait() still raises the error
            self.error = self.error or error

    def to_the_end(self, work: Callable[[], End | None]) -> End:
        """Do `work`; its end, or what there is to say of it, whatever it is. Raises nothing."""
        from ftkit.train.protocol import Stopped

        try:
            end = work()
            if end is not None:
                return end
            stopped = (self.stopping or self._why_stopped) and not self._complete()
            return End("stopped", self._why_stopped) if stopped else End("finished")
        except Stopped:
            return End("stopped", "before the first step")
        except BaseException as error:  # noqa: BLE001  nothing may end in silence: the run's state says why
            return self._failed(error)

    def _in_turn(self) -> End | None:
        from ftkit.train.protocol import Stopped

        with self.folder.carried_out(), turns.turn(self._wait) as came:
            if not came or self.stopping:
                raise Stopped
            return self.train()

    def _wait(self, ahead: int) -> bool:
        runs = "another run" if ahead == 1 else f"{ahead} other runs"
        self.emit("stage", text=f"Waiting for {runs} on this machine", fraction=None)
        time.sleep(4 * POLL)
        return not self.stopping

    def train(self) -> End | None:
        """Train; the end where more is to be said of it than whether Stop came."""
        from ftkit.train.fit import fit
        from ftkit.train.job import Job

        self._start_clock()
        self.say("running")
        job = Job(self.folder.recipe(), self.folder.path, sink=self, control=self)
        fit(job, self._publish, resume=self.resume)
        return None

    def _start_clock(self) -> None:
        limit = self.folder.recipe().training.time_limit
        if limit is not None:
            self._deadline = time.time() + 60 * limit

    def _publish(self, loaded: LoadedModel) -> None:
        self.loaded = loaded

    def _complete(self) -> bool:
        """Whether the last step had been taken when Stop came."""
        summary = self.folder.log.summary()
        return 0 < summary.total_steps <= summary.step

    def _failed(self, error: BaseException) -> End:
        self.error = error
        message, advice = explain(error)
        if _is_no_memory(error):
            advice = self._memory_advice() or advice
        trace = "".join(traceback.format_exception(error))
        traceback.clear_frames(error.__traceback__)  # or the error keeps the batch that did not fit
        return End("failed", None, {"message": message, "advice": advice, "traceback": trace})

    def _memory_advice(self) -> str:
        """What would help this very run, and how much each; empty where it cannot be told."""
        from ftkit.models.fitting import advice

        with contextlib.suppress(Exception):  # whatever fails here, the error itself is what counts
            longest = self.folder.log.summary().plan.get("longest") or {}
            found = advice(self.folder.recipe(), row_tokens=longest.get("tokens"))
            if found and longest:
                return f"The longest row, row {longest['row']}, has {longest['tokens']:,} tokens. {found}"
            return found
        return ""


def keep_listening(carrying: Carrying) -> None:
    """Hear wishes from a thread, so that a Stop is said at once though the step goes on."""

    def listen() -> None:
        while True:
            carrying.listen()
            time.sleep(4 * POLL)

    threading.Thread(target=listen, name="ftkit-listen", daemon=True).start()


def stop_on(carrying: Carrying, *signals: int) -> None:
    """Take these signals as Stop; called in the main thread."""

    def asked(*_: Any) -> None:
        # not from inside the handler: it may have interrupted whoever holds the log's lock
        threading.Thread(target=carrying.wish, args=(Wish("stop"),)).start()

    for number in signals:
        signal.signal(number, asked)


class ThreadLaunch:
    """A run carried out in a thread of this process: its model can be talked to between steps."""

    def __init__(self, folder: RunFolder, *, resume: bool = False) -> None:
        self.folder = folder
        self.carrying = Carrying(folder, resume=resume)
        self._thread: threading.Thread | None = None

    @property
    def loaded(self) -> LoadedModel | None:
        """The live model, from the first step on."""
        return self.carrying.loaded

    @loaded.setter
    def loaded(self, loaded: LoadedModel | None) -> None:
        self.carrying.loaded = loaded

    @property
    def error(self) -> BaseException | None:
        """What the thread ended with."""
        return self.carrying.error

    def begin(self, keep: object = None) -> None:
        """Queue up and return."""
        self.folder.claim(os.getpid(), "thread")
        self.carrying.say("queued")
        self._thread = threads.begin(self._to_its_end, keep, name=f"ftkit-{self.folder.path.name}")

    @property
    def alive(self) -> bool:
        """Whether the thread still has something to do."""
        return self._thread is not None and self._thread.is_alive()

    def wish(self, wish: Wish) -> None:
        """Take it in at once; the thread acts on it between steps."""
        self.carrying.wish(wish)

    def _to_its_end(self, _keep: object) -> None:
        self.carrying.carry_out()


def _is_no_memory(error: BaseException) -> bool:
    said = str(error).lower()
    return isinstance(error, MemoryError) or any(words in said for words in _NO_MEMORY)


def explain(error: BaseException) -> tuple[str, str]:
    """What to tell a person about `error`: a message and advice."""
    if isinstance(error, FtkitError):
        return error.message, error.advice
    text = f"{type(error).__name__}: {error}"
    if _is_no_memory(error):
        return (
            f"There was not enough memory ({text.splitlines()[0]:.200}).",
            "In order of effect: halve training.batch_size and double training.gradient_accumulation_steps, "
            "lower data.max_length, set compute.gradient_checkpointing to layers, lower method.rank, "
            "or take a smaller model.",
        )
    if isinstance(error, OSError) and error.errno == 28:
        return (
            f"The disk is full ({text}).",
            "Free some space, then resume the run: its checkpoints are kept.",
        )
    return (
        text,
        "The traceback below says where it happened. The run folder keeps all that was saved until then.",
    )
