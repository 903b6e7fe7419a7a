"""Nothing below ftkit reports home."""

from __future__ import annotations

import os
import subprocess
import sys

from ftkit.telemetry import OFF


def _asked(environment: dict[str, str], code: str) -> str:
    kept = {name: value for name, value in os.environ.items() if name not in OFF}
    done = subprocess.run(
        [sys.executable, "-c", code], env=kept | environment, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_importing_ftkit_switches_it_off_before_anything_is_imported() -> None:
    code = f"import ftkit, os; print(*(os.environ[name] for name in {list(OFF)!r}))"
    assert _asked({}, code).split() == list(OFF.values())
    own = _asked(
        {"HF_HUB_DISABLE_TELEMETRY": "0"}, "import ftkit, os; print(os.environ['HF_HUB_DISABLE_TELEMETRY'])"
    )
    assert own == "0"


def test_a_library_that_was_imported_before_is_told_again() -> None:
    code = (
        "import huggingface_hub.constants as c; first = c.HF_HUB_DISABLE_TELEMETRY; import ftkit; "
        "print(first, c.HF_HUB_DISABLE_TELEMETRY)"
    )
    assert _asked({}, code) == "False True"
