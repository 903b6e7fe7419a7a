"""The event log: nothing torn spoils what comes after it, nothing refused is lost or silent."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ftkit.runs import digest, events
from ftkit.runs.events import EventLog

TRAIN = {"epoch": 0.1, "accuracy": 0.5, "learning_rate": 1e-4, "memory_gb": 1.0, "elapsed": 1.0}


@pytest.fixture
def log(tmp_path: Path) -> EventLog:
    return EventLog(tmp_path / "events.jsonl")


def train(log: EventLog, *steps: int) -> None:
    for step in steps:
        log.append("train", step=step, loss=1 / step, **TRAIN)


def steps_in(log: EventLog) -> list[int]:
    return [event["step"] for event in log.read() if event["kind"] == "train"]


@contextmanager
def full_at(size: int) -> Iterator[None]:
    """No file of this process may grow beyond `size`: a write is cut there, as on a full disk."""
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))


def test_a_torn_last_line_spoils_nothing_and_counts_for_nothing(log: EventLog) -> None:
    train(log, 1, 2)
    with log.path.open("ab") as file:
        file.write(b'{"time": 1.0, "kind": "train", "step": 3, "lo')
    assert steps_in(log) == [1, 2]
    for reader in (log, EventLog(log.path)):
        train(reader, 4)
    assert steps_in(log) == [1, 2, 4, 4]
    assert [event["n"] for event in log.read()] == [0, 1, 3, 4]
    assert log.read(3) == log.read()[2:]
    assert log.summary().step == 4


def test_damaged_bytes_lose_only_their_own_lines(log: EventLog) -> None:
    log.append("state", state="running", detail=None, error=None)
    train(log, *range(1, 8))
    lines = log.path.read_bytes().split(b"\n")
    lines[2] = b"\x00" * 40
    lines[3] = b"[" * 100_000
    lines[4] = lines[4].replace(b'"step": 4', b'"stop": 4')
    lines[5] = lines[5].replace(b'"step": 5', b'"step": 1e999')
    lines[6] = b"\xff\xfe" + lines[6]
    log.path.write_bytes(b"\n".join(lines))
    log = EventLog(log.path)
    assert [event["n"] for event in log.read()] == [0, 1, 7]
    summary = log.summary()
    assert (summary.state, summary.step) == ("running", 7)
    assert summary.curves["loss"].points()[0].tolist() == [1, 7]


def test_processes_that_append_at_once_do_not_mix_their_lines(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from ftkit.runs.events import EventLog\n"
        "log = EventLog(Path(sys.argv[1]))\n"
        "for step in range(300): log.append('note', level='info', text=sys.argv[2] * 500 + str(step))"
    )
    path = tmp_path / "events.jsonl"
    many = [subprocess.Popen([sys.executable, "-c", code, str(path), name]) for name in "abc"]
    assert [process.wait(60) for process in many] == [0, 0, 0]
    # An empty line may stand between two: a process that sees another's line half written begins a new one.
    texts = [json.loads(line)["text"] for line in path.read_text().splitlines() if line]
    assert sorted(texts) == sorted(name * 500 + str(step) for name in "abc" for step in range(300))
    numbers = [event["n"] for event in EventLog(path).read()]
    assert len(numbers) == 900
    assert numbers == sorted(set(numbers))


def test_states_checkpoints_and_notes_are_on_the_disk_when_append_returns(
    log: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []

    def fsync(descriptor: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        os.fdatasync(descriptor)

    monkeypatch.setattr(events.os, "fsync", fsync)
    train(log, 1)
    assert synced == [str(log.path.parent)]  # the new file's name
    train(log, 2)
    log.append("stage", text="Training", fraction=None)
    assert len(synced) == 1
    log.append("state", state="running", detail=None, error=None)
    log.append("checkpoint", step=2, path="checkpoints/checkpoint-2")
    log.append("note", level="info", text="a remark")
    assert synced[1:] == [str(log.path)] * 3


def test_what_a_full_disk_refuses_is_shown_kept_and_written_later(
    log: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "RETRY_INTERVAL", 0.0)
    train(log, *range(1, 11))
    with full_at(log.path.stat().st_size + 300):
        train(log, *range(11, 31))
        log.append("state", state="failed", detail=None, error=None)
        assert not log.path.read_bytes().endswith(b"\n")
        shown = log.summary()
        assert (shown.state, shown.step) == ("failed", 30)
        assert shown.curves["loss"].points()[0].tolist() == list(range(1, 31))
        assert "cannot be written" in shown.notes[0].text
        assert "Make room" in shown.notes[0].text
        assert log.summary() is shown
        assert EventLog(log.path).summary().step < 30
    assert log.summary().state == "failed"  # looking at it is enough: what ended appends no more
    assert steps_in(EventLog(log.path)) == list(range(1, 31))
    assert [note.level for note in EventLog(log.path).summary().notes] == ["warning", "info"]
    train(log, 31)
    assert steps_in(log) == list(range(1, 32))


def test_a_log_that_stays_unwritable_takes_bounded_memory(
    log: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "RETRY_INTERVAL", 0.0)
    monkeypatch.setattr(events, "MOST_UNWRITTEN", 20)
    train(log, 1)
    with full_at(log.path.stat().st_size):
        log.append("eval", step=1, epoch=0.1, loss=0.5, seconds=1.0)
        train(log, *range(2, 100))
        assert len(log._unwritten) <= 21
        assert log.summary().step == 99
    train(log, 100)
    read = EventLog(log.path)
    assert read.summary().eval_loss == 0.5
    assert "steps of the meantime are missing" in read.summary().notes[-1].text
    assert steps_in(read)[-1] == 100


def test_a_log_that_cannot_be_begun_is_an_error(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "nowhere" / "events.jsonl")
    with pytest.raises(FileNotFoundError):
        train(log, 1)
    log.path.parent.mkdir()
    train(log, 2)
    assert steps_in(log) == [2]


@pytest.mark.parametrize("how", ["cut", "replaced", "longer"])
def test_a_log_that_was_replaced_is_read_again(log: EventLog, tmp_path: Path, how: str) -> None:
    train(log, *range(1, 50))
    before = log.summary()
    if how == "cut":
        os.truncate(log.path, 1_000)
    else:
        other = EventLog(tmp_path / "other.jsonl")
        train(other, *range(1, 10 if how == "replaced" else 90))
        other.path.replace(log.path)
    after = log.summary()
    assert after is not before
    assert after.step == steps_in(log)[-1] == steps_in(EventLog(log.path))[-1] != 49
    train(log, 100)
    assert log.summary() is after
    assert log.summary().step == 100


def test_reading_and_writing_from_many_threads(log: EventLog) -> None:
    train(log, 1)
    seen: list[int] = []

    def read() -> None:
        since = 0
        while not seen or seen[-1] < 400:
            for event in log.read(since):
                since = event["n"] + 1
                seen.append(event["step"])
            log.summary().curves["loss"].points()

    reader = threading.Thread(target=read)
    reader.start()
    train(log, *range(2, 401))
    reader.join(30)
    assert seen == list(range(1, 401))


def long_log(path: Path, count: int) -> EventLog:
    """A log of `count` steps, written as a run writes it but in one go."""
    line = json.dumps({"time": 1.0, "kind": "train", "step": -1, "loss": -2, **TRAIN})
    with path.open("w") as file:
        for step in range(1, count + 1):
            file.write(line.replace("-1", str(step), 1).replace("-2", f"{1 + step % 10 / 10}", 1) + "\n")
    return EventLog(path)


@pytest.fixture
def small_digests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digest, "SAVE_EVERY", 50_000)
    monkeypatch.setattr(events, "SAVE_EVERY", 50_000)


def digest_of(log: EventLog) -> Path:
    return log.path.with_name(".events.digest")


@pytest.mark.usefixtures("small_digests")
def test_a_reader_goes_on_from_the_digest(log: EventLog, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = long_log(log.path, 3_000).summary().to_json()
    assert digest_of(log).is_file()
    parsed: list[bytes] = []
    monkeypatch.setattr(digest, "parse", lambda line: parsed.append(line) or json.loads(line))
    reader = EventLog(log.path)
    train(reader, 3_001)
    assert len(parsed) == 0
    assert reader.summary().step == 3_001
    assert len(parsed) == 1
    assert [event["step"] for event in reader.read(2_990)] == list(range(2_991, 3_002))
    assert reader.read(1_500)[0]["n"] == 1_500
    assert reader.read()[0]["n"] == 0
    digest_of(log).unlink()
    whole_again = EventLog(log.path).summary().to_json()
    assert whole_again == reader.summary().to_json() != whole


@pytest.mark.usefixtures("small_digests")
def test_a_writer_leaves_a_digest_without_anyone_reading(log: EventLog) -> None:
    train(log, *range(1, 500))
    assert digest_of(log).is_file()
    assert not [path for path in log.path.parent.iterdir() if path not in (log.path, digest_of(log))]


def flip(text: bytes) -> bytes:
    return text[:500] + bytes([text[500] ^ 1]) + text[501:]


def forge(text: bytes) -> bytes:
    """A digest whose checksum is right and whose values are not."""
    import hashlib

    body = text.partition(b"\n")[2].replace(b'"step": 3000', b'"step": "<script>"')
    assert b"<script>" in body
    return hashlib.sha256(body).hexdigest().encode() + b"\n" + body


@pytest.mark.usefixtures("small_digests")
@pytest.mark.parametrize("damage", [flip, forge, lambda text: text[:700], lambda _: b"", lambda _: b"[]\n{}"])
def test_a_damaged_digest_only_costs_time(log: EventLog, damage: Callable[[bytes], bytes]) -> None:
    whole = long_log(log.path, 3_000).summary().to_json()
    digest_of(log).write_bytes(damage(digest_of(log).read_bytes()))
    assert EventLog(log.path).summary().to_json() == whole


@pytest.mark.usefixtures("small_digests")
def test_a_digest_of_another_log_is_not_believed(log: EventLog) -> None:
    long_log(log.path, 3_000).summary()
    log.path.unlink()
    long_log(log.path, 100)
    assert EventLog(log.path).summary().step == 100
    for step in range(5_000, 5_010):
        train(log, step)
    assert EventLog(log.path).summary().step == 5_009


def test_a_digest_that_cannot_be_written_is_done_without(
    log: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(digest, "SAVE_EVERY", 50_000)
    long_log(log.path, 3_000)
    with full_at(1_000):
        assert EventLog(log.path).summary().step == 3_000
    assert [path.name for path in log.path.parent.iterdir()] == ["events.jsonl"]


def test_a_line_without_end_is_not_held_in_memory(log: EventLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digest, "LONGEST_LINE", 10_000)
    train(log, 1)
    with log.path.open("ab") as file:
        file.write(b"\x00" * 55_000)
    train(log, 2)
    assert steps_in(EventLog(log.path)) == [1, 2]
    assert [event["n"] for event in EventLog(log.path).read()] == [0, 2]


def test_half_a_character_is_written_in_json_s_own_way(log: EventLog) -> None:
    log.append("note", level="info", text="\udc80 é")
    assert log.read()[0]["text"] == "? é", "a page takes no halves"
