"""What is wrong, or odd, about rows before they are trained on. Linear in their number."""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ftkit.data.encoded import Encoded
from ftkit.data.example import (
    Conversation,
    Example,
    LabelledText,
    Message,
    PlainText,
    PreferencePair,
    RatedReply,
    SpanAnswer,
)

OUTLIER = 4.0
"""A row is an outlier when it is longer than so many times the 95th percentile."""
UNBALANCED = 10.0
"""Labels are unbalanced when the most frequent is so many times as frequent as the rarest."""
FEW_TRAINED = 0.03
"""Share of trained tokens below which a run spends nearly all its time on reading."""

_EMAIL = re.compile(r"\b[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,4}\b")
_SECRET = re.compile(
    r"\b(?:sk-[A-Za-z0-9_-]{20,}|hf_[A-Za-z0-9]{20,}|gh[pousr]_[A-Za-z0-9]{30,}|github_pat_[A-Za-z0-9_]{30,}"
    r"|AKIA[0-9A-Z]{16}|AIza[A-Za-z0-9_-]{35}|xox[baprs]-[A-Za-z0-9-]{10,})\b"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----"
)
_SECRET_SHOWN = 5
"""Characters of a secret that a finding shows: enough to know its kind."""
_PLACEHOLDER = re.compile(r"\{\{\s*[A-Za-z_]\w{0,40}\s*\}\}")
_JOINERS = "\u200c\u200d"
"""Zero-width, yet part of ordinary writing in many scripts and of emoji."""


@dataclass(frozen=True)
class Finding:
    """Something to know before a run.

    Attributes
    ----------
    level
        `error`: these rows cannot be learned. `warning`: look at them.
    rows
        Rows concerned, by their number from 0.
    count
        How many there are.
    """

    level: Literal["error", "warning"]
    title: str
    message: str
    rows: tuple[int, ...] = ()
    count: int = 0


def preflight(
    examples: Sequence[Example],
    held_out: Sequence[Example] = (),
    encoded: Sequence[Encoded] = (),
    *,
    ends: Collection[int] = (),
    untrained: Sequence[int] = (),
) -> list[Finding]:
    """Look at the rows, and at their tokens where given; errors first.

    Parameters
    ----------
    examples, held_out
        The rows to learn from and those kept aside.
    encoded
        The same rows as the trainer will see them.
    ends
        Ids of the tokens that end a reply.
    untrained
        Numbers of the rows left out of `encoded` because nothing in them would be learned.
    """
    found = [
        *_untrained(encoded, untrained),
        *_tokens(encoded, ends),
        *_rows_where(examples, _alternation_fault, "warning", "Turns do not alternate", _ALTERNATION),
        *_rows_where(examples, _tiny_answer, "warning", "Answers of one character or less", _TINY),
        *_duplicates(examples),
        *_leaks(examples, held_out),
        *_unbalanced(examples),
        *_rows_where(examples, _invisible, "warning", "Invisible characters", _INVISIBLE),
        *_rows_where(examples, _searcher(_PLACEHOLDER), "warning", "Placeholders left", _PLACEHOLDERS),
        *_secrets(examples),
        *_rows_where(examples, _searcher(_EMAIL), "warning", "E-mail addresses", _EMAILS),
    ]
    return sorted(found, key=lambda finding: finding.level != "error")


_ALTERNATION = "Two turns of one speaker follow each other: many chat templates cannot render that."
_TINY = "A model that learns them learns to say nothing. Leave the rows out if that is not meant."
_INVISIBLE = "Zero-width or control characters are learned like letters. Remove them unless they are meant."
_PLACEHOLDERS = "Text such as {{name}} is learned as it stands. Fill it in first."
_SECRETS = "Keys or tokens seem to stand in them: a model can repeat them. Remove them, and revoke them."
_EMAILS = "A model can repeat them. Remove them unless they may be public."


def _finding(level: Any, title: str, message: str, rows: Sequence[int]) -> Finding:
    return Finding(level, title, message, tuple(rows), len(rows))


def _rows_where(
    examples: Sequence[Example], is_so: Callable[[Example], bool], level: str, title: str, message: str
) -> Iterator[Finding]:
    rows = [example.row for example in examples if is_so(example)]
    if rows:
        yield _finding(level, title, message, rows)


def _untrained(encoded: Sequence[Encoded], refused: Sequence[int]) -> Iterator[Finding]:
    rows = sorted({*refused, *(row.row for row in encoded if not row.mask[1:].any())})
    if rows:
        message = "Nothing in them would be learned. Look at the role names and at what is trained on."
        yield _finding("error", "No trained token", message, rows)


