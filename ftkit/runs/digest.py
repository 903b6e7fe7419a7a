"""Reading an event log: lines, their numbers, and what they add up to, each read once.

The log is the truth. A digest file beside it only saves the time of reading the log from its start: it is
taken up where it belongs to the log as it is, and made again where it is missing, damaged or another log's.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from bisect import bisect_right
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from ftkit.manifest import write_whole
from ftkit.runs.shape import checked
from ftkit.runs.summary import Summary

SAVE_EVERY = 4 << 20
"""Bytes of a log that are worth a digest: reading them takes about a quarter of a second."""
LONGEST_LINE = 16 << 20
"""Bytes. A longer line is no event, and is not held in memory."""
_FORMAT = 1
_MARK_EVERY = 1_024
_TAIL = 4_096


class LogReader:
    """Reads a log that others append to. One thread at a time may use it.

    Attributes
    ----------
    summary
        What the lines read so far add up to. Another object after the file was replaced.
    lines
        How many lines were read: the number of the next one.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._digest = path.with_name(f".{path.stem}.digest")
        self._forget()

    def catch_up(self) -> None:
        """Read what was appended; all of it where the file was replaced or cut."""
        with contextlib.suppress(FileNotFoundError), self.path.open("rb") as log:
            size = os.fstat(log.fileno()).st_size
            if not self._offset:
                self._load(log)
            elif size != self._offset and _tail(log, self._offset) != self._tail:
                self._forget()
                self._load(log)
            if size > self._offset:
                self._read(log)

    def events(self, since: int) -> Iterator[dict[str, Any]]:
        """The events of the lines from number `since` on, as far as `catch_up` came."""
        if since >= self.lines:
            return iter(())
        mark = self._marks[bisect_right(self._marks, since, key=lambda mark: mark[0]) - 1]
        return _events(self.path, mark, since, self._offset)

    def _forget(self) -> None:
        self.summary = Summary()
        self.lines = self._offset = self._saved = 0
        self._marks = [(0, 0)]
        self._tail = ""

    def _read(self, log: BinaryIO) -> None:
        for line, end in _whole_lines(log, self._offset):
            event = parse(line)
            if event is not None:
                self.summary.fold(event)
            self.lines += 1
            self._offset = end
            if self.lines % _MARK_EVERY == 0:
                self._marks.append((self.lines, end))
        self._tail = _tail(log, self._offset)
        if self._offset - self._saved >= SAVE_EVERY:
            self._saved = self._offset
            self._save()

    def _save(self) -> None:
        """Write the digest whole or not at all. Where it cannot be written, the next reader needs longer."""
        body = json.dumps(
            {
                "format": _FORMAT,
                "lines": self.lines,
                "offset": self._offset,
                "tail": self._tail,
                "marks": self._marks,
                "summary": self.summary.to_json(),
            }
        ).encode()
        with contextlib.suppress(OSError):
            content = hashlib.sha256(body).hexdigest().encode() + b"\n" + body
            write_whole(self._digest, content, durable=False)  # made again where it is lost

    def _load(self, log: BinaryIO) -> None:
        """Take the digest up where it belongs to this log."""
        try:
            checksum, _, body = self._digest.read_bytes().partition(b"\n")
            if hashlib.sha256(body).hexdigest().encode() != checksum:
                return
            saved = json.loads(body)
            offset, tail = int(saved["offset"]), str(saved["tail"])
            if saved["format"] != _FORMAT or _tail(log, offset) != tail:
                return
            summary = Summary.from_json(saved["summary"])
            marks = [(int(number), int(place)) for number, place in saved["marks"]]
            lines = int(saved["lines"])
        except Exception:  # noqa: BLE001  whatever is wrong with it, the log itself is read instead
            return
        self.summary, self._marks, self.lines = summary, marks, lines
        self._offset = self._saved = offset
        self._tail = tail


def parse(line: bytes) -> dict[str, Any] | None:
    """An event, or None for a line that a crash tore or a disk damaged: the lines around it stay readable."""
    try:
        event = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return checked(event)


def _events(path: Path, mark: tuple[int, int], since: int, until: int) -> Iterator[dict[str, Any]]:
    number, offset = mark
    with contextlib.suppress(FileNotFoundError), path.open("rb") as log:
        for line, end in _whole_lines(log, offset):
            if end > until:
                return
            event = parse(line) if number >= since else None
            if event is not None:
                event["n"] = number
                yield event
            number += 1


def _whole_lines(log: BinaryIO, offset: int) -> Iterator[tuple[bytes, int]]:
    """Each line from `offset` on and where it ends; a torn last line waits for its end."""
    log.seek(offset)
    start = offset
    while line := log.readline(LONGEST_LINE):
        offset += len(line)
        if line.endswith(b"\n"):
            yield (line if offset - start == len(line) else b""), offset
            start = offset


def _tail(log: BinaryIO, offset: int) -> str:
    """What the log holds before `offset`, in short: another text there is another log."""
    start = max(offset - _TAIL, 0)
    log.seek(start)
    return hashlib.sha256(log.read(offset - start)).hexdigest()
