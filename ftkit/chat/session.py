"""A conversation with a run's model, its base model, or both side by side. Knows nothing of widgets."""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast

from ftkit.chat.engine import Finish, Sampling, generate
from ftkit.chat.hints import Hints, hints
from ftkit.chat.inference import Which
from ftkit.errors import FtkitError, ModelError

if TYPE_CHECKING:
    from ftkit.data import Message
    from ftkit.models import LoadedModel
    from ftkit.runs import Run

Mode = Literal["adapter", "base", "both"]
OnPiece = Callable[[str, str], Any]
Progress = Callable[[str, "float | None"], Any]

_SIDES: dict[str, tuple[Which, ...]] = {
    "base": ("base",),
    "adapter": ("adapter",),
    "both": ("base", "adapter"),
}


@dataclass(frozen=True)
class Reply:
    """What a model answered."""

    text: str
    tokens: int
    seconds: float
    """From the first token asked for to the last one, waiting for training steps included."""
    finish: Finish
    """`end`: the model ended its reply; `length`: it was cut off; `stopped`: by a person."""
    checkpoint: int | None = None
    """Step of the checkpoint that answered; None: the live model, the result, or the base model."""

    @property
    def stopped(self) -> bool:
        """Whether a person stopped it."""
        return self.finish == "stopped"

    @property
    def tokens_per_second(self) -> float:
        """Speed of the reply."""
        return self.tokens / self.seconds if self.seconds > 0 else 0.0


