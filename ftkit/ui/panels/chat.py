"""The Chat panel: talk to a run's model, its base model, or both side by side, while it trains or after."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

import ipywidgets as widgets

from ftkit import threads
from ftkit.chat import ChatSession, Reply, Sampling
from ftkit.errors import FtkitError
from ftkit.redact import redact
from ftkit.ui.markup import heading
from ftkit.ui.panels.base import Panel
from ftkit.ui.ticker import SECONDS_BETWEEN_LOOKS, Ticker, Worker
from ftkit.ui.transcript import Transcript

if TYPE_CHECKING:
    from ftkit.runs import Run
    from ftkit.ui.workspace import Workspace

RUNS_SHOWN = 6

_SETTINGS = {"temperature": float, "top_p": float, "max_new_tokens": int, "seed": int}
_SUBTITLE = "Talk to the model before and after, also while it trains."


class ChatPanel(Panel):
    """Talk to a model. Everything a person can click is a method, too.

    Parameters
    ----------
    workspace
        Its run is followed: a new run, a new conversation.
    run
        Talk to this run and follow no other.
    session
        Talk in this session and follow no run.

    Examples
    --------
    >>> panel = ftkit.ui.ChatPanel(run=run)                                            # doctest: +SKIP
    >>> panel.ask("Anna from Lisbon needs four lamps by Monday.")                      # doctest: +SKIP
    """

    def __init__(
        self,
        workspace: Workspace | None = None,
        run: Run | None = None,
        session: ChatSession | None = None,
    ) -> None:
        super().__init__(workspace)
        self._session: ChatSession | None = None
        self._run: Run | None = None
        self._job: _Job | None = None
        self._next_id = 0
        self._lock = threading.RLock()
        self._sampling = Sampling()
        self._ticker: Ticker | None = None
        self._hints: Worker[tuple[str, tuple[str, ...]]] = Worker(self._show_hints, _ignore)
        self._listing: Worker[list[dict[str, str]]] = Worker(self._show_runs, _ignore)
        self.view = Transcript(self._act)
        self.fill([widgets.HTML(heading("Chat", _SUBTITLE)), self.view])
        self._show_settings("")
        self._follows = run is None and session is None
        if session is not None:
            self._talk_in(session)
        elif run is not None:
            self._talk_to(run)
        else:
            self._talk_to(self.workspace.run)
            self.workspace.observe(self._on_run, "run")

    def __repr__(self) -> str:
        return f"ChatPanel({self.view.subject!r}, turns={len(self.view.turns)})"

    @property
    def session(self) -> ChatSession | None:
        """The conversation: its histories and its export. None before there is a run."""
        return self._session

    @property
    def replying(self) -> bool:
        """Whether a reply is under way."""
        return self._job is not None

    @property
    def mode(self) -> str:
        """Who answers: `adapter`, `base` or `both`."""
        return str(self.view.mode)

    @mode.setter
    def mode(self, mode: str) -> None:
        reason = self._some_session().why_not(mode)
        if reason:
            raise FtkitError(reason, "Choose another mode.")
        self.view.mode = mode

    def send(self, text: str, mode: str | None = None) -> None:
        """Say something and return at once; the reply appears in the panel.

        Raises
        ------
        FtkitError
            When there is nothing to send, nobody to send it to, or a reply is under way.
        """
        self._say(text, mode)

    def ask(self, text: str, mode: str | None = None) -> str | dict[str, str]:
        """Say something and wait for the reply; interrupting the cell stops it.

        Returns
        -------
        str or dict
            The reply; in mode `both` the two replies by `base` and `adapter`.
        """
        job = self._say(text, mode)
        try:
            replies: dict[str, Reply] = job.outcome.result()
        except KeyboardInterrupt:
            job.session.stop()
            raise
        texts = {which: reply.text for which, reply in replies.items()}
        return texts if len(texts) > 1 else next(iter(texts.values()))

    def stop(self) -> None:
        """End the reply under way before its next token."""
        job = self._job
        if job is not None:
            job.session.stop()

    def regenerate(self) -> None:
        """Take the last reply back and ask again; returns at once."""
        with self._lock:
            session = self._idle_session()
            last = next((turn for turn in reversed(self.view.turns) if "user" in turn), None)
            if last is None or last is not self.view.turns[-1]:
                raise FtkitError("There is no reply to make again.", "Send a message first.")
            before = self.view.turns[:-1]
            job = self._job_for(session, last["user"], last["mode"])
            call: Callable[..., dict[str, Reply]]
            if last["error"] is not None:  # it never became part of the conversation
                call = functools.partial(session.send, job.text, job.mode)
            else:
                call = session.regenerate
            self._begin(job, functools.partial(call, on_piece=job.add, progress=self._show_progress), before)

    def clear(self) -> None:
        """Forget the conversation; a reply under way is stopped first."""
        with self._lock:
            if self._job is not None:
                self._job.clear = True
                self._job.session.stop()
            elif self._session is not None:
                self._session.clear()
                self.view.turns = []

    def set(self, **settings: Any) -> None:
        """Change settings: `system_prompt`, `temperature`, `top_p`, `max_new_tokens`, `seed`.

        Another system prompt starts a new conversation.

        Raises
        ------
        FtkitError
            When a value is out of range; nothing is changed then.
        """
        unknown = [name for name in settings if name != "system_prompt" and name not in _SETTINGS]
        if unknown:
            msg = f"There is no setting {unknown[0]!r}."
            raise FtkitError(msg, f"Settings: system_prompt, {', '.join(_SETTINGS)}.")
        numbers = {name: _number(name, settings[name]) for name in _SETTINGS if name in settings}
        current = {name: getattr(self._sampling, name) for name in _SETTINGS}
        sampling = Sampling(**(current | numbers))
        with self._lock:
            prompt = str(settings.get("system_prompt", self.view.settings["system_prompt"]))
            if prompt != self.view.settings["system_prompt"]:
                self._start_anew(prompt)
            self._sampling = sampling
            if self._session is not None:
                self._session.sampling = sampling
            self._show_settings(prompt)

    def shown(self) -> None:
        """Look again for runs to open."""
        if self._session is None:
            folder = self.workspace.recipe.output.folder
            self._listing.submit(lambda: _runs_in(folder))

    def close(self) -> None:
        """Stop what goes on, then take the widget off the page."""
        self.stop()
        if self._ticker is not None:
            self._ticker.stop()
        if self._follows:
            self.workspace.unobserve(self._on_run, "run")
        self.view.close()
        super().close()

    # Whom to talk to

    def _on_run(self, change: Any) -> None:
        self._talk_to(change["new"])

    def _talk_to(self, run: Run | None) -> None:
        if self._ticker is not None:
            self._ticker.stop()
        self._run = run
        if run is None:
            self.shown()
            return
        try:
            session = ChatSession(run, sampling=self._sampling)
        except FtkitError as error:
            self.view.status = str(error)
            return
        self._talk_in(session, run.name)
        self._ticker = Ticker(self._follow, hz=1, idle=SECONDS_BETWEEN_LOOKS)
        self._ticker.start()

    def _talk_in(self, session: ChatSession, name: str = "model") -> None:
        with self._lock:
            self.stop()
            self._job = None
            self._session = session
            view = self.view
            view.live = {}
            view.replying = False
            view.status = ""
            if view.turns:
                view.turns = [*view.turns, self._note(f"Now talking to {name}")]
            view.modes = {mode: session.why_not(mode) for mode in ("base", "adapter", "both")}
            if view.modes[view.mode]:
                view.mode = session.modes[0]
            view.subject = name
        self._hints.submit(lambda: (session.system_prompt, session.suggestions))

    def _follow(self) -> bool:
        """Once a second: what the run does meanwhile."""
        run = self._run
        if run is None:
            return False
        status, step = run.status, run.progress.step
        doing = {"running": "training", "paused": "paused", "stopping": "stopping"}.get(status)
        self.view.note = f"{doing}, step {step}" if doing and step else ""
        if not run.active and not step:
            self.view.note = f"{status} before the first step: nothing was learned"
        return run.active

    def _show_hints(self, found: tuple[str, tuple[str, ...]]) -> None:
        prompt, suggestions = found
        self.view.suggestions = list(suggestions)
        self._show_settings(prompt)

    def _show_runs(self, found: list[dict[str, str]]) -> None:
        self.view.runs = found

    # What is asked for

    def _act(self, action: str, content: Mapping[str, Any]) -> None:
        """What a person asked for on the page."""
        if action == "send":
            self._say(str(content.get("text", "")), str(content.get("mode", self.mode)))
        elif action == "mode":
            self.mode = str(content.get("mode"))
        elif action == "settings":
            self.set(**dict(content.get("values", {})))
        elif action == "open":
            self._open(str(content.get("path")))
        elif action in ("stop", "clear", "regenerate"):
            getattr(self, action)()
        else:
            raise FtkitError(f"The chat knows no action {action!r}.")

    def _open(self, path: str) -> None:
        from ftkit.runs import attach

        run = attach(path)
        if self._follows:
            self.workspace.run = run
        else:
            self._talk_to(run)

    def _say(self, text: str, mode: str | None) -> _Job:
        with self._lock:
            session = self._idle_session()
            chosen = mode or self.mode
            if not text.strip():
                raise FtkitError("There is nothing to send.", "Write a message first.")
            reason = session.why_not(chosen)
            if reason:
                raise FtkitError(reason, f"Choose {' or '.join(session.modes)}.")
            job = self._job_for(session, text, chosen)
            call = functools.partial(session.send, text, chosen, job.add, self._show_progress)
            self._begin(job, call, self.view.turns)
            return job

    def _some_session(self) -> ChatSession:
        if self._session is None:
            raise FtkitError("There is no model to talk to yet.", "Start a run, or open a finished one.")
        return self._session

    def _idle_session(self) -> ChatSession:
        session = self._some_session()
        if self._job is not None:
            raise FtkitError("A reply is still under way.", "Wait for it, or stop it first.")
        return session

    def _start_anew(self, prompt: str) -> None:
        if self._session is None:
            return
        self._idle_session().system_prompt = prompt
        if self.view.turns:
            self.view.turns = [
                *self.view.turns,
                self._note("New system prompt: the conversation starts anew"),
            ]

    # Replies

    def _job_for(self, session: ChatSession, text: str, mode: str) -> _Job:
        sides = ("base", "adapter") if mode == "both" else (mode,)
        return _Job(session, self._new_id(), text, mode, sides, self._show_live)

    def _begin(self, job: _Job, call: Callable[[], dict[str, Reply]], before: list[dict[str, Any]]) -> None:
        self._job = job
        self.view.turns = list(before)
        self.view.replying = True
        self.view.live = job.turn()
        threads.begin(self._work, job, call, name="ftkit-chat")

    def _work(self, job: _Job, call: Callable[[], dict[str, Reply]]) -> None:
        replies: dict[str, Reply] = {}
        problem: Exception | None = None
        try:
            replies = call()
        except Exception as error:  # noqa: BLE001  a thread has no caller: the panel and ask() get it
            problem = error
        try:
            with self._lock:
                if self._job is job:
                    self._show_end(job, replies, problem)
        finally:
            if problem is not None:
                job.outcome.set_exception(problem)
            else:
                job.outcome.set_result(replies)

    def _show_live(self, job: _Job) -> None:
        with self._lock:
            if self._job is job and self.view.stream(job.turn):
                self.view.status = ""

    def _show_progress(self, text: str, fraction: float | None) -> None:
        self.view.fraction = -1.0 if fraction is None else float(fraction)
        self.view.status = text

    def _show_end(self, job: _Job, replies: dict[str, Reply], problem: Exception | None) -> None:
        """The finished turn first, then no live one: the page never shows a gap between them."""
        view = self.view
        if job.clear:
            job.session.clear()
            view.turns = []
        else:
            view.turns = [*view.turns, job.turn(replies, problem)]
        view.live = {}
        view.status = ""
        view.replying = False
        self._job = None

    def _show_settings(self, prompt: str) -> None:
        numbers = {name: getattr(self._sampling, name) for name in _SETTINGS}
        shown = {name: "" if value is None else f"{value:g}" for name, value in numbers.items()}
        shown["seed"] = "" if self._sampling.seed is None else str(self._sampling.seed)
        self.view.settings = {"system_prompt": prompt, **shown}

    def _note(self, text: str) -> dict[str, Any]:
        return {"id": self._new_id(), "note": text}

    def _new_id(self) -> int:
        self._next_id += 1
        return self._next_id


class _Job:
    """One turn being answered: its pieces as they come."""

    def __init__(
        self,
        session: ChatSession,
        number: int,
        text: str,
        mode: str,
        sides: tuple[str, ...],
        show: Callable[[_Job], None],
    ) -> None:
        self.session = session
        self.number = number
        self.text = text
        self.mode = mode
        self.texts = dict.fromkeys(sides, "")
        self.clear = False
        self.outcome: Future[dict[str, Reply]] = Future()
        self._show = show

    def add(self, which: str, piece: str) -> None:
        """Take a piece of a reply, and show it where the page can take it."""
        self.texts[which] += piece
        self._show(self)

    def turn(
        self, replies: Mapping[str, Reply] | None = None, problem: Exception | None = None
    ) -> dict[str, Any]:
        """The turn as the page shows it."""
        finished = replies or {}
        shown = {
            which: _shown(finished[which]) if which in finished else {"text": text}
            for which, text in self.texts.items()
            if which in finished or problem is None or text
        }
        if problem is not None:
            for reply in shown.values():
                reply |= {"finish": "stopped", "tokens": 0, "tokens_per_second": 0.0}
        return {
            "id": self.number,
            "user": self.text,
            "mode": self.mode,
            "replies": shown,
            "error": None if problem is None else _problem(problem),
        }


def _shown(reply: Reply) -> dict[str, Any]:
    return {
        "text": reply.text,
        "tokens": reply.tokens,
        "tokens_per_second": round(reply.tokens_per_second, 2),
        "finish": reply.finish,
        "checkpoint": reply.checkpoint,
    }


def _problem(error: Exception) -> dict[str, str]:
    if isinstance(error, FtkitError):
        return {"message": error.message, "advice": error.advice}
    said = redact(f"{type(error).__name__}: {error}")
    return {"message": said, "advice": "The conversation is as it was before."}


def _number(name: str, value: Any) -> float | int | None:
    """A setting from a field's text or from Python."""
    if value is None or (isinstance(value, str) and not value.strip()):
        if name == "seed":
            return None
        raise FtkitError(f"{name} is empty.", "Give a number.")
    if not isinstance(value, str):
        return value  # Sampling checks it
    try:
        return _SETTINGS[name](value.replace(",", ".")) if name != "seed" else int(value)
    except ValueError:
        kind = "a whole number" if _SETTINGS[name] is int else "a number"
        raise FtkitError(f"{name}: {value!r} is not {kind}.", "The old value is kept.") from None


def _runs_in(folder: Any) -> list[dict[str, str]]:
    """Runs with something to talk to, newest first, as the page lists them."""
    from ftkit.runs import list_runs

    ended = [run for run in list_runs(folder) if run.status in ("finished", "stopped", "interrupted")]
    return [
        {"path": str(run.path), "name": run.name, "detail": f"{run.status}, step {run.progress.step}"}
        for run in ended[:RUNS_SHOWN]
    ]


def _ignore(_error: Exception) -> None:
    """No rows, no examples; no folder, no runs: nothing that a person asked for is missing."""
