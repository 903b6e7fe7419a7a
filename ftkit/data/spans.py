"""Where the answers stand in a rendered conversation, found exactly and in a few renderings.

A template is a program: only rendering shows what it writes. Marks are put in place of what was said;
the text between the marks, which is the template's own, is found again in the conversation's rendering.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from os.path import commonprefix
from typing import Any

from ftkit.data.example import Conversation, Message
from ftkit.errors import TemplateError

Render = Callable[..., str]
Span = tuple[int, int]
_THOUGHT_ENDS = "</think>"
_CALL = {"type": "function", "id": "abcdefghi", "function": {"name": "f", "arguments": {}}}


_PATTERNS = 1000
"""Sequences of roles that are remembered."""


@dataclass(frozen=True)
class _Pattern:
    """What a template writes around the turns: a piece before each and after the last.

    `margins` say, of each answer, how much of the piece before it and of the piece after it belongs to it.
    """

    pieces: list[str]
    margins: list[tuple[int, int] | None]

    def filled(self, said: Sequence[str]) -> str:
        """The rendering, were it no more than the pieces and what is said."""
        return "".join([part for pair in zip(self.pieces, [*said, ""], strict=True) for part in pair])


class AnswerFinder:
    """Finds answers for one template.

    Parameters
    ----------
    render
        `render(messages, add_generation_prompt=False, tools=())` gives the text.
    eos
        The text of the tokenizer's end-of-sequence token; empty where it has none.
    special
        The texts of its other special tokens.
    """

    def __init__(self, render: Render, eos: str, special: Collection[str] = ()) -> None:
        self._render = render
        self._eos = eos
        self._special = special
        self._headers: dict[bool, str] = {}
        self._openings: dict[str, tuple[str, ...]] = {}
        self._tails: dict[tuple[str, str], str | None] = {}
        self._ends: tuple[str, str, str] | None = None
        self._patterns: dict[tuple[str, ...], _Pattern | None] = {}

    def spans(self, example: Conversation, text: str) -> list[Span]:
        """Where in `text` each trained assistant turn stands: from after its header up to its end mark.

        Raises
        ------
        TemplateError
            When the answers cannot be found exactly.
        """
        called = any(message.tool_calls for message in example.messages)
        found = self.by_pattern(example, text)
        if found is None and not called:
            found = self.by_answers(example, text)
        if found is None:
            found = self.by_questions(example, text)
        if found is None:
            found = self.by_growth(example, text)
        if found is None:
            raise TemplateError(
                f"Row {example.row}: the chat template changes earlier turns when later ones follow, so its "
                "answers cannot be found exactly.",
                "Train on conversations of one exchange, or use another chat template.",
            )
        return found

    def closing(self, *, last: bool = False) -> str:
        """What the template writes after an answer, up to its end mark; `last`: at the conversation's end."""
        return self._closings()[1 if last else 0]

    def by_pattern(self, example: Conversation, text: str) -> list[Span] | None:
        """Without a rendering: by what the template wrote around other turns of the same roles.

        None where that, with what is said here put in its places, is not exactly `text`.
        """
        turns = example.messages
        if example.tools or any(
            turn.tool_calls or turn.tool_call_id or turn.name or _THOUGHT_ENDS in turn.content
            for turn in turns
        ):
            return None
        roles = tuple([turn.role for turn in turns])
        if roles not in self._patterns:
            if len(self._patterns) >= _PATTERNS:
                self._patterns.clear()
            self._patterns[roles] = self._pattern(roles)
        pattern = self._patterns[roles]
        if pattern is None:
            return None
        said = [turn.content for turn in turns]
        if pattern.filled(said) != text:
            said = [content.strip() for content in said]
            if pattern.filled(said) != text:
                return None
        at, spans = len(pattern.pieces[0]), []
        for turn, content, margins, piece in zip(
            turns, said, pattern.margins, pattern.pieces[1:], strict=True
        ):
            end = at + len(content)
            if margins is not None and turn.weight:
                spans.append((at - margins[0], end + margins[1]))
            at = end + len(piece)
        return spans

    def by_answers(self, example: Conversation, text: str) -> list[Span] | None:
        """By one more rendering with a mark in place of each answer, its reasoning kept.

        None unless each answer stands there as it is, or without the space around it.
        """
        header = self._header(example.messages[0].role == "system")
        if not (header and self.closing() and self.closing(last=True)):
            return None  # without them the bounds of a turn are not known from its answer alone
        prefix = _unused(example, text)
        places = [n for n, message in enumerate(example.messages) if message.role == "assistant"]
        marked, answers = list(example.messages), []
        for number, place in enumerate(places):
            thought, tag, answer = marked[place].content.rpartition(_THOUGHT_ENDS)
            if header in thought:
                return None
            marked[place] = replace(marked[place], content=f"{thought}{tag}{prefix}{number}\ue001")
            answers.append(answer)
        pieces, order = self._pieces(marked, example, prefix)
        if order != list(range(len(places))):
            return None
        if not text.startswith(pieces[0]) or not text.endswith(pieces[-1]):
            return None
        at, spans = len(pieces[0]), []
        for number, (place, answer) in enumerate(zip(places, answers, strict=True)):
            before, after, last = pieces[number], pieces[number + 1], number == len(places) - 1
            end = len(text) - len(after) if last else _find(text, at, answer, after)
            closing = self.closing(last=last)
            if end < at or text[at:end].strip() != answer.strip():
                return None
            if header not in before or not after.startswith(closing):
                return None
            own = len(before) - (before.rfind(header) + len(header))
            if example.messages[place].weight:
                spans.append((at - own, end + len(closing)))
            at = end + len(after)
        return spans

    def by_questions(self, example: Conversation, text: str) -> list[Span] | None:
        """By one more rendering with a mark in place of each turn that is not the assistant's.

        An assistant turn is then all that stands between two marks but for what closes the turn before it and
        opens the one after it, whatever it holds: text, reasoning, tool calls.
        """
        turns = example.messages
        roles = [message.role for message in turns]
        asked = [n for n, role in enumerate(roles) if role != "assistant"]
        if roles[0] == "assistant" or any(
            one == other == "assistant" for one, other in itertools.pairwise(roles)
        ):
            return None
        prefix = _unused(example, text)
        marked = [
            message if message.role == "assistant" else replace(message, content=f"{prefix}{n}\ue001")
            for n, message in enumerate(turns)
        ]
        pieces, order = self._pieces(marked, example, prefix)
        if sorted(order) != asked or not text.startswith(pieces[0]):
            return None
        at, standing = len(pieces[0]), {}
        for place, after in zip(order, pieces[1:], strict=True):
            end = _find(text, at, turns[place].content, after)
            if end < 0:
                return None
            standing[place] = (end, after)
            at = end + len(after)
        if at != len(text):
            return None
        spans = []
        for place, message in enumerate(turns):
            if message.role != "assistant":
                continue
            start, piece = standing[place - 1]
            follows = roles[place + 1] if place + 1 < len(turns) else ""
            mark = self.closing(last=not follows)
            opening = next((one for one in self._opening(roles[place - 1]) if piece.startswith(one)), None)
            tails = (self._tail(follows, ()), self._tail(follows, example.tools))
            if opening is None:
                return None
            said = piece[len(opening) :]
            tail = next((tail for tail in tails if tail is not None and said.endswith(mark + tail)), None)
            if tail is None:
                return None
            if message.weight:
                spans.append((start + len(opening), start + len(piece) - len(tail)))
        return spans

    def by_growth(self, example: Conversation, text: str) -> list[Span] | None:
        """Turn by turn, where the rendering only grows; None where later turns change it."""
        after = self._closings()[2]
        trailing = after[len(self.closing(last=True)) :]
        spans = []
        for place, message in enumerate(example.messages):
            if message.role != "assistant" or message.weight == 0:
                continue
            before = self._render(example.messages[:place], add_generation_prompt=True, tools=example.tools)
            through = self._render(example.messages[: place + 1], tools=example.tools)
            if not (text.startswith(through) and through.startswith(before)):
                return None
            end = len(through) - (len(trailing) if through.endswith(trailing) else 0)
            spans.append((len(before), end))
        return spans

    # What the template writes by itself, each rendered once

    def _pattern(self, roles: tuple[str, ...]) -> _Pattern | None:
        """Learned from a conversation of these roles in which every turn says a word of its own."""
        talk = Conversation(tuple(Message(role, f"\ue002{n}\ue003") for n, role in enumerate(roles)))
        try:
            text = self._render(talk.messages)
            spans = self.by_answers(talk, text)
        except TemplateError:
            return None
        split = re.split("\ue002([0-9]+)\ue003", text)
        if spans is None or [int(number) for number in split[1::2]] != list(range(len(roles))):
            return None
        found, at, margins = iter(spans), 0, []
        for role, piece, number in zip(roles, split[::2], split[1::2], strict=False):
            at += len(piece)
            end = at + len(number) + 2
            span = next(found) if role == "assistant" else None
            margins.append((at - span[0], span[1] - end) if span else None)
            at = end
        return _Pattern(split[::2], margins)

    def _pieces(
        self, marked: Sequence[Message], example: Conversation, prefix: str
    ) -> tuple[list[str], list[int]]:
        """The texts between the marks, and the marks' numbers in the order in which they stand."""
        split = re.split(re.escape(prefix) + "([0-9]+)\ue001", self._render(marked, tools=example.tools))
        return split[::2], [int(number) for number in split[1::2]]

    def _header(self, with_system: bool) -> str:
        """What the template writes before a reply that is to come, or the end of that."""
        if with_system not in self._headers:
            user = Message("user", "?")
            asked = (Message("system", "?"), user) if with_system else (user,)
            plain, prompt = self._render(asked), self._render(asked, add_generation_prompt=True)
            shared = len(commonprefix([plain, prompt]))  # noqa: RUF071  text, not paths
            self._headers[with_system] = prompt[shared:]
        return self._headers[with_system]

    def _closings(self) -> tuple[str, str, str]:
        """What closes an answer before a question, and at the end; and all that stands there."""
        if self._ends is None:
            talk = (Message("user", "?"), Message("assistant", "\ue000"))
            between = self._between((*talk, Message("user", "\ue001")), "\ue000", "\ue001")
            after = self._between(talk, "\ue000")
            if self._eos and self._eos in between:
                first = between[: between.find(self._eos) + len(self._eos)]
            else:  # what stands there whatever follows; or, where the end differs, a special token
                shared = _shared(between, after)
                bare = between.lstrip()
                found = (one for one in self._special if bare.startswith(one))
                special = max(found, key=len, default="")
                if not shared and after.strip() and special:
                    shared = between[: len(between) - len(bare) + len(special)]
                first = shared.rstrip() or shared
            has_eos = self._eos and self._eos in after
            last = after[: after.find(self._eos) + len(self._eos)] if has_eos else after.rstrip() or after
            self._ends = (first, last, after)
        return self._ends

    def _opening(self, role: str) -> tuple[str, ...]:
        """What may stand between the text of a turn of `role` and the answer to it, the longest first.

        That is what asks for a reply, or the start of it: some templates ask for reasoning (`<think>`) that
        they then leave out of the answers that are there.
        """
        if role not in self._openings:
            talk, reply = _leading_to(role, "\ue000"), Message("assistant", "\ue001")
            found = set()
            try:
                asking = self._render(talk, add_generation_prompt=True).rpartition("\ue000")[2]
                found.add(asking)
                for more in ((), (Message("user", "?"),)):
                    there = self._between((*talk, reply, *more), "\ue000", "\ue001")
                    found.add(_shared(asking, there))
            except TemplateError:
                pass
            self._openings[role] = tuple(sorted(found - {""}, key=len, reverse=True))
        return self._openings[role]

    def _tail(self, role: str, tools: Sequence[Any]) -> str | None:
        """What stands between an answer's end mark and the text of a turn of `role`, or the end ("").

        None where it is not known. Some templates describe the tools in front of the last question.
        """
        key = role, repr(tools) if tools else ""
        if key in self._tails:
            return self._tails[key]
        if tools:  # of the last example's only: each may have its own
            self._tails = {known: tail for known, tail in self._tails.items() if known[1] in ("", key[1])}
        end, tail = self.closing(last=not role), None
        said = (Message("user", "?"), Message("assistant", "\ue001"))
        turns = {"": said, "user": (*said, Message("user", "\ue000")), "tool": _leading_to("tool", "\ue000")}
        try:
            text = self._render(turns[role], tools=tools) if role in turns else ""
        except TemplateError:
            text = ""
        shown = text.rpartition("\ue000")[0] if role else text
        if role == "tool":  # a call that says nothing has no place for a mark
            tail = shown.rpartition(end)[2] if end and end in shown else None
        elif (after := shown.rpartition("\ue001")[2]) and after.startswith(end):
            tail = after[len(end) :]
        elif not role and "\ue001" in shown and not end:
            tail = ""
        self._tails[key] = tail
        return tail

    def _between(self, messages: Sequence[Message], start: str, end: str = "") -> str:
        text = self._render(messages)
        after = text.partition(start)[2]
        return after.partition(end)[0] if end else after


