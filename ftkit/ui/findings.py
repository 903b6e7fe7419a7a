"""Pre-flight findings, each with a button that goes to its rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import ipywidgets as widgets

from ftkit.ui.closing import close_all
from ftkit.ui.markup import escape
from ftkit.ui.panels.base import button

if TYPE_CHECKING:
    from ftkit.data.preflight import Finding


class FindingsView(widgets.VBox):
    """A list of findings.

    Parameters
    ----------
    show_rows
        Called with the rows' numbers in the source and the finding's title when a person asks to see them.
    """

    def __init__(self, show_rows: Callable[[Sequence[int], str], None]) -> None:
        self._show = show_rows
        super().__init__()
        self.add_class("ftk-findings")

    def show(self, findings: Sequence[Finding]) -> None:
        """Show these instead of the ones before."""
        before = tuple(self.children)  # type: ignore[has-type]
        self.children = tuple(self._line(finding) for finding in findings)
        close_all(*before)
        if self.comm is None:  # the panel was closed while its rows were read
            close_all(*self.children)

    def _line(self, finding: Finding) -> widgets.Widget:
        look = "bad" if finding.level == "error" else "warn"
        count = f" ({finding.count:,})" if finding.count else ""
        text = widgets.HTML(
            f'<div class="ftk-note ftk-{look}"><b>{escape(finding.title)}{count}</b> '
            f"{escape(finding.message)}</div>"
        )
        text.add_class("ftk-grow")
        children: list[widgets.Widget] = [text]
        if finding.rows:
            children.append(self._show_rows(finding))
        box = widgets.Box(children)
        box.add_class("ftk-row")
        return box

    def _show_rows(self, finding: Finding) -> widgets.Button:
        text = f"Look at the rows of: {finding.title}"
        return button("Show rows", text, lambda: self._show(finding.rows, finding.title))
