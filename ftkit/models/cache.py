"""ftkit's own cache of model folders: where it is and one writer at a time.

An entry is a folder sealed by a manifest (see `ftkit.manifest`): a half-written one is never seen.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ftkit import manifest
from ftkit.errors import ModelError
from ftkit.folders import cache_root as root

Progress = Callable[[str, float | None], None]
"""What to tell the person (a text and a fraction from 0 to 1, None while unknown). It may raise to cancel."""


def silent(text: str, fraction: float | None = None) -> None:
    """The progress callback of callers that show nothing."""


@contextlib.contextmanager
def exclusive(name: str, progress: Progress = silent) -> Iterator[None]:
    """Hold the cache's lock of this name: of several processes (or threads), one works, the others wait."""
    from filelock import FileLock, Timeout

    folder = root() / "locks"
    make_folder(folder)
    lock = FileLock(folder / f"{name}.lock")
    while True:
        try:
            lock.acquire(timeout=0.3)
            break
        except Timeout:
            progress("Waiting for another process that prepares the same model", None)
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def building(final: Path, about: Mapping[str, Any]) -> Iterator[Path]:
    """A folder to fill; on leaving without an error it gets its manifest and becomes the entry `final`.

    Parameters
    ----------
    final
        Where the entry goes. Whatever is there is replaced, once the new entry is complete.
    about
        Where the entry comes from; kept in its manifest.
    """
    make_folder(final.parent)
    with manifest.building(final, about) as work:
        yield work


def make_folder(folder: Path) -> None:
    """Make a folder of the cache.

    Raises
    ------
    ModelError
        Where it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ModelError(
            f"ftkit cannot write to its cache at {root()}: {error.strerror or error}.",
            "Point the environment variable FTKIT_CACHE at a folder that you may write to.",
        ) from None


def need_space(megabytes: float) -> None:
    """Make sure that the cache's disk has so many MB left.

    Raises
    ------
    ModelError
        Where it has not.
    """
    make_folder(root())
    free = shutil.disk_usage(root()).free / 1e6
    if free < megabytes:
        raise ModelError(
            f"The disk of {root()} has {free:,.0f} MB left; {megabytes:,.0f} MB are needed.",
            "Free some space, or point the environment variable FTKIT_CACHE at another disk.",
        )
