"""Encoded rows in flat arrays: all tokens one after the other, and where each row ends. In memory or on disk.

On disk the arrays are plain bytes in a folder, written once and mapped afterwards, so that the memory that
many rows take does not grow with their number.
"""

from __future__ import annotations

import json
import operator
import os
import shutil
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np

from ftkit.data.encoded import Encoded
from ftkit.data.entries import ABOUT

_ARRAYS = {"ids": "<i4", "mask": "|b1", "ends": "<i8", "numbers": "<i8", "labels": "|i1"}
"""The arrays of a folder, each in a file of its own: two of all tokens, three of all rows."""


class EncodedRows(Sequence[Encoded]):
    """Rows as views of flat arrays.

    Parameters
    ----------
    ids, mask
        (tokens,) int32 and bool: the tokens of all rows, and which are trained on.
    ends
        (rows,) where in them each row ends.
    numbers
        (rows,) the row's number in its source.
    labels
        (rows,) int8, what each row is rated: see `Encoded`. None: nothing is.
    """

    def __init__(
        self,
        ids: np.ndarray,
        mask: np.ndarray,
        ends: np.ndarray,
        numbers: np.ndarray,
        labels: np.ndarray | None = None,
    ) -> None:
        self.ids, self.mask, self.ends, self.numbers = ids, mask, ends, numbers
        self.labels = labels if labels is not None else np.full(len(ends), -1, np.int8)

    @classmethod
    def joined(cls, parts: Sequence[Sequence[Encoded]]) -> EncodedRows:
        """The rows of all parts, in order, each part flat or not."""
        flat = [part if isinstance(part, EncodedRows) else _flat(part) for part in parts if len(part)]
        counts = np.cumsum([0, *(len(part.ids) for part in flat)])
        return cls(
            np.concatenate([part.ids for part in flat] or [np.empty(0, np.int32)]),
            np.concatenate([part.mask for part in flat] or [np.empty(0, bool)]),
            np.concatenate([part.ends + at for part, at in zip(flat, counts, strict=False)] or [_NONE]),
            np.concatenate([part.numbers for part in flat] or [_NONE]),
            np.concatenate([part.labels for part in flat] or [np.empty(0, np.int8)]),
        )

    def __len__(self) -> int:
        return len(self.ends)

    @overload
    def __getitem__(self, place: int) -> Encoded: ...

    @overload
    def __getitem__(self, place: slice) -> Sequence[Encoded]: ...

    def __getitem__(self, place: int | slice) -> Encoded | Sequence[Encoded]:
        if isinstance(place, slice):
            return [self[one] for one in range(*place.indices(len(self)))]
        at = operator.index(place)
        at += len(self) if at < 0 else 0
        if not 0 <= at < len(self):
            raise IndexError(place)
        start, end = int(self.ends[at - 1]) if at else 0, int(self.ends[at])
        return Encoded(self.ids[start:end], self.mask[start:end], int(self.numbers[at]), int(self.labels[at]))

    def __iter__(self) -> Iterator[Encoded]:
        start = 0
        about = zip(self.ends.tolist(), self.numbers.tolist(), self.labels.tolist(), strict=True)
        for end, number, label in about:
            yield Encoded(self.ids[start:end], self.mask[start:end], number, label)
            start = end

    @property
    def lengths(self) -> np.ndarray:
        """(rows,) tokens of each row."""
        return np.diff(self.ends, prepend=0)


_NONE = np.empty(0, np.int64)


def _flat(rows: Sequence[Encoded]) -> EncodedRows:
    return EncodedRows(
        np.concatenate([row.ids for row in rows]),
        np.concatenate([row.mask for row in rows]),
        np.cumsum([len(row.ids) for row in rows], dtype=np.int64),
        np.array([row.row for row in rows], np.int64),
        np.array([row.label for row in rows], np.int8),
    )


def lengths(rows: Sequence[Any]) -> np.ndarray:
    """(rows,) tokens of each row, or pair of rows; without touching the tokens where the rows know."""
    known = getattr(rows, "lengths", None)
    if known is not None:
        return np.asarray(known)
    return np.array([len(row.ids) for row in rows], np.int64)


class Writer:
    """Fills a folder that becomes an entry when it is whole.

    Parameters
    ----------
    final
        Where the entry goes; made beside it, under a hidden name, and renamed.

    Raises
    ------
    OSError
        When the disk is full or cannot be written to; also from the methods.
    """

    def __init__(self, final: Path) -> None:
        self.final = final
        final.parent.mkdir(parents=True, exist_ok=True)
        self.work = Path(tempfile.mkdtemp(prefix=".writing-", dir=final.parent))
        self.files = {name: (self.work / f"{name}.bin").open("wb") for name in _ARRAYS}
        self.sums = dict.fromkeys(_ARRAYS, 0)
        self.tokens = self.rows = 0

    def add(self, rows: Sequence[Encoded]) -> None:
        """Append rows."""
        if not rows:
            return
        part = EncodedRows.joined([rows])
        self._write("ids", part.ids)
        self._write("mask", part.mask)
        self._write("ends", part.ends + self.tokens)
        self._write("numbers", part.numbers)
        self._write("labels", part.labels)
        self.tokens, self.rows = self.tokens + len(part.ids), self.rows + len(part)

    def finish(self, about: dict[str, Any]) -> None:
        """Make the folder the entry; an entry that another process has made meanwhile is left as it is."""
        for file in self.files.values():
            file.close()
        facts = {**about, "tokens": self.tokens, "rows": self.rows, "sums": self.sums}
        (self.work / ABOUT).write_text(json.dumps(facts), encoding="utf-8")
        try:
            self.work.replace(self.final)
        except OSError:
            if not (self.final / ABOUT).is_file():
                raise

    def close(self) -> None:
        """Remove what is not finished."""
        for file in self.files.values():
            file.close()
        shutil.rmtree(self.work, ignore_errors=True)

    def _write(self, name: str, values: np.ndarray) -> None:
        data = np.ascontiguousarray(values, _ARRAYS[name]).tobytes()
        self.files[name].write(data)
        self.sums[name] = zlib.crc32(data, self.sums[name])


def read(folder: Path) -> tuple[EncodedRows, dict[str, Any]] | None:
    """The rows of an entry, mapped, and what `finish` was told; None where it is missing or damaged."""
    try:
        about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        arrays = {}
        for name, kind in _ARRAYS.items():
            count = about["tokens"] if name in {"ids", "mask"} else about["rows"]
            file = folder / f"{name}.bin"
            if os.path.getsize(file) != count * np.dtype(kind).itemsize:
                return None
            arrays[name] = np.memmap(file, kind, "r", shape=(count,))
            if _checksum(arrays[name]) != about["sums"][name]:
                return None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return EncodedRows(**arrays), about


def _checksum(array: np.ndarray, step: int = 1 << 22) -> int:
    """By pieces: reading a large file at once would take its size in memory."""
    total = 0
    for at in range(0, len(array), step):
        total = zlib.crc32(array[at : at + step].tobytes(), total)
    return total
