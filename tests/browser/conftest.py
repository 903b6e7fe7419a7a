"""Fixtures of the browser tests: one server and one Chromium a session, one notebook a test."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.importorskip("playwright", reason="playwright is not installed")

from playwright.sync_api import Browser, expect

from .jupyter import CHROMIUM, Notebook, Server, chromium, serve

expect.set_options(timeout=30_000)  # as all other waiting; machines are shared


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything in this folder carries the mark `browser` and comes last; without a Chromium it is skipped.

    Last, because playwright leaves its event loop running in the main thread: `asyncio.run` fails after it.
    What fails is tried once more, and pytest's closing line counts it: on a machine that others use, too, a
    page of JupyterLab was seen to stand still now and then.
    """
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.browser)
            item.add_marker(pytest.mark.flaky(reruns=1))
            item.add_marker(pytest.mark.timeout(400, func_only=True))  # else only the first try has one
            if CHROMIUM is None:
                item.add_marker(pytest.mark.skip(reason="no chromium on this machine"))
    items.sort(key=lambda item: item.get_closest_marker("browser") is not None)


@pytest.fixture(scope="session")
def jupyter_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A JupyterLab server for the session."""
    with serve(tmp_path_factory.mktemp("jupyter")) as server:
        yield server


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Chromium for the session."""
    with chromium() as running:
        yield running


@pytest.fixture
def open_notebook(jupyter_server: Server, browser: Browser) -> Iterator[Callable[..., Notebook]]:
    """A factory: `open_notebook(["cell", ...], width=1280)` opens a notebook, closed after the test."""
    shutil.rmtree(jupyter_server.folder / "runs", ignore_errors=True)  # a first try's: names are taken once
    opened: list[Notebook] = []

    def open_(cells: list[str] | Path, **options: int | bool) -> Notebook:
        opened.append(jupyter_server.open(browser, cells, **options))
        return opened[-1]

    yield open_
    for notebook in opened:
        notebook.close()
