"""The rows saved as OpenAI messages: a file name and a button."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import ipywidgets as widgets

from ftkit.errors import DataError
from ftkit.ui import markup
from ftkit.ui.panels.base import button, row
from ftkit.ui.ticker import Worker

if TYPE_CHECKING:
    from pathlib import Path

    from ftkit.data import Dataset

_ABOUT = (
    "Whatever the rows were, they become one JSON object a line with messages of role and content, which "
    "other tools read. The held-out rows go into a file of their own. A file that is there already is kept."
)


class ExportRows(widgets.VBox):
    """Writes the rows that are shown.

    Parameters
    ----------
    dataset
        Gives them, or None.
    """

    def __init__(self, dataset: Callable[[], Dataset | None]) -> None:
        self._dataset = dataset
        self._writing: Worker[dict[Path, int]] = Worker(self._written, self._failed)
        self.path = widgets.Text(description="File", value="messages.jsonl")
        self.path.add_class("ftk-inline")
        self.save = button(
            "Save as OpenAI messages", "Write the rows as JSON lines with OpenAI's messages", self.write
        )
        self.says = widgets.HTML()
        super().__init__([widgets.HTML(markup.muted(_ABOUT)), row(self.path, self.save), self.says])

    def write(self) -> None:
        """Write the file. Returns at once; `wait()` waits."""
        from ftkit.data import write_messages

        dataset, path = self._dataset(), self.path.value.strip()
        if dataset is None or not path:
            self._failed(DataError("There is nothing to write, or no file to write to.", "Name a file."))
            return
        self.save.disabled = True
        self.says.value = markup.muted("Writing …")
        self._writing.submit(lambda: write_messages(dataset, path))

    def wait(self, timeout: float | None = 60.0) -> None:
        """Wait until the file is written."""
        self._writing.wait(timeout)

    def _written(self, files: dict[Path, int]) -> None:
        self.save.disabled = False
        counts = "; ".join(f"{count:,} rows in {path}" for path, count in files.items())
        self.says.value = markup.note(counts, "ok")

    def _failed(self, error: Exception) -> None:
        self.save.disabled = False
        self.says.value = markup.failure(error)
