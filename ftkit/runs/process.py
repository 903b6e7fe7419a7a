"""A run in a process of its own: the kernel stays light, and may restart or die without ending the run.

The process runs `python -m ftkit.runs.worker FOLDER` in a session of its own, so that neither a kernel's end
nor Ctrl-C reaches it. All it is told comes through the run folder, all it tells goes there; what libraries
print goes to `process.log`.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from ftkit.runs.folder import ENDED, Owner, RunFolder
from ftkit.runs.wishes import Wish

if TYPE_CHECKING:
    from ftkit.models.load import LoadedModel

LOG = "process.log"
POLITE = 60.0
"""Seconds, beside several times the longest step, that a process has after Stop to save and end by itself."""
TERMINATE = 10.0
"""Seconds between asking its process tree to end and ending it."""


class ProcessLaunch:
    """A run carried out by a child process."""

    loaded: LoadedModel | None = None
    error: BaseException | None = None

    def __init__(self, folder: RunFolder, *, resume: bool = False) -> None:
        self.folder = folder
        self.resume = resume
        self._process: subprocess.Popen[bytes] | None = None

    def begin(self, keep: object = None) -> None:
        """Start the process and return."""
        self.folder.log.append("state", state="queued", detail=None, error=None)
        command = [sys.executable, "-P", "-m", "ftkit.runs.worker", str(self.folder.path)]
        command += ["--wishes-from", str(self.folder.wishes().position)]
        if self.resume:
            command.append("--resume")
        with (self.folder.path / LOG).open("ab") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment(), **_apart()
            )
        self.folder.claim(self._process.pid, self.folder.recipe().compute.launch)
        name = "ftkit-process"
        threading.Thread(target=self._until_its_end, args=(keep,), name=name, daemon=True).start()

    @property
    def alive(self) -> bool:
        """Whether the process lives."""
        return self._process is not None and self._process.poll() is None

    def wish(self, wish: Wish) -> None:
        """Leave it in the folder."""
        self.folder.wishes().ask(wish)

    def _until_its_end(self, _keep: object) -> None:
        """Wait for the process; where it ended without a word, say how."""
        assert self._process is not None
        code = self._process.wait()
        if code and last_state(self.folder) not in ENDED:
            self.folder.log.append("note", level="error", text=_how_it_ended(code, self.folder.path / LOG))


def environment() -> dict[str, str]:
    """This process's, with modules found where it finds them."""
    paths = [path or os.getcwd() for path in sys.path]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def _apart() -> dict[str, Any]:
    if sys.platform == "win32":
        return {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.CREATE_NO_WINDOW}
    return {"start_new_session": True}


def last_state(folder: RunFolder) -> str:
    """The newest state in a run's log."""
    return folder.log.summary().state


def signal_name(number: int) -> str:
    """A signal's name, such as SIGKILL; its number where it has none here."""
    return {int(one): one.name for one in signal.Signals}.get(number, str(number))


def _how_it_ended(code: int, log: Path) -> str:
    if code < 0:
        name = signal_name(-code)
        memory = " Often that is the system, out of memory." if -code == 9 else ""
        how = f"The process of the run was ended from outside ({name}).{memory}"
        return f"{how} Resume goes on from its last checkpoint."
    with contextlib.suppress(OSError):
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return f"The process of the run ended with status {code}: {lines[-1]:.300}" if lines else ""
    return f"The process of the run ended with status {code}."


def see_to_its_end(folder: RunFolder, longest_step: float) -> None:
    """Start to watch that a run that was asked to stop does end, with every process that it started.

    Politely first: it saves and ends by itself within a minute and a few steps. Then its process tree is
    asked to end (SIGTERM), and ten seconds later it is ended (SIGKILL); the folder says so.
    """
    owner = folder.owner()
    if owner is not None and owner.launch != "thread" and owner.process() is not None:
        arguments = (folder, owner, POLITE + 5 * longest_step)
        threading.Thread(target=_escalate, args=arguments, name="ftkit-stop", daemon=True).start()


def _escalate(folder: RunFolder, owner: Owner, patience: float) -> None:
    process = owner.process()
    if process is None:
        return
    with contextlib.suppress(psutil.TimeoutExpired):
        process.wait(patience)
        return
    end_tree(process, TERMINATE)
    if last_state(folder) not in ENDED:
        detail = (
            f"its process did not end within {patience:.0f} s and was ended; Resume starts at its checkpoint"
        )
        folder.log.append("state", state="stopped", detail=detail, error=None)


def end_tree(process: psutil.Process, patience: float) -> None:
    """End a process and all that it started: SIGTERM, then SIGKILL for what is left after `patience` s."""
    tree = [process]
    with contextlib.suppress(psutil.Error):
        tree += process.children(recursive=True)
    for one in tree:
        with contextlib.suppress(psutil.Error):
            one.terminate()
    _, left = psutil.wait_procs(tree, timeout=patience)
    for one in left:
        with contextlib.suppress(psutil.Error):
            one.kill()
    psutil.wait_procs(left, timeout=5)
