"""What people ask of a run, from any kernel: lines that are appended to `wishes.jsonl` in its folder.

A line is `{"wish": NAME, "value": VALUE}`. Appending loses no wish when two ask at once; who carries out the
run reads on from where the file ended when the run began, so an old Stop does not stop a resumed run.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast, get_args

Steering = Literal["pause", "run", "stop"]
Request = Literal["stop_after_epoch", "save", "evaluate", "sample", "learning_rate"]
"""What is done once, at the end of the step; `learning_rate` has a value, the new peak."""


@dataclass(frozen=True)
class Wish:
    """One thing asked for."""

    name: Steering | Request
    value: float | None = None


class Wishes:
    """Asks, and hears what was asked since `start` (bytes of the file; None: its end now)."""

    def __init__(self, path: Path, start: int | None = None) -> None:
        self.path = path
        self.position = self._size() if start is None else start

    def ask(self, wish: Wish) -> None:
        """Append a wish."""
        line = json.dumps({"wish": wish.name, "value": wish.value}).encode() + b"\n"
        # one write to a file opened for appending: lines of several processes do not mix
        descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            os.write(descriptor, line)
        finally:
            os.close(descriptor)

    def heard(self) -> list[Wish]:
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
        return [wish for line in whole.splitlines() if (wish := _wish(line)) is not None]

    def _size(self) -> int:
        try:
            return self.path.stat().st_size
        except OSError:
            return 0


def _wish(line: bytes) -> Wish | None:
    """A wish, or None for a line that is none: the file may be anybody's."""
    try:
        said: Any = json.loads(line)
        name, value = said["wish"], said.get("value")
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    if name == "learning_rate":
        rate = value if isinstance(value, (int, float)) and 0 < value <= 1 else None
        return None if rate is None else Wish("learning_rate", float(rate))
    return Wish(cast("Steering | Request", name)) if isinstance(name, str) and name in _NAMES else None


_NAMES = (*get_args(Steering), *get_args(Request))