def _shared(one: str, other: str) -> str:
    """How both begin, up to the end of a line, a word or a bracket."""
    shared = commonprefix([one, other])  # noqa: RUF071  text, not paths
    if len(shared) in (len(one), len(other)):
        return shared
    return "".join(re.findall(r".*[>\]\s]", shared, re.DOTALL)[:1])


def _leading_to(role: str, mark: str) -> tuple[Message, ...]:
    """A conversation whose last turn is of `role` and says `mark`."""
    if role == "tool":
        said = Message("tool", mark, tool_call_id=str(_CALL["id"]), name="f")
        return (Message("user", "?"), Message("assistant", "", (_CALL,)), said)
    return (Message(role, mark),)


def _unused(example: Conversation, text: str) -> str:
    """The start of a mark that stands nowhere in the conversation, whatever it holds."""
    nonce = 0
    while any(
        f"\ue000{nonce}:" in said for said in (text, *(message.content for message in example.messages))
    ):
        nonce += 1
    return f"\ue000{nonce}:"


def _find(text: str, at: int, answer: str, after: str) -> int:
    """Where the answer that begins at `at` ends and `after` begins; -1 where that is not to be found."""
    escaped = json.dumps(answer, ensure_ascii=False)[1:-1]  # some templates write tool results as JSON
    for said in (answer, answer.strip(), answer.lstrip(), answer.rstrip(), escaped):
        if text.startswith(said, at) and text.startswith(after, at + len(said)):
            return at + len(said)
    return -1
