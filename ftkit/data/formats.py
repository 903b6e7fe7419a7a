"""Row formats: which roles each has, which column plays which role, and how a row becomes an Example."""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ftkit.data.example import (
    Conversation,
    Example,
    LabelledText,
    Message,
    PlainText,
    PreferencePair,
    RatedReply,
    SpanAnswer,
    TaggedTokens,
    UnusableRowError,
)
from ftkit.data.turns import TAG_NAMES, Tags, address, check, looks_like_turns, place_images, read_turns
from ftkit.errors import DataError, FormatError

Row = Mapping[str, Any]
_ABSENT = object()


@dataclass(frozen=True)
class Layout:
    """How the rows of a source are read.

    Attributes
    ----------
    format
        A name of `FORMATS`.
    columns
        Role to column. A role that is not in it is absent.
    tags
        How turns are written.
    confidence
        0 to 1.
    reason
        Why this format, for people.
    """

    format: str
    columns: Mapping[str, str]
    tags: Tags = field(default_factory=Tags)
    confidence: float = 1.0
    reason: str = ""


@dataclass(frozen=True)
class Fields:
    """A row seen through a Layout: its values by role."""

    row: Row
    layout: Layout

    def value(self, role: str) -> Any:
        """The value of a role, or None where it is absent or empty (NaN, as pandas reads an empty cell)."""
        column = self.layout.columns.get(role)
        value = self.row.get(column) if column is not None else None
        return None if isinstance(value, float) and value != value else value

    def text(self, role: str, *, required: bool = False) -> str:
        """The value of a role as text."""
        value = self.value(role)
        if isinstance(value, (Mapping, list, tuple)):
            raise UnusableRowError(f"{self.layout.columns[role]} is {type(value).__name__}, not text")
        text = "" if value is None else str(value)
        if required and not text.strip():
            raise UnusableRowError(f"{self.layout.columns[role]} is empty")
        return text

    def turns(self, role: str) -> tuple[Message, ...]:
        """The value of a role as messages."""
        return read_turns(self.value(role), self.layout.columns[role], self.layout.tags)

    def tools(self) -> tuple[Any, ...]:
        """Descriptions of the tools, where there are any."""
        return tuple(self.sequence("tools")) if _given(self.value("tools")) else ()

    def images(self) -> list[str]:
        """Addresses of the images of the column, where there is one."""
        value = self.value("images")
        if not _given(value):
            return []
        one = isinstance(value, Mapping) or (isinstance(value, str) and not value.lstrip().startswith("["))
        return [address(image) for image in ([value] if one else self.sequence("images"))]

    def sequence(self, role: str) -> list[Any]:
        """The value of a role as a list (also from JSON text)."""
        value = self.value(role)
        if hasattr(value, "tolist"):
            value = value.tolist()
        if isinstance(value, str):
            try:
                value = json.loads(value)
            except (ValueError, RecursionError):
                value = None
        if not isinstance(value, (list, tuple)):
            raise UnusableRowError(f"{self.layout.columns[role]} is not a list")
        return list(value)


def _given(value: Any) -> bool:
    """Whether there is something: neither None nor an empty text, list or array."""
    return value is not None and (not hasattr(value, "__len__") or len(value) > 0)


@dataclass(frozen=True)
class Format:
    """A row format.

    Attributes
    ----------
    required, optional
        Role to the columns that play it by default, the usual one first.
    read
        A row's Example; `number` and `extra` go into it.
    """

    name: str
    about: str
    required: Mapping[str, tuple[str, ...]]
    optional: Mapping[str, tuple[str, ...]]
    read: Callable[[Fields, int, Row], Example]
    looks_right: Callable[[Fields], bool] = field(default=lambda _: True)

    @property
    def roles(self) -> tuple[str, ...]:
        """All roles, required ones first."""
        return (*self.required, *self.optional)


