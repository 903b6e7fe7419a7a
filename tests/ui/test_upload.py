"""Files from the browser: written piece by piece, named safely, whole or not at all."""

from __future__ import annotations

import hashlib
import os
import time
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from ftkit.errors import DataError
from ftkit.ui.receiving import Receiving, safe_name
from ftkit.ui.upload import PIECE, Upload


class Page:
    """The browser side of an Upload: what its widget.js sends (a real one is in tests/browser)."""

    def __init__(self, folder: Path) -> None:
        self.got: list[Any] = []
        self.upload = Upload(self.got.append, folder)
        self.answers: list[dict[str, Any]] = []
        self.upload.send = lambda answer, buffers=None: self.answers.append(answer)  # type: ignore[method-assign]
        self.count = 0

    def ask(self, *buffers: bytes, **content: Any) -> dict[str, Any]:
        self.count += 1
        self.upload._asked(
            self.upload, {"id": f"upload:{self.count}", **content}, [memoryview(b) for b in buffers]
        )
        assert self.answers[-1]["id"] == f"upload:{self.count}"
        return self.answers[-1]

    def send(self, name: str, data: bytes) -> dict[str, Any]:
        self.ask(what="begin", name=name, size=len(data))
        for at in range(0, len(data), 7):
            self.ask(data[at : at + 7], what="piece", at=at)
        return self.ask(what="end")


def test_a_file_arrives_and_is_handed_on(tmp_path: Path) -> None:
    page = Page(tmp_path / "uploads")
    assert page.send("a.jsonl", b'{"text": "a"}\n' * 9)["path"] == str(tmp_path / "uploads" / "a.jsonl")
    assert page.got == []
    page.ask(what="all")
    assert page.got == [[tmp_path / "uploads" / "a.jsonl"]]
    assert (tmp_path / "uploads" / "a.jsonl").read_bytes() == b'{"text": "a"}\n' * 9


def test_the_same_file_again_is_that_file_and_another_keeps_both(tmp_path: Path) -> None:
    page = Page(tmp_path)
    page.send("a.jsonl", b"one")
    assert page.send("a.jsonl", b"one")["path"] == str(tmp_path / "a.jsonl")
    assert page.send("a.jsonl", b"two")["path"] == str(tmp_path / "a (2).jsonl")
    assert page.send("a.jsonl", b"two")["path"] == str(tmp_path / "a (2).jsonl")
    page.send("my.rows.v1.jsonl.gz", b"one")
    page.send("my.rows.v1.jsonl.gz", b"two")
    names = ["a (2).jsonl", "a.jsonl", "my.rows.v1 (2).jsonl.gz", "my.rows.v1.jsonl.gz"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("../../etc/rows.json", "rows.json"),
        ("C:\\data\\rows.csv", "rows.csv"),
        (".hidden.jsonl", "hidden.jsonl"),
        ("con.jsonl", "_con.jsonl"),
        ("a\x00b\n\u202e.json", "ab.json"),
        ("what?.csv", "what_.csv"),
        ("x" * 300 + ".jsonl.gz", "x" * 191 + ".jsonl.gz"),
        ("数" * 300 + ".jsonl", "数" * 64 + ".jsonl"),  # a file system counts bytes
        ("a." + "b" * 300 + ".csv", "a." + "b" * 194 + ".csv"),
        ("ümlaut 1.tsv", "ümlaut 1.tsv"),
    ],
)
def test_names_stay_in_their_folder(name: str, safe: str) -> None:
    assert safe_name(name) == safe


