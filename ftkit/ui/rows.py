"""Rows as HTML: how many there are, which were refused, and a table of a few."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ftkit.ui.markup import chip, escape, note

if TYPE_CHECKING:
    from ftkit.data import Dataset, Example, Refusal
    from ftkit.ui.preview import Counts

REFUSALS_LISTED = 100
_BARS = 40
_CUT = 400
"""Characters of a cell."""


def counts_line(dataset: Dataset, counts: Counts | None) -> str:
    """How many rows there are, how they were understood, and how many tokens they make."""
    chips = [
        chip(f"{len(dataset.train):,} to train on", "ok"),
        chip(f"{len(dataset.held_out):,} held out", "run", "For the loss on rows that training never sees"),
    ]
    if dataset.refused:
        chips.append(chip(f"{len(dataset.refused):,} refused", "warn", "Listed below, with the reason"))
    head = f'<div class="ftk-chips"><b>{escape(dataset.origin)}</b> {" ".join(chips)}</div>'
    about = f'<div class="ftk-muted">Read as {escape(dataset.format)}: {escape(dataset.format_reason)}</div>'
    return head + about + (_tokens(counts) + histogram(counts) if counts else "")


def histogram(counts: Counts) -> str:
    """The lengths of the rows as bars, with the cut-off drawn in where it is among them."""
    if len(counts.lengths) < 2 or counts.longest < 2:
        return ""
    top = counts.longest
    bars = [0] * _BARS
    for length in counts.lengths:
        bars[min(length * _BARS // top, _BARS - 1)] += 1
    tallest, width = max(bars), 600 / _BARS
    pieces = "".join(
        f'<rect class="ftk-length" x="{place * width + 1:.1f}" width="{width - 2:.1f}" '
        f'y="{60 - 60 * bar / tallest:.1f}" height="{60 * bar / tallest:.1f}">'
        f"<title>{bar:,} rows of {place * top // _BARS:,} to {(place + 1) * top // _BARS:,} tokens</title>"
        "</rect>"
        for place, bar in enumerate(bars)
    )
    if counts.max_length < top:
        at = 600 * counts.max_length / top
        line = f'<line class="ftk-cutoff" x1="{at:.1f}" x2="{at:.1f}" y1="0" y2="60">'
        pieces += f"{line}<title>cut-off</title></line>"
    label = f"Lengths of the rows, up to {top:,} tokens; the cut-off is {counts.max_length:,}"
    return (
        f'<svg class="ftk-histogram" viewBox="0 0 600 60" preserveAspectRatio="none" role="img" '
        f'aria-label="{label}">{pieces}</svg>'
        f'<div class="ftk-axis ftk-muted"><span>0</span><span>tokens a row</span><span>{top:,}</span></div>'
    )


def _tokens(counts: Counts) -> str:
    if not counts.rows:
        return ""
    some = f" (counted on the first {counts.rows:,} of {counts.of:,})" if counts.rows < counts.of else ""
    share = 100 * counts.trained / counts.tokens if counts.tokens else 0
    line = (
        f'<div class="ftk-num">{counts.rows:,} rows, {counts.tokens:,} tokens, {share:.0f} % trained, '
        f"longest {counts.longest:,} of {counts.max_length:,}{some}</div>"
    )
    line += f'<div class="ftk-muted">{_packing(counts)}</div>'
    if counts.too_long:
        line += note(f"{counts.too_long:,} rows are longer than {counts.max_length:,} tokens.", "warn")
    if counts.refused:
        first = counts.refused[0]
        text = f"{len(counts.refused):,} rows cannot be learned and are left out"
        line += note(f"{text}; row {first.row}: {first.reason}.", "warn")
    return line


def _packing(counts: Counts) -> str:
    padded = f"padded, {counts.padding:.1%} of a batch would be padding"
    if counts.batch_tokens is None:
        return f"Packing: rows end to end need no padding; {padded}."
    full = f"{counts.efficiency:.1%} full of whole rows"
    return f"Packing: batches of {counts.batch_tokens:,} tokens are {full}; {padded}."


def refused_list(refused: Sequence[Refusal]) -> str:
    """The rows that are left out, folded."""
    if not refused:
        return ""
    lines = "".join(
        f'<tr><td class="ftk-n">{one.row}</td><td>{escape(one.reason)}</td></tr>'
        for one in refused[:REFUSALS_LISTED]
    )
    more = len(refused) - REFUSALS_LISTED
    rest = f'<div class="ftk-muted">and {more:,} more</div>' if more > 0 else ""
    return (
        f"<details><summary>{len(refused):,} rows refused (row numbers count from 0)</summary>"
        f'<table class="ftk-table"><thead><tr><th class="ftk-n">Row</th><th>Why</th></tr></thead>'
        f"<tbody>{lines}</tbody></table>{rest}</details>"
    )


def table(examples: Sequence[Example], first: int, current: int) -> str:
    """A few rows, the current one marked."""
    body = ""
    for place, example in enumerate(examples, start=first):
        mark = ' class="ftk-here" aria-current="true"' if place == current else ""
        cells = f"<td>{_asked(example)}</td><td>{_answer(example)}</td>"
        body += f'<tr{mark}><td class="ftk-n">{place + 1}</td>{cells}</tr>'
    head = '<tr><th class="ftk-n">Row</th><th>Asked</th><th>Answer</th></tr>'
    return f'<table class="ftk-table"><thead>{head}</thead><tbody>{body}</tbody></table>'


def _asked(example: Example) -> str:
    if hasattr(example, "tokens"):
        return _short(" ".join(example.tokens))
    messages = getattr(example, "messages", None) or getattr(example, "prompt", None)
    if messages is None:
        return _short(getattr(example, "text", "") or getattr(example, "question", ""))
    turns = [m for m in messages if m.role == "user"]
    more = f' <span class="ftk-muted">+ {len(turns) - 1} turns</span>' if len(turns) > 1 else ""
    return (_short(turns[0].content) if turns else "") + more


def _answer(example: Example) -> str:
    for name in ("label", "answer"):
        if hasattr(example, name):
            return _short(getattr(example, name))
    if hasattr(example, "tags"):
        return _short(" ".join(example.tags))
    if hasattr(example, "chosen") and hasattr(example, "rejected"):
        chosen, rejected = (_short(turns[-1].content) for turns in (example.chosen, example.rejected))
        return f'{chosen}<div class="ftk-muted">rejected: {rejected}</div>'
    turns = [m for m in getattr(example, "messages", ()) if m.role == "assistant"]
    if hasattr(example, "good"):
        return f"{chip('good' if example.good else 'bad', 'ok' if example.good else 'bad')} " + _short(
            turns[-1].content
        )
    return _short(turns[0].content) if turns else '<span class="ftk-muted">plain text</span>'


def _short(text: str) -> str:
    return escape(text if len(text) <= _CUT else text[: _CUT - 1] + "…")
