"""Folders that are there whole or not at all: built beside their place, sealed by a manifest, renamed.

`manifest.json`, written last, names every other file with its size and SHA-256. A folder without one is not
finished; one whose files differ from it is damaged. Nothing here knows what the files are.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

MANIFEST = "manifest.json"
STALE = 3_600.0
"""Seconds after which a file that is still half written will never be whole."""

_HALF_WRITTEN = re.compile(r"\.[\w-]+\.\w+-[a-z0-9_]{8}")


def sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of a folder, or None where there is none that can be read."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return manifest if isinstance(manifest, dict) and _are_facts(manifest.get("files")) else None


def _are_facts(files: Any) -> bool:
    return isinstance(files, dict) and all(
        isinstance(facts, dict) and {"size", "sha256"} <= facts.keys() for facts in files.values()
    )


def fault(folder: Path, *, thorough: bool = False) -> str | None:
    """What is wrong with a sealed folder, in a few words; None where it is sound.

    Parameters
    ----------
    thorough
        Read every file and compare its SHA-256, rather than sizes alone.
    """
    manifest = read_manifest(folder)
    if manifest is None:
        return "its manifest is missing or cannot be read"
    for name, facts in manifest["files"].items():
        path = folder / name
        try:
            size = path.stat().st_size if path.is_file() else None
            if size is None:
                return f"{name} is missing"
            if size != facts["size"]:
                return f"{name} has {size:,} bytes instead of {facts['size']:,}"
            if thorough and sha256(path) != facts["sha256"]:
                return f"{name} has changed since it was written"
        except OSError as error:
            return f"{name} cannot be read ({error.strerror or error})"
    return None


@contextlib.contextmanager
def building(final: Path, about: Mapping[str, Any]) -> Iterator[Path]:
    """A folder to fill; on leaving without an error it gets its manifest and becomes `final`.

    All is on the disk before it gets its name, so that a power cut leaves the old folder or the new one.

    Parameters
    ----------
    final
        Where the folder goes; its parent exists. Whatever is there is replaced, once the new one is whole.
    about
        Kept in the manifest, which is yielded's `about` as it stands on leaving: it may be changed inside.
    """
    work = Path(tempfile.mkdtemp(prefix=f".{final.name}-", dir=final.parent))
    try:
        yield work
        seal(work, about)
        old = set_aside(final)
        work.replace(final)
        sync(final.parent)
        if old is not None:
            shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def seal(folder: Path, about: Mapping[str, Any]) -> None:
    """Write every file of `folder` through to the disk, then its manifest."""
    files = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != MANIFEST:
            path.chmod(0o644)  # mkdtemp and safetensors both write for this user alone; folders may be shared
            sync(path)
            name = path.relative_to(folder).as_posix()
            files[name] = {"size": path.stat().st_size, "sha256": sha256(path)}
    folder.chmod(0o755)
    (folder / MANIFEST).write_text(json.dumps({**about, "files": files}, indent=2) + "\n", encoding="utf-8")
    sync(folder / MANIFEST)
    sync(folder)


def write_whole(path: Path, content: bytes, *, durable: bool = True) -> None:
    """Write a file whole or not at all: under a hidden name beside it, then renamed.

    `durable`: it is on the disk when this returns, not only on its way to it.
    """
    prefix = path.name if path.name.startswith(".") else f".{path.name}"
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f"{prefix}-")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    if durable:
        sync(path.parent)


def sweep(place: Path, folders: Sequence[str] = ()) -> None:
    """Delete what killed processes have left half made in `place`.

    Parameters
    ----------
    folders
        Names that nobody builds there now. (Files are deleted once nobody can still be writing them.)
    """
    with contextlib.suppress(OSError):
        for path in place.glob(".*-????????"):
            if _HALF_WRITTEN.fullmatch(path.name) and time.time() - path.stat().st_mtime > STALE:
                path.unlink(missing_ok=True)
        for name in folders:
            for path in (*place.glob(f".{name}-????????"), *place.glob(f".{name}-old-????????")):
                shutil.rmtree(path, ignore_errors=True)


def set_aside(folder: Path) -> Path | None:
    """Move a folder out of the way, under a hidden name beside it. Processes that have it open keep it."""
    if not folder.exists():
        return None
    aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}-old-", dir=folder.parent)) / folder.name
    folder.replace(aside)
    return aside.parent


def remove(folder: Path) -> None:
    """Delete a folder so that a half-deleted one is never seen under its name."""
    aside = set_aside(folder)
    if aside is not None:
        shutil.rmtree(aside, ignore_errors=True)


def sync(path: Path) -> None:
    """Write a file, or a folder's list of names, through to the disk."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except PermissionError:  # Windows opens no folders
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno == 28 or not path.is_dir():  # some file systems sync no folders
            raise
    finally:
        os.close(descriptor)
