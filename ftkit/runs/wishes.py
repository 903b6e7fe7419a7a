"""What people ask of a run, from any kernel: lines that are appended to `wishes.jsonl` in its folder.

A line is `{"wish": "pause" | "run" | "stop"}`. Appending loses no wish when two ask at once; who carries out
the run reads on from where the file ended when the run began, so an old Stop does not stop a resumed run.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Literal

Wish = Literal["pause", "run", "stop"]


class Wishes:
    """Asks, and hears what was asked since `start` (bytes of the file; None: its end now)."""

    def __init__(self, path: Path, start: int | None = None) -> None:
        self.path = path
        self.position = self._size() if start is None else start

    def ask(self, wish: Wish) -> None:
        """Append a wish."""
        line = json.dumps({"wish": wish}).encode() + b"\n"
        # one write to a file opened for appending: lines of several processes do not mix
        descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            os.write(descriptor, line)
        finally:
            os.close(descriptor)

    def heard(self) -> list[str]:
        """The wishes that came since the last call, in order; half a line waits for its end."""
        size = self._size()
        if size <= self.position:
            return []
        try:
            with self.path.open("rb") as file:
                file.seek(self.position)
                new = file.read(size - self.position)
        except OSError:
            return []
        whole = new[: new.rfind(b"\n") + 1]
        self.position += len(whole)
        return [wish for line in whole.splitlines() if (wish := _wish(line))]

    def _size(self) -> int:
        try:
            return self.path.stat().st_size
        except OSError:
            return 0


def _wish(line: bytes) -> str:
    try:
        said: Any = json.loads(line)
    except ValueError:
        return ""
    wish = said.get("wish") if isinstance(said, dict) else None
    return wish if wish in ("pause", "run", "stop") else ""