def recognise(
    rows: Sequence[Row],
    *,
    format: str | None = None,
    columns: Mapping[str, str] | None = None,
    tags: Mapping[str, str] | None = None,
) -> Layout:
    """How to read `rows`, by their columns and values; what is given is kept.

    Parameters
    ----------
    format
        A name of `FORMATS` instead of the recognised one.
    columns
        Role to column, for the roles that the defaults get wrong.
    tags
        See `Tags`.

    Raises
    ------
    FormatError
        When no format fits, or what is given does not fit the rows.
    DataError
        When there is no format, role or tag of a name that is given.
    """
    sample = [row for row in rows[:100] if isinstance(row, Mapping)]
    present = list(dict.fromkeys(str(key) for row in sample for key in row))
    given = dict(columns or {})
    _check_given(format, given, present)
    own_tags = Tags(**_checked_tags(tags or {}))
    names = [format] if format else list(FORMATS)
    for name in names:
        layout = _try(FORMATS[name], given, own_tags, present, sample, forced=format is not None)
        if layout is not None:
            return layout
    raise _unrecognised(format, given, present)


def _try(
    known: Format,
    given: Mapping[str, str],
    tags: Tags,
    present: Sequence[str],
    sample: Sequence[Row],
    *,
    forced: bool,
) -> Layout | None:
    if not set(given) <= set(known.roles):
        return None
    columns: dict[str, str] = dict(given)
    usual = True
    free = [column for column in present if column not in given.values()]
    for role, names in {**known.required, **known.optional}.items():
        if role in columns:
            continue
        found = next((name for name in names if name in free), None)
        if found is None:
            if role in known.required:
                return None
            continue
        columns[role] = found
        free.remove(found)
        usual = usual and found == names[0]
    layout = Layout(known.name, columns, tags)
    fitting = [known.looks_right(Fields(row, layout)) for row in sample]
    if not forced and not given and sum(fitting) * 2 < len(fitting):
        return None
    share = sum(fitting) / max(len(fitting), 1)
    needed = list(dict.fromkeys(columns[role] for role in known.required))
    what = "column" if len(needed) == 1 else "columns"
    reason = "as asked" if forced else f"the rows have the {what} {', '.join(needed)}"
    if not forced and share < 1:
        reason += f"; {share:.0%} of the first rows look right"
    if known.name == "ranking" and any(_count_replies(Fields(row, layout)) > 2 for row in sample):
        reason += "; of more than two replies the first is chosen, the last rejected, the others unused"
    return Layout(known.name, columns, tags, round((1.0 if usual else 0.8) * share, 2), reason)


def _check_given(format: str | None, columns: Mapping[str, str], present: Sequence[str]) -> None:
    if format is not None and format not in FORMATS:
        near = difflib.get_close_matches(format, FORMATS, n=1)
        advice = f"Did you mean {near[0]!r}?" if near else f"Known: {', '.join(FORMATS)}."
        raise DataError(f"data.format: there is no format {format!r}.", advice)
    roles = FORMATS[format].roles if format else tuple({r: 0 for f in FORMATS.values() for r in f.roles})
    for role, column in columns.items():
        if role not in roles:
            raise DataError(
                f"data.columns: there is no role {role!r}{f' in the format {format}' if format else ''}.",
                f"Roles: {', '.join(roles)}.",
            )
        if column not in present:
            near = difflib.get_close_matches(column, present, n=1)
            hint = f"Did you mean {near[0]!r}? " if near else ""
            raise FormatError(
                f"data.columns.{role}: the rows have no column {column!r}.",
                f"{hint}Found: {', '.join(present) or 'none'}.",
                tuple(present),
            )
    twice = {column for column in columns.values() if list(columns.values()).count(column) > 1}
    if twice:
        roles_of = [role for role, column in columns.items() if column in twice]
        raise FormatError(
            f"data.columns: the column {sorted(twice)[0]!r} plays several roles ({', '.join(roles_of)}).",
            "Give each role a column of its own.",
            tuple(present),
        )


def _checked_tags(tags: Mapping[str, str]) -> Mapping[str, str]:
    unknown = [name for name in tags if name not in TAG_NAMES]
    if unknown:
        raise DataError(f"data.tags: there is no tag {unknown[0]!r}.", f"Tags: {', '.join(TAG_NAMES)}.")
    return tags


