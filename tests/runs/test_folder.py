"""The run folder: who asks about it sees only runs, and what a killed process left half made goes."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

import ftkit
from ftkit import manifest
from ftkit.runs.folder import RunFolder


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder.create(ftkit.Recipe(output={"folder": tmp_path, "name": "one"}))


def test_many_who_ask_at_once_do_not_take_one_another_for_a_run(folder: RunFolder) -> None:
    """Each holds the lock for a moment while it looks: that is not a run that goes on."""
    seen: list[bool] = []

    def ask() -> None:
        own = RunFolder.open(folder.path)
        seen.extend(own.owner_alive() for _ in range(100))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(seen) == 400
    assert not any(seen)


def test_who_carries_it_out_is_seen(folder: RunFolder) -> None:
    with folder.carried_out():
        assert RunFolder.open(folder.path).owner_alive()
    assert not RunFolder.open(folder.path).owner_alive()


def test_what_a_killed_process_left_half_written_goes_when_it_is_old(folder: RunFolder) -> None:
    names = (".events.digest-x1y2_z3a", ".recipe.yaml-abcdefgh", ".process.json-00000000")
    for name in names:
        (folder.path / name).write_text("half")
    own = folder.path / ".my-projects"  # a person's, though its name looks alike
    own.mkdir()
    ftkit.attach(folder.path)
    assert all((folder.path / name).exists() for name in names), "somebody may be writing them"
    long_ago = time.time() - manifest.STALE - 60
    for name in names:
        os.utime(folder.path / name, (long_ago, long_ago))
    ftkit.attach(folder.path)
    assert not any((folder.path / name).exists() for name in names)
    assert own.is_dir()
    assert (folder.path / "recipe.yaml").is_file()


def test_a_result_that_was_never_whole_goes_when_the_run_goes_on(folder: RunFolder) -> None:
    for name in (".adapter-abcdefgh", ".adapter-old-abcdefgh", ".model-abcdefgh"):
        (folder.path / name).mkdir()
        (folder.path / name / "weights").write_bytes(bytes(100))
    (folder.path / "adapter").mkdir()
    ftkit.attach(folder.path)
    assert (folder.path / ".adapter-abcdefgh").exists(), "a run may be building it"
    with folder.carried_out():
        assert [path.name for path in folder.path.iterdir() if path.is_dir()] == ["adapter"]
