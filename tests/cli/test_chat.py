from __future__ import annotations

import io
import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ftkit.cli import main


@pytest.fixture
def run_folder(recipe_file: Path, tmp_path: Path) -> Path:
    assert main(["run", str(recipe_file), "--set", "training.evals=0"]) == 0
    return tmp_path / "runs" / "counting"


@pytest.fixture
def say(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """`say(lines, arguments...)` chats with these lines as input and returns what was printed."""

    def say(lines: list[str], *arguments: str, status: int = 0) -> str:
        capsys.readouterr()
        monkeypatch.setattr(sys, "stdin", io.StringIO("".join(line + "\n" for line in lines)))
        assert main(["chat", *arguments, "--max-new-tokens", "4", "--seed", "1"]) == status
        shown = capsys.readouterr()
        return shown.out + shown.err

    return say


def test_each_line_is_answered_by_who_is_asked(run_folder: Path, say: Callable[..., str]) -> None:
    shown = say(["Count to 3.", "/mode base", "Again.", "/mode both", "Both."], str(run_folder))
    assert re.findall(r"(adapter|base)> ", shown) == ["adapter", "base", "base", "adapter"]


def test_a_run_is_found_by_its_name(run_folder: Path, say: Callable[..., str]) -> None:
    assert "base> " in say(["Hello."], "counting", "--folder", str(run_folder.parent), "--mode", "base")


def test_an_unknown_run_names_those_there_are(run_folder: Path, say: Callable[..., str]) -> None:
    shown = say([], "nope", "--folder", str(run_folder.parent), status=1)
    assert "There is no run 'nope'" in shown
    assert "counting" in shown


def test_commands_answer_and_an_unknown_one_shows_the_list(run_folder: Path, say: Callable[..., str]) -> None:
    shown = say(
        ["/system Be brief.", "/clear", "/mode nobody", "/what", "/quit", "never read"], str(run_folder)
    )
    assert "conversation starts again" in shown
    assert "Cleared." in shown
    assert "adapter, base, both" in shown or "base, adapter, both" in shown
    assert "/mode adapter|base|both" in shown
    assert "adapter>" not in shown


def test_a_message_that_is_too_long_is_an_error_and_the_chat_goes_on(
    run_folder: Path, say: Callable[..., str]
) -> None:
    shown = say(["x " * 2000, "Count to 1."], str(run_folder))
    assert "error:" in shown
    assert "adapter> " in shown


def test_ctrl_c_ends_the_reply_and_not_the_chat(run_folder: Path) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "ftkit", "chat", str(run_folder), "--max-new-tokens", "400"]
    process = subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True, preexec_fn=own_terminal
    )
    os.close(theirs)
    read_until(ours, "you> ")
    os.write(ours, b"Count to 3.\n")
    read_until(ours, "adapter>")
    os.write(ours, b"\x03")
    read_until(ours, "you> ")
    os.write(ours, b"/quit\n")
    assert process.wait(timeout=30) == 0
    os.close(ours)


def own_terminal() -> None:
    """In the child: standard input becomes the terminal whose Ctrl-C it gets."""
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def read_until(terminal: int, text: str) -> str:
    seen = ""
    while text not in seen:
        seen += os.read(terminal, 4096).decode(errors="replace")
    return seen