def _unrecognised(format: str | None, given: Mapping[str, str], present: Sequence[str]) -> FormatError:
    found = ", ".join(sorted(present)) or "none"
    wanted = [FORMATS[format]] if format else list(FORMATS.values())
    expected = "; ".join(
        f"{one.name}: {', '.join(given.get(role, names[0]) for role, names in one.required.items())}"
        for one in wanted
    )
    usual = {names[0] for one in wanted for names in one.required.values()}
    near = [
        f"{column!r} for {match[0]!r}"
        for column in present
        if (match := difflib.get_close_matches(column, usual, n=1, cutoff=0.7)) and match[0] != column
    ]
    hint = f" Perhaps {', '.join(near[:3])}: rename it, or name it in data.columns." if near else ""
    what = f"do not fit the format {format}" if format else "are not of a known format"
    advice = f"Expected one of: {expected}.{hint}"
    return FormatError(f"The columns {what} (found: {found}).", advice, tuple(present))


# Readers of one row


def _conversation(messages: Sequence[Message], fields: Fields, number: int, extra: Row) -> Conversation:
    turns = tuple(messages)
    system = fields.text("system")
    if system.strip() and turns[0].role != "system":
        turns = (Message("system", system), *turns)
    turns = place_images(turns, fields.images())
    check(turns)
    return Conversation(turns, number, extra, tools=fields.tools())


def _messages(fields: Fields, number: int, extra: Row) -> Example:
    return _conversation(fields.turns("messages"), fields, number, extra)


def _asked(fields: Fields) -> list[Message]:
    """The turns before the answer: history, then prompt and query joined by a newline."""
    turns: list[Message] = []
    history = fields.value("history")
    if history is not None:
        for pair in fields.sequence("history"):
            if not isinstance(pair, (list, tuple)) or len(pair) != 2:
                raise UnusableRowError("history is not a list of (question, answer) pairs")
            turns += [Message("user", str(pair[0])), Message("assistant", str(pair[1]))]
    pieces = (fields.text("prompt", required="query" not in fields.layout.columns), fields.text("query"))
    question = "\n".join(filter(None, pieces))
    if not question.strip():
        raise UnusableRowError(f"{fields.layout.columns['prompt']} is empty")
    return [*turns, Message("user", question)]


def _instruction(fields: Fields, number: int, extra: Row) -> Example:
    answer = Message("assistant", fields.text("response", required=True))
    return _conversation([*_asked(fields), answer], fields, number, extra)


def _text(fields: Fields, number: int, extra: Row) -> Example:
    return PlainText(fields.text("text", required=True), number, extra)


def _preference(fields: Fields, number: int, extra: Row) -> Example:
    chosen, rejected = _reply(fields, "chosen"), _reply(fields, "rejected")
    prompt: tuple[Message, ...] = ()
    tools = fields.tools()
    if "messages" in fields.layout.columns:
        prompt = fields.turns("messages")
    elif isinstance(whole := fields.value("query"), Mapping) and "messages" in whole:  # OpenAI's form
        prompt = read_turns(whole["messages"], "input.messages", fields.layout.tags)
        tools = tuple(whole.get("tools") or ())
    elif fields.value("prompt") is not None or fields.value("query") is not None:
        value = fields.value("prompt")
        prompt = fields.turns("prompt") if looks_like_turns(value) else tuple(_asked(fields))
    if len(chosen) > 1 and chosen[: len(prompt)] == prompt:  # the whole conversation stands in both
        shared = 0
        while shared < min(len(chosen), len(rejected)) - 1 and chosen[shared] == rejected[shared]:
            shared += 1
        prompt, chosen, rejected = chosen[:shared], chosen[shared:], rejected[shared:]
    system = fields.text("system")
    if system.strip() and (not prompt or prompt[0].role != "system"):
        prompt = (Message("system", system), *prompt)
    prompt = place_images(prompt, fields.images())
    if not any(message.role == "user" for message in prompt):
        raise UnusableRowError("there is no prompt that both replies answer")
    for reply in (chosen, rejected):
        check((*prompt, *reply))
    if chosen == rejected:
        raise UnusableRowError("chosen and rejected are the same")
    return PreferencePair(prompt, chosen, rejected, number, extra, tools=tools)


