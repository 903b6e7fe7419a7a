"""The README's pictures, taken of the real thing: the starter model, a quick run, a real JupyterLab.

    python -m tests.browser.screenshots notebooks/images

Takes about three minutes on two CPU cores.
"""

from __future__ import annotations

import re
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import expect

from tests.browser.jupyter import Notebook, chromium, serve

CELLS = ["import ftkit", "lab = ftkit.Lab()\nlab", "lab.train.preset('quick look')"]
QUESTION = "Please send five blue lamps to Anna in Lisbon by Friday."


def take(notebook: Notebook, folder: Path) -> None:
    """Go through the Lab by clicking; a picture of the Data, Train, Monitor and Chat panels on the way."""
    notebook.run(0)
    notebook.run(1)
    lab = notebook.output(1)

    def tab(name: str) -> None:
        lab.get_by_role("tab", name=re.compile(f"^{name}")).click()

    def button(name: str) -> None:
        lab.get_by_role("button", name=name, exact=True).locator("visible=true").click()

    tab("Data")
    expect(lab.locator(".ftk-tokens").first).to_be_visible(timeout=120_000)
    notebook.screenshot(folder / "data.png", 1)
    tab("Train")
    notebook.run(2)
    expect(lab.get_by_text("20 steps: enough to see").locator("visible=true")).to_be_visible()
    button("Choose another objective")
    expect(lab.get_by_role("radiogroup", name="Objective")).to_be_visible()
    notebook.screenshot(folder / "train.png", 1)
    button("Done")
    button("Start")
    tab("Monitor")
    expect(lab.get_by_text("finished", exact=True).first).to_be_visible(timeout=300_000)
    notebook.page.wait_for_timeout(1500)
    notebook.screenshot(folder / "monitor.png", 1)
    tab("Chat")
    notebook.theme("dark")
    lab.get_by_role("radio", name="Side by side").check()
    box = lab.get_by_role("textbox", name="Message", exact=True)
    box.fill(QUESTION)
    box.press("Enter")
    expect(lab.get_by_text("Regenerate", exact=True)).to_have_count(2, timeout=120_000)
    expect(lab.get_by_role("button", name="Send")).to_be_visible(timeout=120_000)
    notebook.page.wait_for_timeout(500)
    notebook.screenshot(folder / "chat.png", 1)
    assert notebook.errors == []


def main(folder: Path) -> None:
    """Write data.png, train.png, monitor.png and chat.png into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as work, serve(Path(work)) as server, chromium() as browser:
        notebook = server.open(browser, CELLS, height=1800)
        try:
            take(notebook, folder)
        finally:
            notebook.close()


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "notebooks/images"))
