"""A run in words and numbers: the HTML of its head, its tiles, its remarks and its failure.

What comes from the run (names, stages, remarks, errors) is text of strangers and is escaped.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from typing import Any

from ftkit.runs.summary import Sample
from ftkit.ui import markup
from ftkit.ui._history import History, Note

_BAR_LOOKS = {
    "finished": "ok",
    "failed": "bad",
    "interrupted": "bad",
    "paused": "warn",
    "stopping": "warn",
    "stopped": "others",
}
_LOOKS = {
    "warning": ("warn", "<strong>Warning.</strong> "),
    "error": ("bad", "<strong>Error.</strong> "),
}
_ENDED = ("finished", "stopped", "failed", "interrupted")
_NOTES_SHOWN = 50
_SAMPLES_SHOWN = 24


def empty_state() -> str:
    """What the Monitor says while there is no run."""
    return (
        '<div class="ftk-empty" role="status"><strong>No run to watch yet</strong>'
        "<p>Press Start in the Train panel, or call <code>ftkit.start(recipe)</code>; "
        "it shows up here by itself.<br>To look at an earlier run, choose it in the list above.</p></div>"
    )


def head(name: str, folder: str, status: str, progress: Any, branched: str = "") -> str:
    """Name, state, what it is a branch of, and how far the run is."""
    title = (
        f'<div class="ftk-run-head"><span class="ftk-name">{escape(name)}</span>{markup.state_chip(status)}'
        + (f"<span>{escape(branched)}</span>" if branched else "")
        + f'<span class="ftk-muted">{escape(folder)}</span></div>'
    )
    left, right = _where(status, progress), _times(status, progress)
    share = _share(status, progress)
    bar = markup.bar([(share, _BAR_LOOKS.get(status, "run"), "")], left, share)
    return (
        f'{title}<div class="ftk-progress ftk-num"><span>{escape(left)}</span>'
        f'<span class="ftk-muted">{escape(right)}</span></div>{bar}'
    )


def tiles(history: History, progress: Any) -> str:
    """The numbers of a run, each on a tile."""
    best = history.best_eval()
    gpu = history.peak_gpu_memory_gb
    entries = [
        ("Train loss", _number(history.last("loss"), 4), _smoothed(history)),
        ("Eval loss", _number(history.last("eval_loss"), 4), _evaluated_at(history)),
        ("Best eval loss", _number(best[1] if best else None, 4), f"at step {best[0]:,.0f}" if best else ""),
        *_share_of(history, "Token accuracy", "accuracy", _percent),
        *_share_of(history, "Margin", "margin", _signed),
        *_share_of(history, "Pairs told apart", "pair_accuracy", _percent),
        *_share_of(history, "Reward", "reward", _signed),
        ("Tokens per second", _number(progress.tokens_per_second or None, 0), ""),
        ("Peak memory", _gigabytes(history.peak_memory_gb), "" if gpu is None else f"GPU {gpu:.2f} GB"),
    ]
    return (
        '<div class="ftk-tiles" role="list">'
        + "".join(
            f'<div class="ftk-tile" role="listitem"><span>{label}</span><b>{value}</b>'
            f"<small>{below}</small></div>"
            for label, value, below in entries
        )
        + "</div>"
    )


def _share_of(
    history: History, label: str, name: str, written: Callable[[float], str]
) -> list[tuple[str, str, str]]:
    """A figure of the held-out rows and of the training rows; nothing where the run does not tell it."""
    held_out, train = history.last(f"eval_{name}"), history.last(name)
    if train is None:
        return []
    if held_out is None:
        return [(label, written(train), "of the training rows")]
    return [(label, written(held_out), f"held out; train {written(train)}")]


def _percent(value: float) -> str:
    return f"{value:.0%}"


def _signed(value: float) -> str:
    return f"{value:.3g}"


def remarks(notes: Sequence[Note]) -> str:
    """The remarks of a run, newest first, folded where there are many; empty where there are none."""
    if not notes:
        return ""
    shown = list(notes)[::-1][:_NOTES_SHOWN]
    items = "".join(
        f'<li class="ftk-note ftk-{_LOOKS.get(note.level, ("off", ""))[0]}">'
        f"{_LOOKS.get(note.level, ('off', ''))[1]}{escape(note.text)}</li>"
        for note in shown
    )
    warnings = sum(note.level in _LOOKS for note in notes)
    title = f"Notes ({len(notes)}" + (f", {warnings} of them warnings)" if warnings else ")")
    opened = " open" if len(notes) <= 5 or warnings else ""
    return (
        f'<details class="ftk-notes-fold"{opened}><summary>{title}</summary>'
        f'<ul class="ftk-notes">{items}</ul></details>'
    )


def samples(replies: Sequence[Sample]) -> str:
    """What the model answered while it trained, newest first; empty where it was not asked."""
    if not replies:
        return ""
    rewarded = any(one.rewards for one in replies)
    rows = "".join(
        f'<tr><td class="ftk-num">{one.step:,}</td><td>{escape(one.prompt)}</td><td>{escape(one.reply)}</td>'
        + (f'<td class="ftk-num">{escape(one.rewards)}</td>' if rewarded else "")
        + "</tr>"
        for one in list(replies)[::-1][:_SAMPLES_SHOWN]
    )
    heads = ["Step", "Prompt", "Reply", *(["Rewards"] if rewarded else [])]
    title = "".join(f'<th scope="col">{name}</th>' for name in heads)
    return (
        f'<details class="ftk-samples" open><summary>What it answers ({len(replies)})</summary>'
        f'<div class="ftk-scroll"><table><thead><tr>{title}</tr></thead><tbody>{rows}</tbody></table></div>'
        "</details>"
    )


def outcome(run: Any, status: str) -> str:
    """How a run ended or what it waits for, and what to do; an empty string while it goes on."""
    if status == "interrupted":
        return markup.error_box("The process that carried out this run is gone.", _way_on(run))
    if status == "failed" and run.error is not None:
        advice = "\n".join(part for part in (run.error.advice, _way_on(run)) if part)
        return markup.error_box(run.error.message, advice, run.error.traceback)
    if status == "stopped":
        why = run.summary.detail
        return markup.note(f"Stopped{f': {why}' if why else ' and saved'}. {_way_on(run)}")
    if status == "paused":
        return markup.note("Paused: the model stays loaded and can be talked to in the Chat panel.", "wait")
    if status == "finished":
        where = short_path(run.path)
        return markup.note(f"Finished. The result is in {where}. Talk to it in the Chat panel.", "ok")
    return ""


def short_path(path: Path) -> str:
    """A path as seen from the notebook's folder, where it is below it."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def _way_on(run: Any) -> str:
    steps = run.checkpoints
    if steps:
        return f"Resume goes on from the checkpoint of step {steps[-1]:,}."
    return "There is no checkpoint to go on from: Resume begins at the first step."


