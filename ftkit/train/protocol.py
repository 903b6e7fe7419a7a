"""What training tells (a Sink) and what it obeys (a Control). `ftkit.runs` implements both."""

from __future__ import annotations

from typing import Any, Protocol


class Sink(Protocol):
    """Where events go; see `ftkit.runs.events` for their kinds."""

    def emit(self, kind: str, **fields: Any) -> None:
        """Record one event."""


class Control(Protocol):
    """What the person asked for."""

    def checkpoint(self) -> None:
        """Called between steps and between stages of the preparation.

        Blocks while the run is paused.
        """

    @property
    def stopping(self) -> bool:
        """Whether the run should save and end after this step."""

    def out_of_time(self, needed: float) -> bool:
        """Whether the run must save and end now to be done in time.

        `needed` is how many seconds another step and saving would take.
        """


class Stopped(Exception):  # noqa: N818  not an error: the person asked for it
    """Raised during the preparation, where there is no step to finish and nothing to save."""
