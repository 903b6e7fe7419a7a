from __future__ import annotations

import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import nbformat
import pytest

from ftkit.cli import lab as lab_command
from ftkit.cli import main


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_without_jupyterlab_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    assert main(["lab"]) == 1
    assert 'pip install "ftkit[lab]"' in capsys.readouterr().err


def test_an_absent_notebook_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lab", str(tmp_path / "absent.ipynb")]) == 1
    assert "There is no notebook at" in capsys.readouterr().err


def test_the_packaged_notebook_is_valid_and_without_outputs() -> None:
    notebook = nbformat.read(lab_command.packaged_notebook(), as_version=4)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    assert not any(cell.get("outputs") for cell in notebook.cells)


def test_the_server_listens_here_only_and_keeps_its_token(tmp_path: Path) -> None:
    port = free_port()
    environment = os.environ | {"JUPYTER_CONFIG_DIR": str(tmp_path / "config"), "HOME": str(tmp_path)}
    words = [sys.executable, "-m", "ftkit", "lab", "--no-browser", "--port", str(port)]
    server = subprocess.Popen(
        words, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        assert answer(port, "/api") == 200
        assert answer(port, "/api/contents") == 403
        made = json.loads((tmp_path / "ftkit-lab.ipynb").read_text())
        assert made == json.loads(lab_command.packaged_notebook().read_text())
    finally:
        server.send_signal(signal.SIGTERM)
        printed, _ = server.communicate(timeout=30)
    assert f"http://127.0.0.1:{port}/lab/tree/ftkit-lab.ipynb?token=" in printed


def test_an_own_notebook_in_the_working_folder_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ftkit-lab.ipynb").write_text("mine")
    monkeypatch.setattr(
        lab_command, "command", lambda *_, **__: [sys.executable, "-c", "raise SystemExit(7)"]
    )
    assert main(["lab"]) == 7
    assert (tmp_path / "ftkit-lab.ipynb").read_text() == "mine"


def answer(port: int, path: str, seconds: float = 60) -> int:
    """The HTTP status of the server's answer, once it answers."""
    end = time.monotonic() + seconds
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as reply:
                return int(reply.status)
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.2)
