"""Rewinding a run: a new one goes on from a checkpoint with other settings, and the first stays as it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ipywidgets as widgets

from ftkit.errors import FtkitError
from ftkit.ui import markup
from ftkit.ui.host import set_tooltip
from ftkit.ui.panels.base import button, line, row
from ftkit.ui.typed import number

_WHAT = (
    "A new run goes on from a checkpoint of this one; this one stays as it is, and the chart shows both. "
    "What you leave empty is as it was."
)


class Branching(widgets.VBox):
    """Chooses a checkpoint and what is to be different from there on.

    Parameters
    ----------
    branch
        Called with the step of the checkpoint and the changes, as `Run.branch` takes them.
    """

    def __init__(self, branch: Callable[[int, dict[str, Any]], Any]) -> None:
        self._branch = branch
        self.checkpoint = widgets.Dropdown(description="Checkpoint", options=[])
        self.checkpoint.add_class("ftk-inline")
        set_tooltip(self.checkpoint, "The step that the new run begins at")
        self.rate = line("Learning rate", "as it was", "Peak of the learning rate of the new run")
        self.steps = line("Until step", "as it was", "The step that the new run ends at")
        self.begin = button("Branch", "Start the new run", button_style="primary")
        self.code = widgets.HTML()
        for field in (self.checkpoint, self.rate, self.steps):
            field.observe(self._show_code, "value")
        super().__init__(
            [
                widgets.HTML(markup.muted(_WHAT)),
                row(self.checkpoint, self.rate, self.steps, self.begin),
                self.code,
            ]
        )

    def offer(self, steps: list[int]) -> None:
        """The checkpoints to choose from, oldest first. The choice stays if it can, else: the newest."""
        newest_first = [(f"step {step:,}", step) for step in reversed(steps)]
        if list(self.checkpoint.options) != newest_first:
            chosen = self.checkpoint.value
            self.checkpoint.options = newest_first  # which takes the choice away
            if steps:
                self.checkpoint.value = chosen if chosen in steps else steps[-1]

    def start(self) -> None:
        """Branch as the fields say.

        Raises
        ------
        FtkitError
            When a field holds no number; it stays there.
        """
        self._branch(self.checkpoint.value, self._changes())

    def _changes(self) -> dict[str, Any]:
        changes: dict[str, Any] = {}
        if text := self.rate.value.strip():
            changes["training.learning_rate"] = number(text, float, "learning rate", "1e-5")
        if text := self.steps.value.strip():
            changes["training.max_steps"] = number(text, int, "step", "200")
        return changes

    def _show_code(self, _: Any) -> None:
        try:
            changes = self._changes()
        except FtkitError:  # still being typed; the button says what is wrong
            return
        call = f"run.branch({self.checkpoint.value}{f', {changes}' if changes else ''})"
        self.code.value = markup.muted("In Python: ") + f"<code>{markup.escape(call)}</code>"
