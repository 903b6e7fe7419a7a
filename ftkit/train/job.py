"""A run to carry out: what was asked for, where it goes, whom it tells and whom it obeys."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from ftkit.recipe import Recipe
from ftkit.train.protocol import Control, Sink, Stopped
from ftkit.train.ranks import ALONE, Ranks


@dataclass
class Job:
    """What everything that prepares or trains needs to know.

    Attributes
    ----------
    folder
        The run folder; `checkpoints/` and `adapter/` or `model/` are written into it.
    ranks
        Which of the processes that train together this is. Rank 0 writes into the folder.
    """

    recipe: Recipe
    folder: Path
    sink: Sink
    control: Control
    ranks: Ranks = ALONE
    _last: tuple[str, float | None] | None = field(default=None, init=False, repr=False)

    def stage(self, text: str, fraction: float | None = None) -> None:
        """Say what the preparation is doing. Pause and Stop take effect here.

        Raises
        ------
        Stopped
            When the person asked for it.
        """
        self.control.checkpoint()
        if self.control.stopping:
            raise Stopped
        self.quietly(text, fraction)

    def quietly(self, text: str, fraction: float | None = None) -> None:
        """The same where nothing may take effect."""
        if (text, fraction) != self._last:  # downloads report many times a second
            self._last = (text, fraction)
            self.sink.emit("stage", text=text, fraction=fraction)

    def note(self, text: str, level: str = "info") -> None:
        """Something that a person should know; `level` is `info` or `warning`."""
        self.sink.emit("note", level=level, text=text)
