"""ftkit's own cache of model folders: where it is, what a sound entry looks like, one writer at a time.

An entry is a folder whose `manifest.json`, written last, names every other file with its size and SHA-256.
It is built beside its final place and renamed into it, so that a half-written entry is never seen.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ftkit.errors import ModelError
from ftkit.folders import cache_root as root

Progress = Callable[[str, float | None], None]
"""What to tell the person (a text and a fraction from 0 to 1, None while unknown). It may raise to cancel."""

MANIFEST = "manifest.json"


def silent(text: str, fraction: float | None = None) -> None:
    """The progress callback of callers that show nothing."""


def sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of an entry, or None where there is none that can be read."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return manifest if isinstance(manifest, dict) and isinstance(manifest.get("files"), dict) else None


def fault(folder: Path, *, thorough: bool = False) -> str | None:
    """What is wrong with an entry, in a few words; None where it is sound.

    Parameters
    ----------
    folder
        An existing entry.
    thorough
        Read every file and compare its SHA-256, rather than sizes alone.
    """
    manifest = read_manifest(folder)
    if manifest is None:
        return "its manifest is missing or cannot be read"
    for name, facts in manifest["files"].items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != facts["size"]:
            return f"{name} has {path.stat().st_size:,} bytes instead of {facts['size']:,}"
        if thorough and sha256(path) != facts["sha256"]:
            return f"{name} has changed since it was written"
    return None


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
    work = Path(tempfile.mkdtemp(prefix=f".{final.name}-", dir=final.parent))
    try:
        yield work
        files = {
            path.relative_to(work).as_posix(): {"size": path.stat().st_size, "sha256": sha256(path)}
            for path in sorted(work.rglob("*"))
            if path.is_file()
        }
        manifest = json.dumps({**about, "files": files}, indent=2)
        (work / MANIFEST).write_text(manifest + "\n", encoding="utf-8")
        # A cache may be shared: mkdtemp and safetensors both write for this user alone.
        work.chmod(0o755)
        for name in files:
            (work / name).chmod(0o644)
        old = set_aside(final)
        work.replace(final)
        if old is not None:
            shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def set_aside(folder: Path) -> Path | None:
    """Move a folder out of the way, under a hidden name beside it. Processes that have it open keep it."""
    if not folder.exists():
        return None
    aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}-old-", dir=folder.parent)) / folder.name
    folder.replace(aside)
    return aside.parent


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
