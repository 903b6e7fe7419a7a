"""The harness itself: cells run, their errors fail, console errors are collected, kernels survive reloads."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from .jupyter import Notebook


def test_cells_run_and_survive_a_reload(open_notebook: Callable[..., Notebook]) -> None:
    notebook = open_notebook(
        [
            "x = 41\nprint('one')",
            "print(x + 1)",
            "import ipywidgets\nipywidgets.Button(description='Go')",
            "1 / 0",
        ]
    )
    notebook.run(0)
    notebook.run(2)
    assert notebook.output(2).get_by_role("button", name="Go").is_visible()
    with pytest.raises(AssertionError, match="ZeroDivisionError"):
        notebook.run(3)
    notebook.theme("dark")
    notebook.reload()
    notebook.output(2).get_by_role("button", name="Go").wait_for()
    notebook.run(1)
    assert notebook.text(1).strip() == "42"
    assert notebook.errors == []
    notebook.page.evaluate("() => console.error('boom')")
    assert notebook.errors == ["console: boom"]