def _tokens(encoded: Sequence[Encoded], ends: Collection[int]) -> Iterator[Finding]:
    if not encoded:
        return
    if ends:
        endless = [row.row for row in encoded if not _all_end(row, np.array(sorted(ends)))]
        if endless:
            message = (
                "An answer is trained without the token that ends it: the model would not learn to stop."
            )
            yield _finding("warning", "Replies without an end", message, sorted(set(endless)))
    lengths = np.array([len(row.ids) for row in encoded])
    limit = OUTLIER * float(np.percentile(lengths, 95))
    outliers = [encoded[int(place)] for place in np.flatnonzero(lengths > limit)]
    if outliers:
        longest = max(outliers, key=lambda row: len(row.ids))
        share = len(longest.ids) / lengths.sum()
        message = (
            f"The longest, row {longest.row}, has {len(longest.ids):,} tokens, {share:.1%} of all; "
            f"95 % of the rows have at most {np.percentile(lengths, 95):,.0f}. A step with it needs the most "
            "memory of the run: lower data.max_length, or leave it out."
        )
        yield _finding("warning", "Unusually long rows", message, [row.row for row in outliers])
    share = sum(int(row.mask.sum()) for row in encoded) / max(int(lengths.sum()), 1)
    if 0 < share < FEW_TRAINED:
        message = f"Only {share:.1%} of the tokens are trained on: a run mostly reads. Shorten the prompts."
        yield Finding("warning", "Few trained tokens", message)


def _all_end(row: Encoded, ends: np.ndarray) -> bool:
    """Whether each trained stretch of a row holds an end; a row trained whole is text, not replies."""
    if row.mask.all():
        return True
    edges = np.flatnonzero(np.diff(row.mask.astype(np.int8), prepend=0, append=0))
    is_end = np.concatenate([[0], np.cumsum(np.isin(row.ids, ends))])
    return bool((is_end[edges[1::2]] > is_end[edges[::2]]).all())


def _duplicates(examples: Sequence[Example]) -> Iterator[Finding]:
    seen: dict[Hashable, int] = {}
    again = []
    for example in examples:
        if seen.setdefault(_content(example), example.row) != example.row:
            again.append(example.row)
    if again:
        message = "The same row stands in the data more than once: it weighs more than the others."
        yield _finding("warning", "Duplicates", message, again)


def _leaks(examples: Sequence[Example], held_out: Sequence[Example]) -> Iterator[Finding]:
    aside = {_content(example) for example in held_out}
    rows = [example.row for example in examples if _content(example) in aside]
    if rows:
        message = "These training rows are held out as well: the held-out loss looks better than it is."
        yield _finding("warning", "Held-out rows in the training data", message, rows)


def _secrets(examples: Sequence[Example]) -> Iterator[Finding]:
    rows, kinds = [], dict[str, None]()
    for example in examples:
        found = next((match for text in _texts(example) if (match := _SECRET.search(text))), None)
        if found:
            rows.append(example.row)
            kinds[found[0][:_SECRET_SHOWN] + "…"] = None
    if rows:
        message = f"{_SECRETS} They begin with {', '.join(list(kinds)[:5])}"
        yield _finding("warning", "Looks like a secret", message, rows)


def _unbalanced(examples: Sequence[Example]) -> Iterator[Finding]:
    labels = Counter(
        example.label if isinstance(example, LabelledText) else example.good
        for example in examples
        if isinstance(example, (LabelledText, RatedReply))
    )
    if not labels:
        return
    ordered = labels.most_common()
    (most, often), (least, rarely) = ordered[0], ordered[-1]
    if len(ordered) == 1:
        yield Finding("warning", "One label only", f"All {often:,} rows have the label {most!r:.40}.")
    elif often > UNBALANCED * rarely:
        message = f"{most!r:.40} stands {often:,} times, {least!r:.40} {rarely:,} times."
        yield Finding("warning", "Unbalanced labels", message)


def _content(example: Example) -> Hashable:
    """What a row says, space and letter case aside."""
    return tuple(" ".join(text.split()).casefold() for text in _texts(example))


def _messages(example: Example) -> tuple[Message, ...]:
    match example:
        case Conversation() | RatedReply():
            return example.messages
        case PreferencePair():
            return (*example.prompt, *example.chosen)
    return ()


def _texts(example: Example) -> Iterable[str]:
    """Every text of an example, each message with its role."""
    match example:
        case PlainText():
            return (example.text,)
        case LabelledText():
            return (example.text, example.label)
        case SpanAnswer():
            return (example.question, example.context, example.answer)
        case Conversation() | RatedReply() | PreferencePair():
            rejected = example.rejected if isinstance(example, PreferencePair) else ()
            turns = (*_messages(example), *rejected)
            return (f"{turn.role}: {turn.content}{list(turn.tool_calls) or ''}" for turn in turns)
        case _:
            return (*example.tokens, *example.tags)


def _alternation_fault(example: Example) -> bool:
    roles = [turn.role for turn in _messages(example) if turn.role != "system"]
    return any(one == other != "tool" for one, other in itertools.pairwise(roles))


def _tiny_answer(example: Example) -> bool:
    turns = [turn for turn in _messages(example) if turn.role == "assistant" and not turn.tool_calls]
    return any(len(turn.content.strip()) <= 1 for turn in turns)


def _invisible(example: Example) -> bool:
    return any(
        unicodedata.category(character) in ("Cf", "Cc", "Co") and character not in "\n\t\r" + _JOINERS
        for text in _texts(example)
        if not text.isascii() or not text.isprintable()
        for character in text
    )


def _searcher(pattern: re.Pattern[str]) -> Callable[[Example], bool]:
    return lambda example: any(pattern.search(text) for text in _texts(example))
