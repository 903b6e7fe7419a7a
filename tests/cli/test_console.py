from __future__ import annotations

import pytest

from ftkit.cli.console import printable, show_error
from ftkit.errors import FtkitError


def test_text_of_others_cannot_steer_the_terminal() -> None:
    assert printable("a\x1b[2Jb\x07c\r\n\td é 文") == "a[2Jbc\n\td é 文"


def test_square_brackets_in_an_error_are_shown_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    show_error(FtkitError("row 3: [bold] is not a list", "Write [/tmp/x]."))
    shown = capsys.readouterr().err
    assert "row 3: [bold] is not a list" in shown
    assert "Write [/tmp/x]." in shown