@pytest.mark.parametrize("name", ["", "..", "rows", "rows.exe", ".jsonl", "rows.pkl", "a/"])
def test_what_is_no_data_file_is_refused(name: str, tmp_path: Path) -> None:
    answer = Page(tmp_path).ask(what="begin", name=name, size=3)
    assert not answer["ok"]
    assert "no data file" in answer["error"]
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_left_of_what_is_cancelled_broken_or_closed(tmp_path: Path) -> None:
    page = Page(tmp_path)
    for end in ("cancel", "wrong place", "too long", "end", "close"):
        page.ask(what="begin", name="a.jsonl", size=10)
        assert page.ask(b"12345", what="piece", at=0)["at"] == 5
        match end:
            case "cancel":
                assert page.ask(what="cancel")["ok"]
            case "wrong place":
                assert not page.ask(b"12345", what="piece", at=7)["ok"]
            case "too long":
                assert not page.ask(b"1234567", what="piece", at=5)["ok"]
            case "end":
                assert "only in part" in page.ask(what="end")["error"]
            case "close":
                page.upload.close()
        assert list(tmp_path.iterdir()) == []
    assert "Choose the file again" in page.ask(b"1", what="piece", at=0)["error"]
    page.ask(what="begin", name="a.jsonl", size=1)
    assert "Reload the page" in page.ask(what="dance")["error"]


def test_the_same_name_from_two_pages_at_once_is_two_files(tmp_path: Path) -> None:
    one, other = Page(tmp_path), Page(tmp_path)
    for page in (one, other):
        page.ask(what="begin", name="a.jsonl", size=6)
    for page, data in ((one, b"111"), (other, b"222"), (one, b"111"), (other, b"222")):
        page.ask(data, what="piece", at=3 * (page.count > 1))
    assert Path(one.ask(what="end")["path"]).read_bytes() == b"111111"
    assert Path(other.ask(what="end")["path"]).read_bytes() == b"222222"
    assert len(list(tmp_path.iterdir())) == 2


def test_what_a_kernel_that_is_gone_left_is_removed(tmp_path: Path) -> None:
    for name, age in ((".old.jsonl.0.part", 7200), (".new.jsonl.1.part", 0)):
        (tmp_path / name).write_text("x")
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    Page(tmp_path).send("a.jsonl", b"one")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".new.jsonl.1.part", "a.jsonl"]


def test_the_page_is_answered_whatever_happens(tmp_path: Path) -> None:
    page = Page(tmp_path)
    page.upload._on_files = lambda _: 1 / 0
    page.send("a.jsonl", b"one")
    assert "ZeroDivisionError" in page.ask(what="all")["error"]
    page.send("b.jsonl", b"two")
    page.ask(what="begin", name="c.jsonl", size=9)
    page.upload._on_files = page.got.append
    assert page.ask(what="all")["ok"], "what could not be read in the browser is given up"
    assert page.got == [[tmp_path / "b.jsonl"]]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jsonl", "b.jsonl"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no disk here that is always full")
def test_a_disk_that_fills_up_is_said_and_leaves_nothing(tmp_path: Path) -> None:
    page = Page(tmp_path)
    page.ask(what="begin", name="a.jsonl", size=10 * PIECE)
    page.upload._receiving._file.close()
    page.upload._receiving._file = open("/dev/full", "wb")  # noqa: SIM115 - closed by what is tested
    answer = page.ask(b"x" * PIECE, what="piece", at=0)
    assert "No space left" in answer["error"]
    assert "Free some space" in answer["error"]
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_and_a_locked_folder_are_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="MB left"):
        Receiving(tmp_path, "a.jsonl", 10**18)
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="Nothing can be written"):
        Receiving(tmp_path / "file" / "x", "a.jsonl", 1)


def test_three_hundred_megabytes_take_no_memory_and_no_piece_holds_the_kernel_up(tmp_path: Path) -> None:
    piece, pieces = os.urandom(PIECE), 150
    page = Page(tmp_path)
    page.ask(what="begin", name="big.jsonl", size=PIECE * pieces)
    longest, digest = 0.0, hashlib.sha256()
    tracemalloc.start()
    for number in range(pieces):
        begun = time.perf_counter()
        page.ask(piece, what="piece", at=number * PIECE)
        longest = max(longest, time.perf_counter() - begun)
        digest.update(piece)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    path = Path(page.ask(what="end")["path"])
    assert peak < 3 * PIECE
    assert longest < 1.0
    with path.open("rb") as file:
        assert hashlib.file_digest(file, "sha256").digest() == digest.digest()
    path.unlink()