def _share(status: str, progress: Any) -> float:
    return 1.0 if status == "finished" else progress.fraction or 0.0


def _where(status: str, progress: Any) -> str:
    if not progress.step:
        if status in _ENDED:
            return "No step was made"
        waiting = "Waiting for its turn" if status == "queued" else status.capitalize()
        return progress.stage or waiting
    parts = [f"step {progress.step:,} of {progress.total_steps:,}"]
    if progress.epoch:
        parts.append(f"epoch {progress.epoch:.2f}")
    if status == "running" and progress.stage:
        parts.insert(0, progress.stage)
    return " · ".join(parts)


def _times(status: str, progress: Any) -> str:
    if not progress.elapsed:
        return ""
    elapsed = f"{markup.duration(progress.elapsed)} elapsed"
    if status == "running" and progress.remaining is not None:
        return f"{elapsed}, about {markup.duration(progress.remaining)} left"
    return elapsed


def _smoothed(history: History) -> str:
    values = history.points("loss_smooth", 4)[1]
    return f"smoothed {values[-1]:.4f}" if len(values) else ""


def _evaluated_at(history: History) -> str:
    steps = history.points("eval_loss", 4)[0]
    return f"at step {steps[-1]:,.0f}" if len(steps) else ""


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:,.{digits}f}"


def _gigabytes(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f} GB"
