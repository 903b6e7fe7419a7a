"""A real JupyterLab in a real Chromium, for tests and for screenshots.

with serve(folder) as server, chromium() as browser:
    notebook = server.open(browser, ["import ftkit", "ftkit.Lab()"])
    notebook.run(0)
    notebook.run(1)
    notebook.page.get_by_role("button", name="Start").click()
    notebook.theme("dark")
    notebook.screenshot("lab.png")
    assert notebook.errors == []
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nbformat
import requests
from playwright.sync_api import Browser, ConsoleMessage, Locator, Page, sync_playwright

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
_CHROMIUM_ARGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
_SETTINGS = {
    "@jupyterlab/apputils-extension:notification": {
        "fetchNews": "false",
        "checkForUpdates": False,
        "doNotDisturbMode": True,
    },
    "@jupyterlab/notebook-extension:tracker": {"windowingMode": "none"},
}
# What JupyterLab itself writes to the console on a healthy page
_HARMLESS = ("favicon", "the server responded with a status of 404", "ResizeObserver loop", "WebGL")


class Notebook:
    """One notebook open in JupyterLab. `errors` collects console errors and page errors as they come."""

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        self.errors: list[str] = []
        self.url = url
        page.on("pageerror", lambda error: self.errors.append(f"page error: {error}"))
        page.on("console", self._on_console)
        self._open()

    def __repr__(self) -> str:
        return f"Notebook({self.url!r})"

    def _on_console(self, message: ConsoleMessage) -> None:
        if message.type == "error" and not any(word in message.text for word in _HARMLESS):
            self.errors.append(f"console: {message.text}")

    def _open(self) -> None:
        self.page.goto(self.url)
        self.page.wait_for_function(
            "() => window.jupyterapp?.shell?.currentWidget?.sessionContext?.isReady", timeout=60_000
        )
        self.page.wait_for_function(
            "() => window.jupyterapp.shell.currentWidget.sessionContext.session?.kernel?.status === 'idle'",
            timeout=60_000,
        )

    def command(self, name: str, **arguments: Any) -> Any:
        """Run a JupyterLab command and wait for it."""
        script = "([name, args]) => window.jupyterapp.commands.execute(name, args).then(() => null)"
        return self.page.evaluate(script, [name, arguments])

    def cell(self, index: int) -> Locator:
        """A cell, to look for things inside it by role and name."""
        return self.page.locator(".jp-Notebook-cell, .jp-Notebook .jp-Cell").nth(index)

    def output(self, index: int) -> Locator:
        """The output area of a code cell."""
        return self.cell(index).locator(".jp-Cell-outputWrapper")

    def start_cell(self, index: int) -> None:
        """Run a cell and return at once."""
        self.page.evaluate(
            """index => {
                const content = window.jupyterapp.shell.currentWidget.content;
                content.activeCellIndex = index;
                window.jupyterapp.commands.execute("notebook:run-cell");
            }""",
            index,
        )

    def run(self, index: int, timeout: float = 60.0) -> None:
        """Run a cell and wait until it has finished; an exception in it fails."""
        before = self.execution_count(index)
        self.start_cell(index)
        self.page.wait_for_function(
            """([index, before]) => {
                const model = window.jupyterapp.shell.currentWidget.content.widgets[index].model;
                const count = model.executionCount;
                return count !== null && count !== before && model.executionState !== "running";
            }""",
            arg=[index, before],
            timeout=timeout * 1000,
        )
        errors = [o for o in self.outputs(index) if o["output_type"] == "error"]
        assert not errors, f"cell {index}: {errors[0]['ename']}: {errors[0]['evalue']}"

    def run_all(self, timeout: float = 120.0) -> None:
        """Run every code cell in order."""
        count = self.page.evaluate("() => window.jupyterapp.shell.currentWidget.content.widgets.length")
        for index in range(count):
            if self.page.evaluate(
                "i => window.jupyterapp.shell.currentWidget.content.widgets[i].model.type === 'code'", index
            ):
                self.run(index, timeout)

    def execution_count(self, index: int) -> int | None:
        """The number in a cell's brackets."""
        return self.page.evaluate(
            "i => window.jupyterapp.shell.currentWidget.content.widgets[i].model.executionCount ?? null",
            index,
        )

    def outputs(self, index: int) -> list[dict[str, Any]]:
        """The outputs of a code cell, as in the notebook file."""
        return self.page.evaluate(
            "i => window.jupyterapp.shell.currentWidget.content.widgets[i].model.outputs.toJSON()", index
        )

    def text(self, index: int) -> str:
        """What a cell printed, and the plain text of its results."""
        pieces = []
        for output in self.outputs(index):
            piece = output.get("text") or output.get("data", {}).get("text/plain", "")
            pieces.append("".join(piece) if isinstance(piece, list) else piece)
        return "".join(pieces)

    def theme(self, name: str) -> None:
        """Change to JupyterLab's `light` or `dark` theme."""
        self.command("apputils:change-theme", theme=f"JupyterLab {name.capitalize()}")
        self.page.wait_for_function(
            "light => document.body.dataset.jpThemeLight === light", arg=str(name == "light").lower()
        )
        self.page.wait_for_timeout(300)

    def save(self) -> None:
        """Save the notebook, widget state included."""
        self.command("docmanager:save")

    def reload(self) -> None:
        """Save, and open the page again: the kernel lives on."""
        self.save()
        self._open()

    def screenshot(self, path: str | Path, cell: int | None = None) -> None:
        """A picture of a cell's output, or of the whole page."""
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        target = self.page if cell is None else self.output(cell)
        target.screenshot(path=str(path))

    def close(self) -> None:
        """Shut the kernel down and close the page."""
        self.page.evaluate("() => window.jupyterapp.shell.currentWidget?.sessionContext?.shutdown()")
        self.page.context.close()


