"""`ftkit lab`: JupyterLab, on this machine only, open on a notebook with the Lab."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from rich.markup import escape

from ftkit.cli.console import out
from ftkit.errors import FtkitError

NOTEBOOK = "ftkit-lab.ipynb"
_NO_UPDATES = "jupyterlab.handlers.announcements.NeverCheckForUpdate"


def lab(
    notebook: Path | None = None, *, port: int | None = None, browser: bool = True, extra: Sequence[str] = ()
) -> int:
    """Serve `notebook` with JupyterLab until it is ended, and return its exit status.

    Parameters
    ----------
    notebook
        The notebook to open. None: `ftkit-lab.ipynb` in the working folder, made when absent.
    port, browser, extra
        Port of the server, whether to open a browser, and further options for JupyterLab.

    Raises
    ------
    FtkitError
        When JupyterLab is not installed or the notebook does not exist.
    """
    if importlib.util.find_spec("jupyterlab") is None:
        raise FtkitError(
            "JupyterLab is not installed in this Python.", 'Install it: pip install "ftkit[lab]"'
        )
    if notebook is None:
        notebook = Path(NOTEBOOK)
        if not notebook.exists():
            shutil.copyfile(packaged_notebook(), notebook)
            out.print(f"Made {escape(str(notebook))}, a notebook with the Lab; it is yours to change.")
    elif not notebook.is_file():
        raise FtkitError(
            f"There is no notebook at {notebook}.", "Leave it out to get a new one with the Lab."
        )
    process = subprocess.Popen(command(notebook.resolve(), port=port, browser=browser, extra=extra))
    signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            # JupyterLab got the same Ctrl-C and asks whether to shut down.
            continue


def command(notebook: Path, *, port: int | None, browser: bool, extra: Sequence[str]) -> list[str]:
    """The command line of the server: 127.0.0.1 only, with JupyterLab's own token, and no calls home."""
    words = [sys.executable, "-m", "jupyterlab", "--ServerApp.ip=127.0.0.1"]
    words += ["--LabApp.news_url=None", f"--LabApp.check_for_updates_class={_NO_UPDATES}"]
    words.append(f"--ServerApp.root_dir={notebook.parent}")
    words.append(f"--LabApp.default_url=/lab/tree/{quote(notebook.name)}")
    if port is not None:
        words.append(f"--ServerApp.port={port}")
    if not browser:
        words.append("--no-browser")
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        words.append("--allow-root")  # in a container one is root, and JupyterLab would refuse
    return [*words, *extra]


def packaged_notebook() -> Path:
    """`lab.ipynb` as it came with ftkit: inside the wheel, or in a checkout's notebooks folder."""
    package = Path(__file__).resolve().parents[1]
    places = (package / "_notebooks" / "lab.ipynb", package.parent / "notebooks" / "lab.ipynb")
    for place in places:
        if place.is_file():
            return place
    raise FtkitError(
        "lab.ipynb did not come with this ftkit.", "Install ftkit again, or name a notebook of yours."
    )
