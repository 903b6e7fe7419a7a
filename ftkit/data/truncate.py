"""Rows longer than the cut-off, shortened by whole exchanges: no header, answer or EOS is ever cut.

A conversation loses exchanges (a question and what follows up to the next one) from its start or its end, or
is split into several; its system message stays with every part. Plain text is cut between tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from ftkit.data.encoded import Encoded
from ftkit.data.example import Conversation, Message, PlainText, UnusableRowError

Policy = Literal["keep_end", "keep_start", "split"]
Encode = Callable[[Conversation | PlainText], Encoded]


def shorten(
    example: Conversation | PlainText, encoded: Encoded, encode: Encode, *, limit: int, policy: Policy
) -> list[Encoded]:
    """The parts of a row that fit into `limit` tokens.

    Parameters
    ----------
    encoded
        The whole row as tokens.
    encode
        Turns a shortened conversation into tokens.

    Raises
    ------
    UnusableRowError
        When not even one exchange fits, or what is left has nothing to learn.
    """
    if isinstance(example, PlainText):
        return _cut_text(encoded, limit, policy)
    system, exchanges = _exchanges(example)
    parts = _split(example, system, exchanges, encode, limit, policy)
    learned = [part for part in parts if part.mask[1:].any()]
    if not learned:
        raise UnusableRowError(f"{len(encoded.ids)} tokens, and no exchange of it fits into {limit}")
    return learned


def shorten_together(talks: Sequence[Conversation], encode: Encode, *, limit: int) -> list[Encoded]:
    """Both sides of a pair, or a rated reply, without so many of their first exchanges that all fit.

    What is compared or rated stands at the end, so the beginning goes, the same of each side.

    Raises
    ------
    UnusableRowError
        When the last exchange of one does not fit.
    """
    split = [_exchanges(talk) for talk in talks]
    most = min(len(exchanges) for _, exchanges in split)

    def without(first: int) -> list[Encoded]:
        return [
            encode(replace(talk, messages=(*system, *(turn for part in parts[first:] for turn in part))))
            for talk, (system, parts) in zip(talks, split, strict=True)
        ]

    low, high, kept = 1, most, None
    while low < high:  # by bisection: the fewest that must go
        middle = (low + high) // 2
        made = without(middle)
        if max(len(one.ids) for one in made) > limit:
            low = middle + 1
        else:
            high, kept = middle, made
    if kept is None:
        raise UnusableRowError(f"what is compared or rated does not fit into {limit} tokens")
    return kept


def _exchanges(example: Conversation) -> tuple[tuple[Message, ...], list[tuple[Message, ...]]]:
    """The system messages at the start, and the exchanges, each beginning with the user."""
    turns = list(example.messages)
    system: list[Message] = []
    while turns and turns[0].role == "system":
        system.append(turns.pop(0))
    exchanges: list[list[Message]] = []
    for place, turn in enumerate(turns):
        after_an_answer = place == 0 or turns[place - 1].role != "user"
        if not exchanges or (turn.role == "user" and after_an_answer):
            exchanges.append([])
        exchanges[-1].append(turn)
    return tuple(system), [tuple(exchange) for exchange in exchanges]


def _split(
    example: Conversation,
    system: tuple[Message, ...],
    exchanges: list[tuple[Message, ...]],
    encode: Encode,
    limit: int,
    policy: Policy,
) -> list[Encoded]:
    """Longest runs of exchanges that fit: the first run, the last, or all of them in order."""

    def part(first: int, end: int) -> Encoded | None:
        kept = tuple(turn for exchange in exchanges[first:end] for turn in exchange)
        made = encode(replace(example, messages=(*system, *kept)))
        return made if len(made.ids) <= limit else None

    def longest_from(first: int) -> tuple[int, Encoded | None]:
        """By bisection: the end of the longest run from `first` that fits, and its tokens."""
        best: Encoded | None = None
        low, high = first, len(exchanges)
        while low < high:
            middle = (low + high + 1) // 2
            made = part(first, middle)
            if made is None:
                high = middle - 1
            else:
                low, best = middle, made
        return low, best

    if policy == "keep_start":
        best = longest_from(0)[1]
        return [best] if best is not None else []
    if policy == "keep_end":
        low, high, last = 0, len(exchanges), None
        while low < high:
            middle = (low + high) // 2
            made = part(middle, len(exchanges))
            if made is None:
                low = middle + 1
            else:
                high, last = middle, made
        return [last] if last is not None else []
    parts, first = [], 0
    while first < len(exchanges):
        end, made = longest_from(first)
        if made is not None:
            parts.append(made)
        first = max(end, first + 1)  # an exchange that is too long by itself is left out
    return parts


def _cut_text(encoded: Encoded, limit: int, policy: Policy) -> list[Encoded]:
    ids, eos = encoded.ids[:-1], encoded.ids[-1:]  # the EOS says where the text ends: kept where it does
    if policy == "keep_start":
        pieces = [ids[:limit]]
    elif policy == "keep_end":
        pieces = [encoded.ids[-limit:]]
    else:
        whole = np.concatenate([ids, eos])
        pieces = [whole[at : at + limit] for at in range(0, len(whole), limit)]
        pieces = [piece for piece in pieces if len(piece) > 1]  # one token has none before it to learn from
    return [Encoded(piece, np.ones(len(piece), bool), encoded.row) for piece in pieces]