def _reply(fields: Fields, role: str) -> tuple[Message, ...]:
    value = fields.value(role)
    if isinstance(value, (list, tuple, Mapping)) or looks_like_turns(value):
        return fields.turns(role)
    return (Message("assistant", fields.text(role, required=True)),)


def _ranked(fields: Fields, number: int, extra: Row) -> Example:
    replies = fields.sequence("response")
    if len(replies) < 2 or not all(isinstance(reply, str) and reply.strip() for reply in replies):
        raise UnusableRowError(f"{fields.layout.columns['response']} is not a list of two or more replies")
    best, worst = Message("assistant", replies[0]), Message("assistant", replies[-1])
    whole = _conversation([*_asked(fields), best], fields, number, extra)
    return PreferencePair(whole.messages[:-1], (best,), (worst,), number, extra, tools=whole.tools)


def _rated(fields: Fields, number: int, extra: Row) -> Example:
    if "messages" in fields.layout.columns:
        messages = fields.turns("messages")
    else:
        messages = (*_asked(fields), Message("assistant", fields.text("response", required=True)))
    whole = _conversation(messages, fields, number, extra)
    if whole.messages[-1].role != "assistant":
        raise UnusableRowError("it does not end with the reply that is rated")
    return RatedReply(whole.messages, _truth(fields), number, extra, tools=whole.tools)


def _truth(fields: Fields) -> bool:
    value = fields.value("rating")
    text = str(value).strip().lower()
    if text in ("true", "1", "1.0", "yes", "good", "desirable"):
        return True
    if text in ("false", "0", "0.0", "-1", "no", "bad", "undesirable"):
        return False
    raise UnusableRowError(f"{fields.layout.columns['rating']} is neither true nor false: {value!r:.40}")


def _labelled(fields: Fields, number: int, extra: Row) -> Example:
    label = fields.text("label", required=True)
    return LabelledText(fields.text("text", required=True), label, number, extra)


def _tagged(fields: Fields, number: int, extra: Row) -> Example:
    tokens, tags = fields.sequence("tokens"), fields.sequence("tags")
    if not tokens or len(tokens) != len(tags):
        raise UnusableRowError(f"it has {len(tokens)} tokens and {len(tags)} tags")
    return TaggedTokens(tuple(map(str, tokens)), tuple(map(str, tags)), number, extra)


def _span(fields: Fields, number: int, extra: Row) -> Example:
    context, answers = fields.text("context", required=True), fields.value("answers")
    if not isinstance(answers, Mapping) or not {"text", "answer_start"} <= set(answers):
        raise UnusableRowError(f"{fields.layout.columns['answers']} has no text and answer_start")
    texts, starts = list(answers["text"]), list(answers["answer_start"])
    if not texts or not starts:
        raise UnusableRowError("it has no answer")
    text, start = str(texts[0]), int(starts[0])
    if context[start : start + len(text)] != text:
        raise UnusableRowError(f"the answer does not stand at character {start} of the context")
    return SpanAnswer(fields.text("question", required=True), context, text, start, number, extra)


# What values look like


def _has_turns(fields: Fields) -> bool:
    return looks_like_turns(fields.value("messages"))


def _rating_like(fields: Fields) -> bool:
    try:
        _truth(fields)
    except UnusableRowError:
        return False
    return "messages" not in fields.layout.columns or _has_turns(fields)


def _pairs(fields: Fields) -> bool:
    return fields.value("chosen") is not None and fields.value("rejected") is not None


def _lists(fields: Fields) -> bool:
    return all(isinstance(fields.value(role), (list, tuple)) for role in ("tokens", "tags"))


def _count_replies(fields: Fields) -> int:
    value = fields.value("response")
    return len(value) if isinstance(value, (list, tuple)) else 0


