"""Where ftkit keeps what it fetches and makes; names and paths that strangers wrote, taken with care."""

from __future__ import annotations

import os
import platform
import re
import sys
from pathlib import Path


def cache_root() -> Path:
    """The cache folder: `FTKIT_CACHE`, else `ftkit` in the platform's own cache folder."""
    if chosen := os.environ.get("FTKIT_CACHE"):
        return Path(chosen).expanduser()
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "ftkit"


def queue_folder() -> Path:
    """Where processes take turns: `FTKIT_QUEUE`, else in the cache, apart for each machine that shares it."""
    if chosen := os.environ.get("FTKIT_QUEUE"):
        return Path(chosen).expanduser()
    return cache_root() / "queue" / (re.sub(r"[^\w.-]", "_", platform.node()) or "here")


_DEVICES = re.compile(
    r"^(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[\d\xb9\xb2\xb3])[ .]*(\.|$)", re.IGNORECASE
)


def is_device(name: str) -> bool:
    """Whether Windows takes a file's name for a device, whatever its suffix."""
    return _DEVICES.match(name) is not None


def named(text: str | Path) -> Path:
    """A path as a person writes it, with `~`; of an unknown user it stays as it is."""
    try:
        return Path(text).expanduser()
    except RuntimeError:
        return Path(text)


def resolved(text: str | Path) -> Path:
    """A path as a person writes it, whole and with links followed; one that cannot be stays as it is."""
    path = named(text)
    try:
        return path.resolve()
    except (OSError, ValueError, RuntimeError):
        return path


def is_there(path: Path) -> bool:
    """Whether there is a file or folder; a name that none can have is not there."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def inside(folder: Path, name: str | Path) -> Path | None:
    """The file that `name` is below `folder`, links followed; None where it leaves the folder.

    A snapshot in the Hub's cache is links into the blobs beside it: these count as inside.
    """
    try:
        base, target = folder.resolve(), (folder / name).resolve()
    except (OSError, ValueError, RuntimeError):
        return None
    blobs = base.parent.parent / "blobs" if base.parent.name == "snapshots" else base
    return target if target.is_relative_to(base) or target.is_relative_to(blobs) else None
