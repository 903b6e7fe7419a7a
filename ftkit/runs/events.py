"""The run's event log: one JSON object a line, appended, never rewritten.

A line that a crash has torn stays torn and counts for nothing; the next event begins a line of its own. An
event's number `n` is its line's, the same for every reader. What cannot be written (a full disk) is kept in
memory, shown by `EventLog.summary` all the same, and written when it can be.

Kinds and their fields, beside `time` (unix seconds) and `kind`:

- `recipe`: `text` (the Recipe as YAML), `sha256` (of the text); the first event
- `state`: `state`, `detail`, `error` (null, or `message`, `advice`, `traceback`)
- `branch`: `of` (the folder of the run that this one goes on from), `step`
- `sample`: `step`, `prompt`, `reply`
- `stage`: `text`, `fraction` (null where unknown)
- `plan`: `train_rows`, `eval_rows`, `train_tokens`, `trained_tokens`, `batches` (of an epoch),
  `packing_efficiency` (the share of the batches' token places that hold a token), `longest` (`row` and
  `tokens`), `refused`
- `steps`: `step` (where training starts), `total_steps`, `elapsed` (seconds of training before it)
- `train`: `step`, `epoch`, `loss` (nats a trained token), `accuracy` (the share of trained tokens that the
  model finds likeliest) and `entropy` (nats), null where the loss does not know them; `learning_rate`,
  `grad_norm`, `tokens` and `trained_tokens` (so far), `step_tokens` and `step_trained_tokens` (of this step),
  `tokens_per_second`, `memory_gb`, `gpu_memory_gb`, `elapsed` (seconds of training, pauses left out); of
  preferences also `chosen_reward`, `rejected_reward` and `margin` (the first less the second),
  `chosen_logprob` and `rejected_logprob` (nats a reply), `pair_accuracy` (the share of pairs whose chosen
  reply has the higher reward), and of rated replies `kl` (the reference point, nats); of distillation
  `divergence` (from the teacher) and `label_loss` (of the rows' own tokens), both nats a trained token
- `eval`: `step`, `epoch`, `loss`, `seconds`, and of the above `accuracy`, `entropy` and all of preferences
  and distillation
- `rollout`: `step`, `held_out`, `prompt` (its last turn), `reply`, `rewards` (by name): some of the replies
  that the model was rewarded for; `train` and `eval` then hold `reward`, `reward_std`, `reply_tokens`, `kl`
- `checkpoint`: `step`, `path` (inside the run folder)
- `note`: `level` (`info`, `warning` or `error`), `text`
"""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ftkit.manifest import sync
from ftkit.redact import redact
from ftkit.runs.digest import SAVE_EVERY, LogReader, parse
from ftkit.runs.summary import Summary

