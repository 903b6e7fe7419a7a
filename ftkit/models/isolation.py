"""A process of its own for files that nobody vouches for: no network, no tokens, bounded memory and time.

`python -m ftkit.models.isolation MEGABYTES MODULE ARGUMENT...` closes itself in and then calls `MODULE.main`.
On Linux the kernel takes the network away (a namespace with none in it); where that is not allowed, and on
other systems, Python refuses every connection and every new program.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ftkit.models.cache import Progress
from ftkit.redact import is_secret_name

_NEW_USER, _NEW_NET = 0x10000000, 0x40000000
_SECONDS = 3600
"""Of processor time."""
_BESIDE = 6_000
"""MB that Python and torch may take for themselves."""
_REFUSED = (
    "socket.connect",
    "socket.bind",
    "socket.sendto",
    "socket.sendmsg",
    "socket.getaddrinfo",
    "socket.gethostbyname",
    "subprocess.Popen",
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.spawn",
    "os.startfile",
    "pty.spawn",
)


class IsolatedError(Exception):
    """The process ended with an error; the text is the last line that it wrote."""


def run_apart(module: str, arguments: Sequence[str], progress: Progress, text: str, megabytes: float) -> None:
    """Call `MODULE.main(*arguments)` in a closed-in process; `progress` may raise to end it.

    Parameters
    ----------
    megabytes
        Memory that the work itself may take.

    Raises
    ------
    IsolatedError
        When the process fails.
    """
    package = Path(__file__).resolve().parents[2]
    paths = [str(package), *filter(None, [os.environ.get("PYTHONPATH")])]
    kept = {name: value for name, value in os.environ.items() if not is_secret_name(name)}
    environment = {**kept, "PYTHONPATH": os.pathsep.join(paths), "HF_HUB_OFFLINE": "1"}
    environment["HF_HUB_DISABLE_IMPLICIT_TOKEN"] = "1"
    command = [sys.executable, "-P", "-m", "ftkit.models.isolation", f"{megabytes:.0f}", module, *arguments]
    with tempfile.TemporaryFile() as output:
        child = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
        try:
            while True:
                try:
                    code = child.wait(timeout=0.25)
                    break
                except subprocess.TimeoutExpired:
                    progress(text, None)
        except BaseException:
            child.kill()
            child.wait()
            raise
        if code:
            output.seek(0)
            lines = output.read().decode(errors="replace").strip().splitlines()
            killed = "It was ended from outside, most likely for want of memory. " if code < 0 else ""
            raise IsolatedError(f"{killed}{(lines[-1] if lines else str(code))[:500]}")


def close_in(megabytes: float) -> None:
    """Take network, further programs and most of the machine's memory away from this process."""
    without_network()
    _limit(megabytes)
    sys.addaudithook(_refuse)


def without_network() -> bool:
    """Whether the kernel has put this process where there is no network."""
    if not sys.platform.startswith("linux"):
        return False
    user, group = os.getuid(), os.getgid()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_NEW_NET) == 0:
        return True
    if libc.unshare(_NEW_USER | _NEW_NET) != 0:
        return False
    with contextlib.suppress(OSError):  # files are then written under one's own name
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
        Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
    return True


def _limit(megabytes: float) -> None:
    try:
        import resource
    except ImportError:  # Windows
        return
    size = int((megabytes + _BESIDE) * 1e6)
    for what, most in (
        (resource.RLIMIT_DATA, size),
        (resource.RLIMIT_CPU, _SECONDS),
        (resource.RLIMIT_CORE, 0),
    ):
        _, hard = resource.getrlimit(what)
        allowed = most if hard == resource.RLIM_INFINITY else min(most, hard)
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(what, (allowed, allowed))


def _refuse(event: str, _arguments: tuple[Any, ...]) -> None:
    if event in _REFUSED:
        msg = f"{event} is not allowed here"
        raise PermissionError(msg)


def main() -> None:
    """Close in, then do what the command line says."""
    megabytes, module, *arguments = sys.argv[1:]
    work = importlib.import_module(module)
    prepare = getattr(work, "prepare", None)
    without_network()
    if prepare is not None:
        prepare()  # imports its libraries: some start programs to look at the machine
    close_in(float(megabytes))
    work.main(*arguments)


if __name__ == "__main__":
    main()
