"""`ftkit chat`: talk to the model of a run, in the terminal."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from ftkit.cli.console import err, out, printable, show_error
from ftkit.errors import FtkitError

if TYPE_CHECKING:
    from ftkit.chat import ChatSession
    from ftkit.runs import Run

HELP = """\
/mode adapter|base|both   who answers: the trained model, the model as it was, or one after the other
/system TEXT              set the system prompt (nothing after it: none) and start again
/clear                    forget the conversation
/help                     this list
/quit                     leave (Ctrl-D as well); Ctrl-C ends a reply"""


def chat(
    name: str, *, folder: Path, mode: str, system_prompt: str | None, sampling: Mapping[str, Any]
) -> int:
    """Load the model of a run (its folder, or its name in `folder`) and answer until the input ends.

    Raises
    ------
    FtkitError
        When there is no such run, or its model cannot be loaded.
    """
    from ftkit.chat import ChatSession, Sampling

    run = find_run(name, folder)
    chosen = Sampling(**sampling)
    session = ChatSession(run, system_prompt=system_prompt, sampling=chosen)
    with err.status("Loading the model") as status:
        session.load(lambda text, _fraction: status.update(escape(printable(text))))
    reason = session.why_not(mode)
    if reason:
        raise FtkitError(reason, f"Give --mode {' or '.join(session.modes)}.")
    if sys.stdin.isatty():
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401  (line editing and history for input(); absent on Windows)
        out.print(
            f"[bold]{escape(printable(run.path.name))}[/] answers. /help lists the commands, Ctrl-D leaves."
        )
    _Terminal(session, mode).talk()
    return 0


def find_run(name: str, folder: Path) -> Run:
    """The run whose folder is `name`, or that has this name in `folder`."""
    from ftkit.runs import attach, list_runs

    for path in (Path(name), folder / name):
        if (path / "recipe.yaml").exists():
            return attach(path)
    known = [run.path.name for run in list_runs(folder)]
    advice = f"Runs in {folder}: {', '.join(known)}." if known else f"There are no runs in {folder} yet."
    raise FtkitError(f"There is no run {name!r}.", advice)


class _Terminal:
    """Reads lines, answers them, and knows whose words the cursor stands in."""

    def __init__(self, session: ChatSession, mode: str) -> None:
        self._session = session
        self._mode = mode
        self._speaker: str | None = None

    def talk(self) -> None:
        while True:
            try:
                line = input("you> " if sys.stdin.isatty() else "").strip()
            except EOFError:
                break
            if line in {"/quit", "/exit"}:
                break
            if line.startswith("/"):
                self._command(*line[1:].split(maxsplit=1))
            elif line:
                self._answer(line)

    def _answer(self, text: str) -> None:
        self._speaker = None
        try:
            with self._ctrl_c_ends_the_reply():
                # `both` side by side has no place in a terminal: one after the other.
                for which in ("base", "adapter") if self._mode == "both" else (self._mode,):
                    if self._session.send(text, mode=which, on_piece=self._show)[which].stopped:
                        break
        except FtkitError as error:
            show_error(error)
        print(flush=True)

    def _show(self, which: str, piece: str) -> None:
        if which != self._speaker:
            print(end="" if self._speaker is None else "\n")
            out.print(f"[bold cyan]{which}>[/] ", end="")
            self._speaker = which
        print(printable(piece), end="", flush=True)

    @contextlib.contextmanager
    def _ctrl_c_ends_the_reply(self) -> Iterator[None]:
        previous = signal.signal(signal.SIGINT, lambda *_: self._session.stop())
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, previous)

    def _command(self, name: str = "", argument: str = "") -> None:
        if name == "clear":
            self._session.clear()
            out.print("Cleared.")
        elif name == "mode" and argument in self._session.modes:
            self._mode = argument
            out.print(f"Now answering: {argument}.")
        elif name == "mode":
            out.print(f"There is: {', '.join(self._session.modes)}.")
        elif name == "system":
            self._session.system_prompt = argument
            out.print(
                "System prompt set; the conversation starts again." if argument else "No system prompt now."
            )
        else:
            out.print(HELP, markup=False)
