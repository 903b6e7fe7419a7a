"""Rows for the page: how many there are and which were refused, as HTML; the cells of a table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftkit.ui.images import thumbnail
from ftkit.ui.markup import chip, escape, note

if TYPE_CHECKING:
    from ftkit.data import Dataset, Example, Message
    from ftkit.ui.preview import Counts

REFUSALS_LISTED = 100
_BARS = 40
_IMAGES = 4
"""Images shown of a row."""
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
    if len(counts.refused) == counts.rows:
        first = counts.refused[0]
        text = f"None of the rows can be learned from. Row {first.row}: {first.reason}."
        return note(f"{text} Choose other rows, or below what is learned.", "bad")
    some = f" (counted on the first {counts.rows:,} of {counts.of:,})" if counts.rows < counts.of else ""
    share = 100 * counts.trained / counts.tokens if counts.tokens else 0
    line = (
        f'<div class="ftk-num">{counts.rows:,} rows, {counts.tokens:,} tokens, {share:.0f} % trained, '
        f"longest {counts.longest:,} of {counts.max_length:,}{some}</div>"
    )
    line += f'<div class="ftk-muted">{_packing(counts)}</div>'
    if counts.too_long:
        text = f"{_rows(counts.too_long)} longer than the cut-off of {counts.max_length:,} tokens"
        line += note(f"{text}: see too_long in the data settings.", "warn")
    if counts.refused:
        first = counts.refused[0]
        line += note(
            f"{_rows(len(counts.refused))} left out, with nothing that can be learned. "
            f"Row {first.row}: {first.reason}.",
            "warn",
        )
    return line


def _packing(counts: Counts) -> str:
    padded = f"padded, {counts.padding:.1%} of a batch would be padding"
    if counts.batch_tokens is None:
        return f"Packing: rows end to end need no padding; {padded}."
    full = f"{counts.efficiency:.1%} full of whole rows"
    return f"Packing: batches of {counts.batch_tokens:,} tokens are {full}; {padded}."


def _rows(count: int) -> str:
    return "1 row is" if count == 1 else f"{count:,} rows are"


def refused_list(dataset: Dataset) -> str:
    """The rows that are left out, folded."""
    refused = dataset.refused
    if not refused:
        return ""
    lines = "".join(
        f'<tr><td class="ftk-n">{escape(dataset.where(one.row).removeprefix("row "))}</td>'
        f"<td>{escape(one.reason)}</td></tr>"
        for one in refused[:REFUSALS_LISTED]
    )
    more = len(refused) - REFUSALS_LISTED
    rest = f'<div class="ftk-muted">and {more:,} more</div>' if more > 0 else ""
    noun = "row" if len(refused) == 1 else "rows"
    return (
        f"<details><summary>{len(refused):,} {noun} refused (row numbers count from 0)</summary>"
        f'<table class="ftk-table"><thead><tr><th class="ftk-n">Row</th><th>Why</th></tr></thead>'
        f"<tbody>{lines}</tbody></table>{rest}</details>"
    )


def cells(
    example: Example, place: int, where: str, folder: Path | None = None, find: str = ""
) -> dict[str, Any]:
    """A row for the table, as plain values; the page shows them as text.

    Parameters
    ----------
    place
        Its place from 0 among the rows of its part.
    where
        Where it stands in the data, for people.
    folder
        Where its images are.
    find
        Long texts are cut around this.
    """
    asked, answer = _asked(example), _answer(example)
    turns = sum(message.role == "user" for message in _turns(example))
    made: dict[str, Any] = {
        "place": place,
        "number": example.row,
        "where": where,
        "asked": _short(asked, find),
        "answer": _short(answer, find),
    }
    if turns > 1:
        made["more"] = f"+ {turns - 1} turns"
    if hasattr(example, "rejected"):
        made["rejected"] = _short(example.rejected[-1].content, find)
    if hasattr(example, "good"):
        made["rating"] = "good" if example.good else "bad"
    images = [image for message in _turns(example) for image in message.images][:_IMAGES]
    if images:
        made["images"] = [thumbnail(image, folder) for image in images]
    if find and find.casefold() not in (asked + answer).casefold():  # it stands in another turn
        others = (message.content for message in _turns(example))
        held = next((text for text in others if find.casefold() in text.casefold()), "")
        made["more"] = " … ".join(filter(None, (made.get("more", ""), _short(held, find))))
    return made


def _turns(example: Example) -> tuple[Message, ...]:
    whole = getattr(example, "messages", None)
    return whole if whole is not None else getattr(example, "prompt", ()) + getattr(example, "chosen", ())


def _asked(example: Example) -> str:
    if hasattr(example, "tokens"):
        return " ".join(example.tokens)
    turns = _turns(example)
    if not turns:
        return getattr(example, "text", "") or getattr(example, "question", "")
    return next((message.content for message in turns if message.role == "user"), "")


def _answer(example: Example) -> str:
    for name in ("label", "answer"):
        if hasattr(example, name):
            return str(getattr(example, name))
    if hasattr(example, "tags"):
        return " ".join(example.tags)
    turns = [message for message in _turns(example) if message.role == "assistant"]
    if not turns:
        return "(plain text)"
    said = turns[-1] if hasattr(example, "good") or hasattr(example, "chosen") else turns[0]
    return said.content or "calls " + ", ".join(str(call["function"]["name"]) for call in said.tool_calls)


def _short(text: str, find: str = "") -> str:
    at = text.casefold().find(find.casefold()) if find else 0
    start = max(at - _CUT // 4, 0) if at > _CUT // 2 else 0
    cut = text[start : start + _CUT]
    return ("…" if start else "") + cut + ("…" if start + _CUT < len(text) else "")