class ChatSession:
    """Talk to a model. `base` and `adapter` each keep a history of their own, under one template.

    Methods block until the reply is there; `stop()` may be called from any other thread.

    Parameters
    ----------
    run_or_loaded
        A `Run` or a `LoadedModel`. A run's model is loaded at the first message. While it trains in this
        process the live weights answer, while it does elsewhere its newest checkpoint.
    system_prompt
        First message of every conversation. None: the one that the run's own rows have. Empty: none.
    sampling
        How tokens are chosen; may be set at any time.

    Examples
    --------
    >>> session = ChatSession(run)                                                    # doctest: +SKIP
    >>> session.send("Anna from Lisbon needs four lamps.", mode="both")               # doctest: +SKIP
    """

    def __init__(
        self,
        run_or_loaded: Run | LoadedModel,
        system_prompt: str | None = None,
        sampling: Sampling | None = None,
    ) -> None:
        self.sampling = sampling or Sampling()
        self._run: Run | None = None
        self._loaded: LoadedModel | None = None
        if hasattr(run_or_loaded, "gate"):
            self._loaded = cast("LoadedModel", run_or_loaded)
        else:
            self._run = run_or_loaded
        self._recipe = self._run.recipe if self._run is not None else None
        self._system_prompt = system_prompt
        self._histories: dict[Which, list[Message]] = {"base": [], "adapter": []}
        self._last: tuple[str, Mode] | None = None
        self._busy = threading.Lock()
        self._cancelled = threading.Event()

    def __repr__(self) -> str:
        subject = self._run.name if self._run is not None else "model"
        return f"ChatSession({subject!r}, messages={sum(map(len, self._histories.values()))})"

    @property
    def modes(self) -> list[str]:
        """Who can be talked to: `adapter`, `base`, `both`."""
        return [mode for mode in _SIDES if not self.why_not(mode)]

    def why_not(self, mode: str) -> str:
        """Why `mode` cannot be had, in a sentence; empty when it can."""
        if mode not in _SIDES:
            return f"There is no mode {mode!r}: choose adapter, base or both."
        if mode == "adapter":
            return ""
        if self._recipe is not None:
            saves: str | None = self._recipe.method.saves
        elif self._loaded is None or self._loaded.method == "none":
            saves = None
        else:
            saves = "adapter" if self._loaded.adapted else "model"
        if saves == "model":
            return "The model's own weights were trained, so the base model is no longer in memory."
        return "" if saves else "This model has no adapter to switch off: it answers as it is."

    @property
    def replying(self) -> bool:
        """Whether a reply is under way."""
        return self._busy.locked()

    @property
    def system_prompt(self) -> str:
        """First message of every conversation. Setting another one starts anew."""
        if self._system_prompt is None:
            self._system_prompt = self._hints.system_prompt
        return self._system_prompt

    @system_prompt.setter
    def system_prompt(self, text: str | None) -> None:
        if text != self._system_prompt:
            self.clear()
            self._system_prompt = text

    @property
    def suggestions(self) -> tuple[str, ...]:
        """A few messages to try, from the run's held-out rows."""
        return self._hints.prompts

    @functools.cached_property
    def _hints(self) -> Hints:
        return Hints() if self._recipe is None else hints(self._recipe)

    def load(self, progress: Progress | None = None) -> LoadedModel:
        """The model: the live one where it trains here, else what is saved, loaded anew when there is newer.

        Parameters
        ----------
        progress
            Called with a text and a fraction (None where unknown) while it loads.
        """
        if self._loaded is not None:
            return self._loaded
        run = self._run
        assert run is not None
        # A run that has not begun to train will have its model in a moment. (One that trains in another
        # process never will have it here: its newest checkpoint is opened.)
        while run.loaded is None and run.active and not run.progress.step and not self._cancelled.is_set():
            if progress is not None:
                progress(f"The run is {run.status}: {run.progress.stage or 'waiting for its turn'}", None)
            self._cancelled.wait(0.2)
        if run.loaded is None and run.active and not run.progress.step:
            raise FtkitError("The run has no model yet.", "Ask again once it trains.")
        return run.open_model(progress)

    def send(
        self,
        text: str,
        mode: str = "adapter",
        on_piece: OnPiece | None = None,
        progress: Progress | None = None,
    ) -> dict[str, Reply]:
        """Say something and wait for the reply, or the two replies in mode `both`.

        Parameters
        ----------
        mode
            `adapter` (the model as trained), `base`, or `both`: side by side, token by token in turn.
        on_piece
            Called with `base` or `adapter` and the text that was added.
        progress
            As for `load`.

        Raises
        ------
        FtkitError
            When the message is empty, a reply is under way, or the conversation does not fit the context.
        ModelError
            When `mode` cannot be had. The histories are then as they were.
        """
        if not text.strip():
            raise FtkitError("There is nothing to send.", "Write a message first.")
        reason = self.why_not(mode)
        if reason:
            raise ModelError(reason, f"Choose {' or '.join(self.modes)}.")
        if not self._busy.acquire(blocking=False):
            raise FtkitError("A reply is still under way.", "Wait for it, or stop it first.")
        try:
            self._cancelled.clear()
            return self._reply(text, cast("Mode", mode), on_piece or _ignore, progress)
        finally:
            self._busy.release()

    def regenerate(
        self, on_piece: OnPiece | None = None, progress: Progress | None = None
    ) -> dict[str, Reply]:
        """Take the last reply back and ask again, in the same mode."""
        if self._last is None:
            raise FtkitError("There is no reply to make again.", "Send a message first.")
        if self.replying:
            raise FtkitError("A reply is still under way.", "Wait for it, or stop it first.")
        text, mode = self._last
        kept = {which: list(history) for which, history in self._histories.items()}
        for which in _SIDES[mode]:
            del self._histories[which][-2:]
        try:
            return self.send(text, mode, on_piece, progress)
        except BaseException:
            self._histories = kept
            self._last = (text, mode)
            raise

    def stop(self) -> None:
        """End the reply under way before its next token. Returns at once."""
        self._cancelled.set()

    def clear(self) -> None:
        """Stop and forget both histories."""
        self.stop()
        with self._busy:
            self._histories = {"base": [], "adapter": []}
            self._last = None

    def messages(self, which: str = "adapter") -> list[Message]:
        """The conversation with `base` or `adapter` so far, without the system prompt."""
        return list(self._histories[cast("Which", which)])

    def export(self) -> list[dict[str, Any]]:
        """Both conversations in the `messages` format that ftkit trains on, each with a `which` column."""
        return [
            {
                "which": which,
                "messages": [{"role": m.role, "content": m.content} for m in [*self._system(), *history]],
            }
            for which, history in self._histories.items()
            if history
        ]

    def _system(self) -> list[Message]:
        from ftkit.data import Message

        return [Message("system", self.system_prompt)] if self.system_prompt.strip() else []

    def _reply(self, text: str, mode: Mode, on_piece: OnPiece, progress: Progress | None) -> dict[str, Reply]:
        from ftkit.data import Message, Template

        loaded = self.load(progress)
        step = self._run.loaded_step if self._run is not None else None
        template = Template(loaded.tokenizer)
        user = Message("user", text)
        sides = [
            _Side(
                which,
                generate(
                    loaded,
                    [*self._system(), *self._histories[which], user],
                    which=which,
                    sampling=self.sampling,
                    template=template,
                    cancelled=self._cancelled,
                ),
            )
            for which in _SIDES[mode]
        ]
        while any(side.finish is None for side in sides):
            for side in sides:
                piece = side.advance()
                if piece:
                    on_piece(side.which, piece)
        for side in sides:
            self._histories[side.which] += [user, Message("assistant", side.text)]
        self._last = (text, mode)
        return {side.which: side.reply(step) for side in sides}


class _Side:
    """One reply in the making, and how long its own turns took."""

    def __init__(self, which: Which, pieces: Iterator[Any]) -> None:
        self.which = which
        self.text = ""
        self.tokens = 0
        self.seconds = 0.0
        self.finish: Finish | None = None
        self._pieces = pieces

    def advance(self) -> str:
        """The next piece of text, if there is more to come."""
        if self.finish is not None:
            return ""
        started = time.monotonic()
        piece = next(self._pieces)
        self.seconds += time.monotonic() - started
        self.text += piece.text
        self.tokens, self.finish = piece.tokens, piece.finish
        return str(piece.text)

    def reply(self, checkpoint: int | None) -> Reply:
        """What was said, by a model that was read from the checkpoint of this step."""
        of_adapter = checkpoint if self.which == "adapter" else None
        return Reply(self.text, self.tokens, self.seconds, self.finish or "end", of_adapter)


def _ignore(which: str, piece: str) -> None:
    """Nobody listens."""
