"""Rows kept on disk, for sources that would not fit in memory: JSON lines, and where each ends.

An entry is made once of a source as it is now, whatever its kind, and read row by row from then on; the
source may change or go meanwhile.
"""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
import tempfile
import threading
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np

from ftkit.data import entries
from ftkit.errors import DataError
from ftkit.recipe.rows import plain

LIMIT_BYTES = 40_000_000_000
"""Entries beyond this are removed, those first that have not been used for longest."""
_ROWS, _ENDS = "rows.jsonl", "ends.bin"
_BUFFER = 1 << 20


class SpooledRows(Sequence[Any]):
    """The rows of an entry, each read when it is asked for. May be read from several threads.

    Attributes
    ----------
    digest
        Of all rows: the same rows have the same.
    """

    def __init__(self, folder: Path, digest: str) -> None:
        self.digest = digest
        self._ends = np.fromfile(folder / _ENDS, "<i8")
        self._file = (folder / _ROWS).open("rb")
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._ends)

    @overload
    def __getitem__(self, place: int) -> Any: ...

    @overload
    def __getitem__(self, place: slice) -> list[Any]: ...

    def __getitem__(self, place: int | slice) -> Any:
        if isinstance(place, slice):
            return [self[one] for one in range(*place.indices(len(self)))]
        at = range(len(self))[place]
        start = int(self._ends[at - 1]) if at else 0
        with self._lock:
            self._file.seek(start)
            data = self._file.read(int(self._ends[at]) - start)
        return _read(data)

    def __iter__(self) -> Iterator[Any]:
        with open(self._file.name, "rb", _BUFFER) as file:
            for line in file:
                yield _read(line)


def spooled(name: str, rows: Callable[[], Iterable[Any]], folder: Path) -> SpooledRows:
    """The entry called `name`, made of `rows()` where it is not there yet.

    Parameters
    ----------
    folder
        Of all entries.

    Raises
    ------
    DataError
        When it cannot be written, or what reading the rows raises.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        found = _entry(folder / name)
        if found is None:
            _make(name, rows(), folder)
            entries.clean(folder, name, LIMIT_BYTES)
            found = _entry(folder / name)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise DataError(
            f"The rows are too many for memory and cannot be kept in {folder}: {error.strerror or error}.",
            "Free some space there, point FTKIT_CACHE to a larger disk, or set data.max_rows."
            if full
            else "Point FTKIT_CACHE to a folder that can be written to.",
        ) from None
    if found is None:
        raise DataError(f"The rows kept in {folder / name} cannot be read.", "Remove that folder.")
    return found


def _entry(entry: Path) -> SpooledRows | None:
    try:
        about = json.loads((entry / entries.ABOUT).read_text(encoding="utf-8"))
        sizes = {file: (entry / file).stat().st_size for file in (_ROWS, _ENDS)}
        if sizes != about["sizes"]:
            raise ValueError(entry)
        (entry / entries.ABOUT).touch()
        return SpooledRows(entry, about["digest"])
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):
        shutil.rmtree(entry, ignore_errors=True)
        return None


def _make(name: str, rows: Iterable[Any], folder: Path) -> None:
    work = Path(tempfile.mkdtemp(prefix=".writing-", dir=folder))
    digest, ends, at = hashlib.sha256(), array("q"), 0
    try:
        with (work / _ROWS).open("wb", _BUFFER) as file:
            for row in rows:
                line = json.dumps(row, ensure_ascii=False, default=_value).encode("utf-8", "surrogatepass")
                file.write(line + b"\n")
                digest.update(line + b"\n")
                at += len(line) + 1
                ends.append(at)
        np.asarray(ends, "<i8").tofile(work / _ENDS)
        sizes = {file: (work / file).stat().st_size for file in (_ROWS, _ENDS)}
        about = {"digest": digest.hexdigest(), "sizes": sizes}
        (work / entries.ABOUT).write_text(json.dumps(about), encoding="utf-8")
        try:
            work.replace(folder / name)
        except OSError:
            if not (folder / name / entries.ABOUT).is_file():  # else another process was faster
                raise
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _value(value: Any) -> Any:
    """As JSON has it; bytes are told by their number, for an image is named by its path."""
    return f"<{len(value):,} bytes>" if isinstance(value, (bytes, bytearray, memoryview)) else plain(value)


def _read(data: bytes) -> Any:
    return json.loads(data.decode("utf-8", "surrogatepass"))