STAGE_INTERVAL = 0.2
"""Seconds between two stage events with the same text that are written down."""
DURABLE = frozenset({"state", "checkpoint", "note"})
"""Kinds that are on the disk, not only on their way to it, when `append` returns."""
RETRY_INTERVAL = 0.5
"""Seconds between two attempts to write what could not be written."""
MOST_UNWRITTEN = 20_000
"""Events kept in memory while the log cannot be written; of more, the oldest steps and stages go."""

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class EventLog:
    """Appends events to a file and reads them; safe to use from several threads and processes.

    Memory does not grow with the log: what is asked for is read from the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._writing = threading.Lock()
        self._reading = threading.RLock()
        self._reader = LogReader(path)
        self._unwritten: list[tuple[str, bytes]] = []
        self._trouble: _Trouble | None = None
        self._shown: _Shown | None = None
        self._next_try = 0.0
        self._undigested = 0
        self._last_stage: tuple[str, float] = ("", 0.0)

    def append(self, kind: str, **fields: Any) -> None:
        """Write one event. `DURABLE` kinds are then on the disk.

        Raises
        ------
        OSError
            When there is no log yet and none can be made. Later failures are kept to this object: the event
            is written with the next one that can be.
        """
        now = time.time()
        with self._writing:
            if kind == "stage" and not self._is_news(fields, now):
                return
            self._unwritten.append((kind, _line(kind, now, fields)))
            if self._trouble is None or kind in DURABLE or now >= self._next_try:
                self._flush()
            worth_a_digest = self._undigested >= SAVE_EVERY
            self._undigested %= SAVE_EVERY
        if worth_a_digest:
            self.summary()

    def read(self, since: int = 0) -> list[dict[str, Any]]:
        """Events numbered `since` and later, those of other processes included."""
        return list(self.events(since))

    def events(self, since: int = 0) -> Iterator[dict[str, Any]]:
        """The same one by one: for logs of any length."""
        with self._reading:
            self._reader.catch_up()
            events = self._reader.events(since)
        yield from events

    def summary(self) -> Summary:
        """What all events add up to, up to date; it goes on to change with later calls.

        It holds what could not be written yet, too. After the file was replaced it is another object.
        """
        waiting: list[bytes] = []
        if self._trouble is not None:
            with self._writing:
                if time.time() >= self._next_try:
                    self._flush()
                waiting = [line for _, line in self._unwritten]
        with self._reading:
            self._reader.catch_up()
            if not waiting:
                self._shown = None
                return self._reader.summary
            if self._shown is None or self._shown.behind != self._reader.lines:
                self._shown = _Shown(self._reader)
            return self._shown.with_(waiting)

    def _is_news(self, stage: dict[str, Any], now: float) -> bool:
        text, written = self._last_stage
        if stage["text"] == text and now - written < STAGE_INTERVAL and stage["fraction"] != 1.0:
            return False
        self._last_stage = (stage["text"], now)
        return True

    def _flush(self) -> None:
        """Write what waits to be written; where that fails, say so, and keep it."""
        try:
            self._write()
            if self._trouble is not None:
                self._note(*self._trouble.is_over())
                self._trouble = None
                self._write()
        except OSError as error:
            self._keep(error)

    def _write(self) -> None:
        """Write all in one piece, so that what others append does not come between."""
        if not self._unwritten:
            return
        data = b"".join(line for _, line in self._unwritten)
        with self.path.open("a+b", buffering=0) as log:
            end = log.seek(0, os.SEEK_END)
            if end:
                log.seek(end - 1)
            fresh = b"\n" if end and log.read(1) != b"\n" else b""
            written = log.write(fresh + data)
            self._undigested += written
            done = max((fresh + data)[:written].count(b"\n") - len(fresh), 0)
            durable = any(kind in DURABLE for kind, _ in self._unwritten[:done])
            del self._unwritten[:done]
            if self._unwritten:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            if durable:
                os.fsync(log.fileno())
        if not end:
            with contextlib.suppress(
                OSError
            ):  # the line is written; a folder that cannot be is no loss of it
                sync(self.path.parent)

    def _keep(self, error: OSError) -> None:
        now = time.time()
        self._next_try = now + RETRY_INTERVAL
        if self._trouble is None:
            if not self.path.exists():
                self._unwritten.clear()
                raise error
            self._trouble = _Trouble(error, now)
            self._note("warning", self._trouble.begins(self.path))
        surplus = len(self._unwritten) - MOST_UNWRITTEN
        if surplus > 0:
            passing = [i for i, (kind, _) in enumerate(self._unwritten) if kind in ("train", "stage")]
            lost = set(passing[:surplus])
            self._unwritten = [each for i, each in enumerate(self._unwritten) if i not in lost]
            self._trouble.lost += len(lost)
            self._shown = None

    def _note(self, level: str, text: str) -> None:
        self._unwritten.append(("note", _line("note", time.time(), {"level": level, "text": text})))


class _Trouble:
    """A time in which the log cannot be written."""

    def __init__(self, error: OSError, since: float) -> None:
        self.lost = 0
        self._error = error
        self._since = since

    def begins(self, path: Path) -> str:
        """What to say at its beginning."""
        why = self._error.strerror or str(self._error)
        what = "Make room" if self._error.errno in _FULL else "Make it writable"
        return (
            f"The run's log {path} cannot be written ({why}). What happens is kept in memory until it can; "
            f"should this process end before that, it is lost. {what}."
        )

    def is_over(self) -> tuple[str, str]:
        """Level and text of what to say at its end."""
        text = f"The run's log can be written again after {time.time() - self._since:.0f} s"
        if self.lost:
            return "warning", f"{text}; {self.lost:,} steps of the meantime are missing in it."
        return "info", f"{text}; nothing of the meantime is missing in it."


class _Shown:
    """The summary of a log with what could not be written to it yet."""

    def __init__(self, reader: LogReader) -> None:
        self.behind = reader.lines
        self._summary = Summary.from_json(reader.summary.to_json())
        self._taken = 0

    def with_(self, waiting: list[bytes]) -> Summary:
        """Take in the events that are new in `waiting`."""
        for event in map(parse, waiting[self._taken :]):
            if event is not None:
                self._summary.fold(event)
        self._taken = len(waiting)
        return self._summary


def _line(kind: str, now: float, fields: dict[str, Any]) -> bytes:
    event = {"time": round(now, 3), "kind": kind, **_plain(redact(fields))}
    text = json.dumps(event, ensure_ascii=False, allow_nan=False)
    return (text + "\n").encode(errors="backslashreplace")  # half a surrogate pair, in JSON's own spelling


def _plain(value: Any) -> Any:
    """JSON has no NaN and no infinity: they become null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value
