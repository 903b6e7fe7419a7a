"""A short form of `make fuzz`: a few hundred cases of each target."""

from __future__ import annotations

from pathlib import Path

import pytest

from .__main__ import run
from .targets import TARGETS, Target

CASES = 250


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_nothing_but_ftkits_own_errors_escapes(
    target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FTKIT_CACHE", str(tmp_path))
    monkeypatch.setattr("ftkit.data.sandbox.SECONDS", 0.2)
    monkeypatch.setattr("ftkit.data.sandbox.BUDGET", 1_000_000)
    tried, refused, crashes = run(target, CASES)
    assert not crashes, "\n\n".join(crashes[:3])
    assert tried >= CASES
    assert refused < tried or target.name in ("gzip",)
