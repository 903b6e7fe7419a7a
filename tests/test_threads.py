"""Threads import of ftkit what they like while the main thread does."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import importlib
from ftkit import threads

failed = []

def take(module):
    try:
        importlib.import_module(module)
    except ImportError as error:
        failed.append(error)

thread = threads.begin(take, {there!r}, name="importing")
take({here!r})
thread.join()
assert not failed, failed
"""


@pytest.mark.parametrize(
    ("here", "there"),
    [
        ("ftkit.models.estimate", "ftkit.models.code"),
        ("ftkit.models.code", "ftkit.models.estimate"),
        ("ftkit.data.formats", "ftkit.data.preflight"),
        ("ftkit.runs.turns", "ftkit.runs.launch"),
    ],
)
def test_two_threads_import_modules_of_one_package(here: str, there: str) -> None:
    program = [sys.executable, "-c", PROGRAM.format(here=here, there=there)]
    done = subprocess.run(program, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
