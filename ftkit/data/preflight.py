"""What is wrong, or odd, about rows before they are trained on. One pass, linear in their number."""

from __future__ import annotations

import functools
import hashlib
import itertools
import re
import sys
import unicodedata
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
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
_LOOK_UP = 1000
"""Rows between two words to the person who waits."""
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
    trained: bool = True,
    progress: Callable[[str, float | None], None] | None = None,
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
    trained
        Whether the rows themselves are trained on; of prompts nothing is.
    progress
        Told how far it is; may raise to end it.
    """
    seen = _Seen({_content(example) for example in held_out})
    for place, example in enumerate(examples):
        if place % _LOOK_UP == 0 and progress is not None:
            progress("Looking for faults", place / len(examples))
        seen.look(example)
    found = [*_untrained(encoded if trained else (), untrained), *_tokens(encoded, ends), *seen.findings()]
    return sorted(found, key=lambda finding: finding.level != "error")


_DUPLICATES = "The same row stands in the data more than once: it weighs more than the others."
_LEAKS = "These training rows are held out as well: the held-out loss looks better than it is."
_ALTERNATION = "Two turns of one speaker follow each other: many chat templates cannot render that."
_TINY = "A model that learns them learns to say nothing. Leave the rows out if that is not meant."
_INVISIBLE = "Zero-width or control characters are learned like letters. Remove them unless they are meant."
_PLACEHOLDERS = "Text such as {{name}} is learned as it stands. Fill it in first."
_SECRETS = "Keys or tokens seem to stand in them: a model can repeat them. Remove them, and revoke them."
_EMAILS = "A model can repeat them. Remove them unless they may be public."


def _finding(level: Any, title: str, message: str, rows: Sequence[int]) -> Finding:
    return Finding(level, title, message, tuple(rows), len(rows))


class _Seen:
    """What is seen of the rows in one pass over them: each may have to be read from disk.

    Parameters
    ----------
    aside
        What the held-out rows say.
    """

    def __init__(self, aside: Collection[bytes]) -> None:
        self.aside = aside
        self.where: dict[str, list[int]] = {title: [] for title, _, _ in _CHECKS}
        self.first: dict[bytes, int] = {}
        self.again: list[int] = []
        self.leaked: list[int] = []
        self.secret: list[int] = []
        self.secrets: dict[str, None] = {}
        self.labels: Counter[Any] = Counter()

    def look(self, example: Example) -> None:
        """Take one row in."""
        texts = tuple(_texts(example))
        for title, _, is_so in _CHECKS:
            if is_so(example, texts):
                self.where[title].append(example.row)
        said = _digest(texts)
        if self.first.setdefault(said, example.row) != example.row:
            self.again.append(example.row)
        if said in self.aside:
            self.leaked.append(example.row)
        found = next((match for text in texts if (match := _SECRET.search(text))), None)
        if found:
            self.secret.append(example.row)
            self.secrets[found[0][:_SECRET_SHOWN] + "…"] = None
        if isinstance(example, (LabelledText, RatedReply)):
            self.labels[example.label if isinstance(example, LabelledText) else example.good] += 1

    def findings(self) -> Iterator[Finding]:
        """All of it."""
        yield from _warning("Duplicates", _DUPLICATES, self.again)
        yield from _warning("Held-out rows in the training data", _LEAKS, self.leaked)
        yield from _unbalanced(self.labels)
        kinds = ", ".join(list(self.secrets)[:5])
        yield from _warning("Looks like a secret", f"{_SECRETS} They begin with {kinds}", self.secret)
        for title, message, _ in _CHECKS:
            yield from _warning(title, message, self.where[title])


def _warning(title: str, message: str, rows: Sequence[int]) -> Iterator[Finding]:
    if rows:
        distinct = tuple(dict.fromkeys(rows))  # a row may be learned several times
        yield Finding("warning", title, message, distinct, len(distinct))


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


def _unbalanced(labels: Counter[Any]) -> Iterator[Finding]:
    if not labels:
        return
    ordered = labels.most_common()
    (most, often), (least, rarely) = ordered[0], ordered[-1]
    if len(ordered) == 1:
        yield Finding("warning", "One label only", f"All {often:,} rows have the label {most!r:.40}.")
    elif often > UNBALANCED * rarely:
        message = f"{most!r:.40} stands {often:,} times, {least!r:.40} {rarely:,} times."
        yield Finding("warning", "Unbalanced labels", message)


def _content(example: Example) -> bytes:
    return _digest(tuple(_texts(example)))


def _digest(texts: Sequence[str]) -> bytes:
    """What a row says, space and letter case aside; a digest, for the texts may not fit in memory."""
    said = hashlib.blake2b(digest_size=16)
    for text in texts:
        said.update(" ".join(text.split()).casefold().encode("utf-8", "surrogatepass") + b"\0")
    return said.digest()


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


def _alternation_fault(example: Example, _: Sequence[str]) -> bool:
    roles = [turn.role for turn in _messages(example) if turn.role != "system"]
    return any(one == other != "tool" for one, other in itertools.pairwise(roles))


def _tiny_answer(example: Example, _: Sequence[str]) -> bool:
    turns = [turn for turn in _messages(example) if turn.role == "assistant" and not turn.tool_calls]
    return any(len(turn.content.strip()) <= 1 for turn in turns)


def _invisible(_: Example, texts: Sequence[str]) -> bool:
    return any(
        _invisible_characters().search(text) for text in texts if not (text.isascii() and text.isprintable())
    )


@functools.cache
def _invisible_characters() -> re.Pattern[str]:
    """Control and format characters and those for private use, but for line breaks and joiners."""
    found = [
        re.escape(character)
        for character in map(chr, range(sys.maxunicode + 1))
        if unicodedata.category(character) in ("Cf", "Cc") and character not in "\n\t\r" + _JOINERS
    ]
    private = "\ue000-\uf8ff\U000f0000-\U000ffffd\U00100000-\U0010fffd"
    return re.compile(f"[{''.join(found)}{private}]")


def _holds(pattern: re.Pattern[str]) -> Callable[[Example, Sequence[str]], bool]:
    return lambda _, texts: any(pattern.search(text) for text in texts)


_CHECKS: tuple[tuple[str, str, Callable[[Example, Sequence[str]], bool]], ...] = (
    ("Turns do not alternate", _ALTERNATION, _alternation_fault),
    ("Answers of one character or less", _TINY, _tiny_answer),
    ("Invisible characters", _INVISIBLE, _invisible),
    ("Placeholders left", _PLACEHOLDERS, _holds(_PLACEHOLDER)),
    ("E-mail addresses", _EMAILS, _holds(_EMAIL)),
)
"""Title, message, and whether it is so of a row and its texts."""
