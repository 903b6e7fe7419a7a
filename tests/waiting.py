"""Wait for something to come true, and fail when it does not."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Protocol

POLL = 0.02


class Until(Protocol):
    def __call__(self, condition: Callable[[], Any], seconds: float = ...) -> None: ...


def up_to(usual: float) -> Until:
    """A function that waits for its condition, so many seconds at most unless it is told otherwise."""

    def until(condition: Callable[[], Any], seconds: float = usual) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, "it did not happen"
            time.sleep(POLL)

    return until
