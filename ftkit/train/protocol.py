"""What training tells (a Sink) and what it obeys (a Control). `ftkit.runs` implements both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol


class Sink(Protocol):
    """Where events go; see `ftkit.runs.events` for their kinds."""

    def emit(self, kind: str, **fields: Any) -> None:
        """Record one event."""


class Asked(Protocol):
    """Something to be done once: `stop_after_epoch`, `save`, `evaluate`, `sample`, `learning_rate`."""

    @property
    def name(self) -> str:
        """Which of them."""

    @property
    def value(self) -> float | None:
        """The new peak, for `learning_rate`."""


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

    def end(self, why: str) -> None:
        """The run ends early without having failed; `why` is what its state says."""

    def asked(self) -> Sequence[Asked]:
        """What is to be done at the end of this step; each is given once."""

    def sample(self, step: int) -> None:
        """Answer the Recipe's sample prompts with the live model and tell the replies."""


class Stopped(Exception):  # noqa: N818  not an error: the person asked for it
    """Raised during the preparation, where there is no step to finish and nothing to save."""
