"""Small pieces of HTML that the panels share. Every text that comes from outside is escaped here."""

from __future__ import annotations

import re
import traceback
from html import escape

from ftkit.errors import FtkitError
from ftkit.recipe.cards import Card
from ftkit.redact import redact

__all__ = [
    "asked",
    "bar",
    "chip",
    "choice",
    "duration",
    "error_box",
    "escape",
    "failure",
    "field_help",
    "heading",
    "muted",
    "note",
    "part",
    "prose",
    "size",
    "state_chip",
]

_STATES = {
    "starting": "wait",
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


def part(title: str) -> str:
    """What the fields below it are for."""
    return f'<h4 class="ftk-part">{escape(title)}</h4>'


def chip(text: str, look: str = "off", title: str = "") -> str:
    """A small rounded label; `look` is off, ok, run, wait, warn or bad."""
    return f'<span class="ftk-chip ftk-{look}" title="{escape(title)}">{escape(text)}</span>'


def state_chip(state: str) -> str:
    """The chip of a run's state."""
    return chip(state, _STATES.get(state, "off"), f"State of the run: {state}")


def note(text: str, look: str = "off") -> str:
    """A sentence in a tinted box; `look` as for `chip`."""
    return f'<div class="ftk-note ftk-{look}" role="status">{escape(text)}</div>'


def asked(text: str) -> str:
    """What is still to be filled in, below its control."""
    return f'<div class="ftk-note ftk-wait">{prose(text)}</div>'


_PAPER = re.compile(r"arXiv:(\d{4}\.\d{4,5})")
_CODE = re.compile(r"`([^`\n]+)`")
_NUMBER = re.compile(r"\b\d+e-\d+\b")


def prose(text: str) -> str:
    """A docstring as HTML: what stands between backticks is code, and papers are links."""
    html = _with_code(text)
    return _PAPER.sub(r'<a href="https://arxiv.org/abs/\1" target="_blank" rel="noopener">arXiv:\1</a>', html)


def _with_code(text: str) -> str:
    return _CODE.sub(r"<code>\1</code>", escape(text))


def field_help(text: str) -> str:
    """A field's docstring, below its control; numbers such as 1e-4 stay in one piece."""
    html = _NUMBER.sub(r'<span class="ftk-whole">\g<0></span>', prose(text))
    return f'<div class="ftk-help">{html}</div>'


def choice(card: Card) -> str:
    """A card that was chosen: its name, its sentence, its papers."""
    papers = " ".join(
        f'<a href="{escape(address)}" target="_blank" rel="noopener noreferrer">{escape(who)}</a>'
        for who, address in card.papers
    )
    return f'<div class="ftk-picked"><b>{escape(card.title)}</b> {escape(card.sentence)} {papers}</div>'


def muted(text: str) -> str:
    """A sentence in the quiet colour."""
    return f'<div class="ftk-muted">{escape(text)}</div>'


def error_box(message: str, advice: str = "", details: str = "") -> str:
    """What went wrong, what to do, and the traceback folded away."""
    message, advice, details = redact((message, advice, details))
    parts = [f'<div class="ftk-message">{_with_code(message)}</div>']
    if advice:
        parts.append(f'<div class="ftk-advice">{_with_code(advice)}</div>')
    if details:
        parts.append(f"<details><summary>Traceback</summary><pre>{escape(details)}</pre></details>")
    return f'<div class="ftk-error" role="alert">{"".join(parts)}</div>'


def bar(parts: list[tuple[float, str, str]], label: str, value: float | None = None) -> str:
    """A horizontal bar.

    Parameters
    ----------
    parts
        (share of the whole from 0 to 1, look, text on hover) of each piece, from the left.
    label
        What the bar says, for people who do not see it.
    value
        Share that is done, for a progress bar.
    """
    role = 'role="img"'
    if value is not None:
        role = f'role="progressbar" aria-valuemin="0" aria-valuemax="100" aria-valuenow="{100 * value:.0f}"'
    pieces = ""
    for share, look, text in parts:
        width = 100 * min(max(share, 0.0), 1.0)
        pieces += f'<span class="ftk-{look}" style="width:{width:.2f}%" title="{escape(text)}"></span>'
    return f'<div class="ftk-bar" {role} aria-label="{escape(label)}">{pieces}</div>'


def failure(error: Exception) -> str:
    """An exception as a person should see it: ftkit's own with its advice, others with their type."""
    if isinstance(error, FtkitError):
        return error_box(error.message, error.advice)
    folded_away = "".join(traceback.format_exception(error))
    return error_box(f"{type(error).__name__}: {error}", "This was not expected.", folded_away)


def size(millions: int | None) -> str:
    """Parameters of a model as people write them: `135 M`, `7.6 B`; empty for None."""
    if millions is None:
        return ""
    return f"{millions / 1000:.1f} B" if millions >= 1000 else f"{millions} M"


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
