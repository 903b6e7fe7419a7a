"""Where a run stands, as HTML: state, stage, bar, steps, speed and times."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ftkit.ui._run_view import outcome
from ftkit.ui.markup import bar, duration, escape, muted, state_chip

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
    stage = now.stage if run.active else ""
    head = (
        f'<div class="ftk-chips">{state_chip(status)} <b>{escape(run.name)}</b> '
        f'<span class="ftk-muted">{escape(stage)}</span></div>'
    )
    drawn = bar(
        [(fraction, _LOOKS.get(status, "run"), f"{fraction:.0%}")], f"Progress of {run.name}", fraction
    )
    waits = status == "queued" and not now.stage
    below = muted("Waiting until the run before it has ended.") if waits else outcome(run, status)
    return head + drawn + _numbers(now, status) + below


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
