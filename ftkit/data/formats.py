"""Row formats, recognised by their columns, and how each becomes Examples."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ftkit.data.example import ROLES, Conversation, Example, Message, PlainText, Refusal
from ftkit.errors import DataError

Row = Mapping[str, Any]

_SHAREGPT_ROLES = {"human": "user", "gpt": "assistant", "observation": "tool", "function_call": "assistant"}


class UnusableRowError(ValueError):
    """A row that cannot be an Example; the text says why."""


@dataclass(frozen=True)
class Format:
    """One row format: the columns it needs, the columns it uses, and the reader of a row."""

    name: str
    needs: tuple[str, ...]
    uses: tuple[str, ...]
    read: Callable[[Row], tuple[Message, ...] | str]


def recognise(rows: Sequence[Row]) -> tuple[Format, str]:
    """The format of `rows` and the reason for it.

    Raises
    ------
    DataError
        When no known format fits the columns.
    """
    columns = {key for row in rows[:100] for key in row}
    for known in FORMATS:
        if set(known.needs) <= columns:
            return known, f"the rows have the columns {', '.join(known.needs)}"
    expected = "; ".join(f"{known.name}: {', '.join(known.needs)}" for known in FORMATS)
    found = ", ".join(sorted(columns)) or "none"
    raise DataError(
        f"The columns are not of a known format (found: {found}).", f"Expected one of: {expected}."
    )


def to_examples(rows: Sequence[Row], known: Format) -> tuple[list[Example], list[Refusal]]:
    """Every row as an Example, or as a Refusal that says why it cannot be one."""
    examples: list[Example] = []
    refused: list[Refusal] = []
    for number, row in enumerate(rows):
        extra = {key: value for key, value in row.items() if key not in known.uses}
        try:
            content = known.read(row)
            if isinstance(content, str):
                examples.append(PlainText(content, number, extra))
            else:
                _check(content)
                examples.append(Conversation(content, number, extra))
        except UnusableRowError as error:
            refused.append(Refusal(number, str(error)))
    return examples, refused


def _check(messages: tuple[Message, ...]) -> None:
    for place, message in enumerate(messages):
        if message.role not in ROLES:
            raise UnusableRowError(f"message {place} has the unknown role {message.role!r:.40}")
        if not message.content.strip():
            raise UnusableRowError(f"message {place} ({message.role}) is empty")
    if not any(message.role == "assistant" for message in messages):
        raise UnusableRowError("there is no answer (no assistant message) to learn")
    if messages[0].role == "assistant":
        raise UnusableRowError("it starts with an answer: there is no question before it")


def _text(row: Row, key: str, *, required: bool = False) -> str:
    value = row.get(key)
    if value is None or value != value:  # NaN, which pandas reads an empty cell as, differs from itself
        value = ""
    if not isinstance(value, str):
        value = str(value)
    if required and not value.strip():
        raise UnusableRowError(f"{key} is empty")
    return value


def _message(value: Any, role_key: str, content_key: str) -> Message:
    if not isinstance(value, Mapping) or role_key not in value:
        raise UnusableRowError(f"a message has no {role_key!r}")
    content = value.get(content_key)
    if not isinstance(content, str):
        raise UnusableRowError(f"the {content_key!r} of a message is not text")
    role = str(value[role_key])
    return Message(_SHAREGPT_ROLES.get(role, role) if role_key == "from" else role, content)


def _list(row: Row, key: str) -> Sequence[Any]:
    value = row.get(key)
    if value is not None and hasattr(value, "tolist"):
        value = value.tolist()
    if not isinstance(value, (list, tuple)) or not value:
        raise UnusableRowError(f"{key} is not a list of messages")
    return value


def _messages(row: Row) -> tuple[Message, ...]:
    return tuple(_message(value, "role", "content") for value in _list(row, "messages"))


def _sharegpt(row: Row) -> tuple[Message, ...]:
    turns = tuple(_message(value, "from", "value") for value in _list(row, "conversations"))
    return _with_system(row, turns)


def _alpaca(row: Row) -> tuple[Message, ...]:
    prompt = "\n".join(filter(None, (_text(row, "instruction", required=True), _text(row, "input"))))
    history = row.get("history")
    earlier = history if isinstance(history, (list, tuple)) else ()
    turns: list[Message] = []
    for pair in earlier:
        if not isinstance(pair, (list, tuple)) or len(pair) != 2:
            raise UnusableRowError("history is not a list of (question, answer) pairs")
        turns += [Message("user", str(pair[0])), Message("assistant", str(pair[1]))]
    answer = Message("assistant", _text(row, "output", required=True))
    return _with_system(row, (*turns, Message("user", prompt), answer))


def _prompt_completion(row: Row) -> tuple[Message, ...]:
    prompt = Message("user", _text(row, "prompt", required=True))
    return (prompt, Message("assistant", _text(row, "completion", required=True)))


def _with_system(row: Row, turns: tuple[Message, ...]) -> tuple[Message, ...]:
    system = _text(row, "system")
    return (Message("system", system), *turns) if system.strip() else turns


FORMATS = (
    Format("messages", ("messages",), ("messages",), _messages),
    Format("sharegpt", ("conversations",), ("conversations", "system"), _sharegpt),
    Format(
        "alpaca", ("instruction", "output"), ("instruction", "input", "output", "system", "history"), _alpaca
    ),
    Format("prompt-completion", ("prompt", "completion"), ("prompt", "completion"), _prompt_completion),
    Format("text", ("text",), ("text",), lambda row: _text(row, "text", required=True)),
)
"""In the order in which they are tried."""
