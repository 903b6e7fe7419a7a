"""The run's event log: one JSON object a line, appended, never rewritten.

Kinds and their fields, beside `time` (unix seconds) and `kind`:

- `recipe`: `text` (the Recipe as YAML), `sha256` (of the text); the first event
- `state`: `state`, `detail`, `error` (null, or `message`, `advice`, `traceback`)
- `branch`: `of` (the folder of the run that this one goes on from), `step`
- `sample`: `step`, `prompt`, `reply`
- `stage`: `text`, `fraction` (null where unknown)
- `plan`: `train_rows`, `eval_rows`, `train_tokens`, `trained_tokens`, `batches` (of an epoch),
  `packing_efficiency` (the share of the batches' token places that hold a token), `longest` (`row` and
  `tokens`), `refused`
- `steps`: `step` (where training starts), `total_steps`
- `train`: `step`, `epoch`, `loss` (nats a trained token), `accuracy` (the share of trained tokens that the
  model finds likeliest) and `entropy` (nats), null where the loss does not know them; `learning_rate`,
  `grad_norm`, `tokens` and `trained_tokens` (so far), `step_tokens` and `step_trained_tokens` (of this step),
  `tokens_per_second`, `memory_gb`, `gpu_memory_gb`, `elapsed` (seconds of training, pauses left out)
- `eval`: `step`, `epoch`, `loss`, `accuracy`, `entropy`, `seconds`
- `checkpoint`: `step`, `path` (inside the run folder)
- `note`: `level` (`info`, `warning` or `error`), `text`
"""

from __future__ import annotations

import json
import math
import threading
import time
from pathlib import Path
from typing import Any

from ftkit.redact import redact
from ftkit.runs.shape import checked

STAGE_INTERVAL = 0.2
"""Seconds between two stage events with the same text that are written down."""


class EventLog:
    """Appends events to a file and remembers them; safe to use from several threads."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._events: list[dict[str, Any]] = []
        self._offset = 0
        self._last_stage: tuple[str, float] = ("", 0.0)

    def append(self, kind: str, **fields: Any) -> None:
        """Write one event and flush it."""
        now = time.time()
        with self._lock:
            if kind == "stage":
                text, written = self._last_stage
                if fields["text"] == text and now - written < STAGE_INTERVAL and fields["fraction"] != 1.0:
                    return
                self._last_stage = (fields["text"], now)
            self._catch_up()
            event = {"time": round(now, 3), "kind": kind, **_plain(redact(fields))}
            line = (json.dumps(event, ensure_ascii=False, allow_nan=False) + "\n").encode()
            with self.path.open("ab") as file:
                file.write(line)
            self._offset += len(line)
            self._events.append(event | {"n": len(self._events)})

    def read(self, since: int = 0) -> list[dict[str, Any]]:
        """Events numbered `since` and later, those of other processes included."""
        with self._lock:
            self._catch_up()
            return self._events[since:]

    def _catch_up(self) -> None:
        """Read the lines that another process appended; a torn last line waits for its end."""
        try:
            size = self.path.stat().st_size
        except FileNotFoundError:
            return
        if size <= self._offset:
            return
        with self.path.open("rb") as file:
            file.seek(self._offset)
            new = file.read()
        whole = new[: new.rfind(b"\n") + 1]
        self._offset += len(whole)
        for line in whole.splitlines():
            event = _parse(line)
            if event is not None:
                self._events.append(event | {"n": len(self._events)})


def _parse(line: bytes) -> dict[str, Any] | None:
    """An event, or None for a line that a crash tore: the lines around it stay readable."""
    try:
        event = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return checked(event)


def _plain(value: Any) -> Any:
    """JSON has no NaN and no infinity: they become null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value