def _replies(fields: Fields) -> bool:
    return _count_replies(fields) > 1


def _short_label(fields: Fields) -> bool:
    label = fields.value("label")
    return isinstance(label, (int, bool)) or (isinstance(label, str) and 0 < len(label) <= 40)


def _texts(fields: Fields) -> bool:
    return not any(isinstance(fields.value(role), (Mapping, list, tuple)) for role in ("prompt", "response"))


_SYSTEM = {"system": ("system", "system_prompt")}
_TOOLS = {"tools": ("tools", "functions"), "images": ("images", "image")}
_TURNS = ("messages", "conversations", "conversation", "dialogue", "dialog", "chat", "turns")
_PROMPT = ("prompt", "instruction", "question", "query", "user")
_RESPONSE = ("response", "output", "completion", "answer", "reply", "assistant")
_HISTORY = {"query": ("input", "context"), "history": ("history",)}

FORMATS: dict[str, Format] = {
    one.name: one
    for one in (
        Format(
            "preference",
            "two replies, the better one named",
            {"chosen": ("chosen", "preferred_output"), "rejected": ("rejected", "non_preferred_output")},
            {
                "messages": _TURNS,
                "prompt": _PROMPT,
                "query": ("input",),
                "history": ("history",),
                **_SYSTEM,
                **_TOOLS,
            },
            _preference,
            _pairs,
        ),
        Format(
            "rated",
            "conversations whose reply is rated good or bad (KTO)",
            {"messages": _TURNS, "rating": ("label", "kto_tag", "rating")},
            {**_SYSTEM, **_TOOLS},
            _rated,
            _rating_like,
        ),
        Format(
            "rated-replies",
            "a prompt, a reply, and whether the reply is good (KTO)",
            {"prompt": _PROMPT, "response": ("completion", *_RESPONSE), "rating": ("label", "kto_tag")},
            {**_HISTORY, **_SYSTEM, **_TOOLS},
            _rated,
            _rating_like,
        ),
        Format(
            "messages",
            "OpenAI's messages with role and content",
            {"messages": ("messages",)},
            {**_SYSTEM, **_TOOLS},
            _messages,
            _has_turns,
        ),
        Format(
            "sharegpt",
            "ShareGPT's conversations with from and value, or any other keys",
            {"messages": ("conversations", *_TURNS)},
            {**_SYSTEM, **_TOOLS},
            _messages,
            _has_turns,
        ),
        Format(
            "ranking",
            "a prompt and several replies, the best one first: it is chosen, the last one rejected",
            {"prompt": ("instruction", *_PROMPT), "response": ("output", *_RESPONSE)},
            {**_HISTORY, **_SYSTEM, **_TOOLS},
            _ranked,
            _replies,
        ),
        Format(
            "span-answers",
            "questions whose answer is a piece of a text",
            {"question": ("question",), "context": ("context",), "answers": ("answers",)},
            {},
            _span,
            lambda fields: isinstance(fields.value("answers"), Mapping),
        ),
        Format(
            "token-tags",
            "words, each with a tag",
            {"tokens": ("tokens", "words"), "tags": ("tags", "ner_tags", "pos_tags", "labels")},
            {},
            _tagged,
            _lists,
        ),
        Format(
            "alpaca",
            "instruction, input and output",
            {"prompt": ("instruction",), "response": ("output", "response")},
            {"query": ("input",), "history": ("history",), **_SYSTEM, **_TOOLS},
            _instruction,
            _texts,
        ),
        Format(
            "prompt-completion",
            "a prompt and its completion",
            {"prompt": _PROMPT, "response": ("completion", *_RESPONSE)},
            {**_HISTORY, **_SYSTEM, **_TOOLS},
            _instruction,
            _texts,
        ),
        Format(
            "labelled",
            "texts, each with a class",
            {"text": ("text", "sentence", "content"), "label": ("label", "labels", "category", "class")},
            {},
            _labelled,
            _short_label,
        ),
        Format("text", "plain text", {"text": ("text", "content", "document")}, {}, _text),
    )
}
"""In the order in which they are tried: the special before the general."""
