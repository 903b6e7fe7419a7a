"""What a person changes of a run while it runs: its learning rate, and what it does between two steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import ipywidgets as widgets

from ftkit.ui import markup
from ftkit.ui.panels.base import button, line, row
from ftkit.ui.typed import number

if TYPE_CHECKING:
    from ftkit.runs import Run

Act = Callable[["Callable[[Run], Any]", str], None]


class Changing(widgets.VBox):
    """Controls that act on a run between two of its steps.

    Parameters
    ----------
    act
        Called with what to do to the run and the answer to show; it says what goes wrong.
    """

    def __init__(self, act: Act) -> None:
        self._act = act
        self.rate = line(
            "Learning rate",
            "such as 1e-4",
            "New peak of the learning rate; the shape of its schedule stays",
        )
        self.set_rate = button("Set", "Use this learning rate from the next step on", self.change_rate)
        self.save = button(
            "Save now",
            "Write a checkpoint after this step",
            self._does(lambda run: run.save(), "Saving after this step."),
        )
        self.evaluate = button(
            "Evaluate now",
            "Take the held-out loss after this step",
            self._does(lambda run: run.evaluate(), "Evaluating after this step."),
        )
        self.sample = button(
            "Sample now",
            "Answer the sample prompts (training.sample_prompts) after this step",
            self._does(lambda run: run.sample(), "Answering the sample prompts after this step."),
        )
        self.last_epoch = button(
            "Stop after this epoch",
            "Save and end when this pass over the rows is done",
            self._does(lambda run: run.stop(after_epoch=True), "It stops at the end of this epoch."),
        )
        super().__init__(
            [
                widgets.HTML(markup.muted("What you ask for here is done after the current step.")),
                row(self.rate, self.set_rate),
                row(self.save, self.evaluate, self.sample, self.last_epoch),
            ]
        )

    def change_rate(self) -> None:
        """Use the rate in the box from the next step on; what is no number stays there, with the reason."""
        text = self.rate.value.strip()

        def change(run: Run) -> None:
            run.set_learning_rate(number(text, float, "learning rate", "1e-4"))

        self._act(change, f"The peak learning rate is {text} from the next step on.")

    def _does(self, wish: Callable[[Run], Any], answer: str) -> Callable[[], None]:
        return lambda: self._act(wish, answer)
