"""Where a run stands, as HTML: state, stage, bar, steps, speed and times."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ftkit.ui.markup import bar, duration, error_box, escape, muted, note, state_chip

if TYPE_CHECKING:
    from ftkit.runs import Progress, Run

_LOOKS = {"failed": "bad", "interrupted": "bad", "finished": "ok", "paused": "warn", "stopped": "others"}


def starting() -> str:
    """What stands there between the click and the run."""
    return f'<div class="ftk-chips">{state_chip("starting")}</div>{bar([], "Starting", 0.0)}'


def of_run(run: Run, status: str) -> str:
    """A run's state, progress and outcome."""
    now = run.progress
    fraction = 1.0 if status == "finished" else now.fraction or 0.0
    stage = "" if status in ("finished", "failed") else now.stage
    head = (
        f'<div class="ftk-chips">{state_chip(status)} <b>{escape(run.name)}</b> '
        f'<span class="ftk-muted">{escape(stage)}</span></div>'
    )
    drawn = bar(
        [(fraction, _LOOKS.get(status, "run"), f"{fraction:.0%}")], f"Progress of {run.name}", fraction
    )
    return head + drawn + _numbers(now, status) + _outcome(run, status)


def _numbers(now: Progress, status: str) -> str:
    if not now.total_steps:
        return ""
    cells = [("Step", f"{now.step} / {now.total_steps}"), ("Epoch", f"{now.epoch:.2f}")]
    if now.tokens_per_second:
        cells.append(("Tokens/s", f"{now.tokens_per_second:,.0f}"))
    cells.append(("Elapsed", duration(now.elapsed)))
    if status in ("running", "paused"):
        cells.append(("Remaining", duration(now.remaining)))
    body = "".join(
        f'<div class="ftk-stat"><span class="ftk-muted">{name}</span> <span>{value}</span></div>'
        for name, value in cells
    )
    return f'<div class="ftk-stats ftk-num">{body}</div>'


def _outcome(run: Run, status: str) -> str:
    if status == "failed" and run.error is not None:
        return error_box(run.error.message, run.error.advice, run.error.traceback)
    if status == "finished":
        return note(f"Finished. The result is in {_short(run.path)}. Talk to it in the Chat panel.", "ok")
    if status == "stopped":
        return note(f"Stopped and saved in {_short(run.path)}. Resume goes on from there.")
    if status == "interrupted":
        return note("Its process is gone. Resume goes on from the last checkpoint.", "warn")
    if status == "paused":
        return note("Paused: the model stays loaded. You can talk to it in the Chat panel.", "wait")
    if status == "queued":
        return muted("Waiting until the run before it has ended.") if not run.progress.stage else ""
    return ""


def _short(path: Path) -> str:
    """A path as seen from the notebook's folder, where it is below it."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)
