"""Small pieces of HTML that the panels share. Every text that comes from outside is escaped here."""

from __future__ import annotations

from html import escape

_STATES = {
    "queued": "wait",
    "running": "run",
    "paused": "wait",
    "stopping": "wait",
    "finished": "ok",
    "stopped": "off",
    "failed": "bad",
    "interrupted": "bad",
}


def heading(title: str, subtitle: str = "") -> str:
    """The title of a panel or of a part of it."""
    below = f'<div class="ftk-sub">{escape(subtitle)}</div>' if subtitle else ""
    return f'<h3 class="ftk-h">{escape(title)}</h3>{below}'


def chip(text: str, look: str = "off", title: str = "") -> str:
    """A small rounded label; `look` is off, ok, run, wait, warn or bad."""
    return f'<span class="ftk-chip ftk-{look}" title="{escape(title)}">{escape(text)}</span>'


def state_chip(state: str) -> str:
    """The chip of a run's state."""
    return chip(state, _STATES.get(state, "off"), f"State of the run: {state}")


def note(text: str, look: str = "off") -> str:
    """A sentence in a tinted box; `look` as for `chip`."""
    return f'<div class="ftk-note ftk-{look}" role="status">{escape(text)}</div>'


def muted(text: str) -> str:
    """A sentence in the quiet colour."""
    return f'<div class="ftk-muted">{escape(text)}</div>'


def error_box(message: str, advice: str = "", traceback: str = "") -> str:
    """What went wrong, what to do, and the traceback folded away."""
    parts = [f'<div class="ftk-message">{escape(message)}</div>']
    if advice:
        parts.append(f'<div class="ftk-advice">{escape(advice)}</div>')
    if traceback:
        parts.append(f"<details><summary>Traceback</summary><pre>{escape(traceback)}</pre></details>")
    return f'<div class="ftk-error" role="alert">{"".join(parts)}</div>'


def duration(seconds: float | None) -> str:
    """Seconds as a person reads them: `45 s`, `3 min 05 s`, `1 h 02 min`; a dash for None."""
    if seconds is None:
        return "–"
    whole = round(max(seconds, 0.0))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
