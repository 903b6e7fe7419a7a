"""Files that come from the browser in pieces: written as they come, named safely, whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import re
import secrets
import shutil
import time
import unicodedata
from pathlib import Path
from typing import BinaryIO

from ftkit.errors import DataError
from ftkit.folders import is_device

_LONGEST_NAME = 200
"""Bytes of a name; file systems take 255, and a number or `.part` is added."""
_SPARE = 50_000_000
"""Bytes that stay free on the disk."""
_LEFT_BEHIND = 3600.0
"""Seconds after which a part that nobody writes to is of a kernel that is gone."""


def safe_name(name: str) -> str:
    """A file's name without folders, control characters, leading dots or a device's name.

    Raises
    ------
    DataError
        When nothing is left of it, or it names no kind of data file.
    """
    from ftkit.data.readers import READERS, kind

    last = re.split(r"[\\/]", name)[-1]
    plain = "".join(c for c in unicodedata.normalize("NFC", last) if unicodedata.category(c)[0] != "C")
    plain = re.sub(r'[<>:"|?*]', "_", plain).strip(" .")
    stem, suffixes = _parts(plain)
    if kind(Path(plain)) not in READERS or not stem:
        raise DataError(
            f"{plain or 'This'} is no data file.", f"Known: {', '.join(READERS)}, also .gz, .zst."
        )
    room = _LONGEST_NAME - len(suffixes.encode())
    plain = stem.encode()[:room].decode(errors="ignore").rstrip(" .") + suffixes
    return f"_{plain}" if is_device(plain) else plain


def _parts(name: str) -> tuple[str, str]:
    """A name without, and its suffixes: that of the kind and that of a compression."""
    from ftkit.data.readers import COMPRESSED

    stem, suffixes = name, ""
    while Path(stem).suffix.lower() in COMPRESSED:
        suffixes = Path(stem).suffix + suffixes
        stem = stem[: len(name) - len(suffixes)]
    last = Path(stem).suffix
    return stem.removesuffix(last), last + suffixes


class Receiving:
    """One file on its way.

    Parameters
    ----------
    folder
        Where it goes; made when it is not there.
    name
        What the browser calls it.
    size
        Bytes that will come.

    Raises
    ------
    DataError
        When the name is none, or there is no room; also from the methods.
    """

    def __init__(self, folder: Path, name: str, size: int) -> None:
        self.folder, self.name, self.size = folder, safe_name(name), size
        self.at = 0
        self._digest = hashlib.sha256()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            free = shutil.disk_usage(folder).free
            if size + _SPARE > free:
                raise DataError(
                    f"{self.name} has {size / 1e6:,.0f} MB, the disk has {free / 1e6:,.0f} MB left.",
                    "Free some space, or upload a part of it.",
                )
            for left in folder.glob(".*.part"):
                if time.time() - left.stat().st_mtime > _LEFT_BEHIND:
                    left.unlink()
            self._part = folder / f".{self.name}.{secrets.token_hex(4)}.part"  # of this upload alone
            self._file: BinaryIO = self._part.open("xb")
        except OSError as error:
            raise _unwritable(folder, error) from None

    def take(self, at: int, data: bytes | memoryview) -> None:
        """Write the piece that begins at byte `at`; pieces come in order."""
        if at != self.at or at + len(data) > self.size:
            raise DataError(f"A piece of {self.name} is missing or came twice.", "Upload it again.")
        try:
            self._file.write(data)
        except OSError as error:
            raise _unwritable(self.folder, error) from None
        self._digest.update(data)
        self.at += len(data)

    def finish(self) -> Path:
        """The whole file under its own name, or under the name that the same file has already."""
        if self.at != self.size:
            raise DataError(f"{self.name} came only in part.", "Upload it again.")
        try:
            self._file.close()
            target, number = self.folder / self.name, 2
            while target.exists():
                if self._is_same(target):
                    self._part.unlink()
                    return target
                stem, suffixes = _parts(self.name)
                target = self.folder / f"{stem} ({number}){suffixes}"
                number += 1
            self._part.replace(target)
        except OSError as error:
            raise _unwritable(self.folder, error) from None
        return target

    def cancel(self) -> None:
        """Remove what has come."""
        with contextlib.suppress(OSError):  # on a full disk: what is not written yet cannot be
            self._file.close()
        with contextlib.suppress(OSError):
            self._part.unlink(missing_ok=True)

    def _is_same(self, other: Path) -> bool:
        if not other.is_file() or other.stat().st_size != self.size:
            return False
        with other.open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest() == self._digest.digest()


def _unwritable(folder: Path, error: OSError) -> DataError:
    return DataError(
        f"Nothing can be written to {folder}: {error.strerror or error}.", "Free some space there."
    )