class Server:
    """A JupyterLab server of its own, with its own settings and no news, tips or update checks."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "notebooks"
        self.folder.mkdir(parents=True, exist_ok=True)
        settings = folder / "app_settings"
        settings.mkdir(exist_ok=True)
        (settings / "overrides.json").write_text(json.dumps(_SETTINGS))
        self.log = folder / "server.log"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        names = ("JUPYTER_CONFIG_DIR", "JUPYTERLAB_SETTINGS_DIR", "JUPYTERLAB_WORKSPACES_DIR", "IPYTHONDIR")
        own = {name: str(folder / name.lower()) for name in names}
        options = {
            "ServerApp.ip": "127.0.0.1",
            "ServerApp.port": port,
            "ServerApp.port_retries": 0,
            "ServerApp.root_dir": self.folder,
            "IdentityProvider.token": "",
            "ServerApp.password": "",
            "LabApp.expose_app_in_browser": True,
            "LabApp.app_settings_dir": settings,
            "LabApp.news_url": None,
        }
        self._process = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"]
            + [f"--{name}={value}" for name, value in options.items()],
            env=os.environ | own,
            stdout=self.log.open("w"),
            stderr=subprocess.STDOUT,
        )

    def __repr__(self) -> str:
        return f"Server({self.url!r})"

    def wait(self, timeout: float = 60.0) -> None:
        """Wait until it answers."""
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            if self._process.poll() is not None:
                raise RuntimeError(f"JupyterLab ended at once:\n{self.log.read_text()[-3000:]}")
            try:
                requests.get(f"{self.url}/api", timeout=2).raise_for_status()
            except requests.RequestException:
                time.sleep(0.2)
            else:
                return
        raise TimeoutError(f"JupyterLab does not answer:\n{self.log.read_text()[-3000:]}")

    def stop(self) -> None:
        """End the server and its kernels."""
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()

    def open(
        self,
        browser: Browser,
        cells: list[str] | Path,
        *,
        width: int = 1280,
        height: int = 1000,
        simple: bool = True,
    ) -> Notebook:
        """Open a new notebook with these code cells, or a copy of a notebook file, in a page of its own.

        `simple` hides the side bars, so that `width` is about the width of the notebook.
        """
        name = f"{uuid.uuid4().hex[:8]}.ipynb"
        if isinstance(cells, Path):
            book = nbformat.read(cells, as_version=4)
        else:
            book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in cells])
        # without a kernelspec a chooser dialog blocks the page
        book.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
        nbformat.write(book, self.folder / name)
        page = browser.new_context(viewport={"width": width, "height": height}).new_page()
        notebook = Notebook(page, f"{self.url}/lab/tree/{name}?reset")
        if simple:
            page.evaluate("() => { window.jupyterapp.shell.mode = 'single-document'; }")
            page.evaluate("() => window.jupyterapp.shell.collapseLeft()")
        return notebook


@contextmanager
def serve(folder: Path) -> Iterator[Server]:
    """A running JupyterLab whose files are below `folder`."""
    server = Server(Path(folder))
    try:
        server.wait()
        yield server
    finally:
        server.stop()


@contextmanager
def chromium() -> Iterator[Browser]:
    """The system's Chromium, without a window."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=_CHROMIUM_ARGS)
        try:
            yield browser
        finally:
            browser.close()
