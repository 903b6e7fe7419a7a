"""Any Example written out in OpenAI's forms: chat rows, preference rows.

A conversation is `{"messages": [...], "tools": [...]}`; a preference `{"input": {"messages": [...]},
"preferred_output": [...], "non_preferred_output": [...]}`; a rated reply has its `label` beside its messages.
Labels, tags and answer spans become a question and its answer. Plain text has no turns: `{"text": ...}`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ftkit.data.dataset import Dataset
from ftkit.data.example import (
    IMAGE,
    Example,
    Message,
    PlainText,
    PreferencePair,
    RatedReply,
    TaggedTokens,
    as_conversation,
)
from ftkit.errors import DataError


def to_messages(examples: Dataset | Iterable[Example]) -> Iterator[dict[str, Any]]:
    """Each Example as an object ready for `json.dumps`, in order; of a Dataset the training rows.

    Examples
    --------
    >>> from ftkit.data import Conversation, Message, to_messages
    >>> list(to_messages([Conversation((Message("user", "Hi"), Message("assistant", "Hello")))]))
    [{'messages': [{'role': 'user', 'content': 'Hi'}, {'role': 'assistant', 'content': 'Hello'}]}]
    """
    for example in examples.train if isinstance(examples, Dataset) else examples:
        yield _row(example)


def write_messages(
    examples: Dataset | Iterable[Example], path: str | Path, *, overwrite: bool = False
) -> dict[Path, int]:
    """Write Examples as JSON lines; the held-out rows of a Dataset go into `NAME-held_out.jsonl` beside it.

    Returns
    -------
    The files written, with their numbers of rows.

    Raises
    ------
    DataError
        When a file is there already and `overwrite` is not set, or cannot be written.
    """
    target = Path(path).expanduser()
    parts: dict[Path, Iterable[Example]] = {target: examples if not isinstance(examples, Dataset) else ()}
    if isinstance(examples, Dataset):
        parts[target] = examples.train
        if len(examples.held_out):
            parts[target.with_name(f"{target.stem}-held_out{target.suffix}")] = examples.held_out
    for file in parts:
        if file.exists() and not overwrite:
            raise DataError(f"{file} is there already.", "Choose another name, or ask to overwrite it.")
    return {file: _write(file, part) for file, part in parts.items()}


def _write(path: Path, examples: Iterable[Example]) -> int:
    """All or nothing: what is half written never has the file's name."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    count = 0
    try:
        with beside.open("w", encoding="utf-8") as file:
            for row in to_messages(examples):
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
                count += 1
        beside.replace(path)
    except (OSError, UnicodeEncodeError) as error:
        raise DataError(f"{path} cannot be written: {error}.", "Choose another place.") from error
    finally:
        beside.unlink(missing_ok=True)
    return count


def _row(example: Example) -> dict[str, Any]:
    match example:
        case PlainText():
            return {"text": example.text}
        case PreferencePair():
            ids = _Ids()
            return {
                "input": {"messages": _turns(example.prompt, ids)} | _tools(example.tools),
                "preferred_output": _turns(example.chosen, ids.copy()),
                "non_preferred_output": _turns(example.rejected, ids),
            }
        case RatedReply():
            turns = {"messages": _turns(example.messages, _Ids())}
            return turns | _tools(example.tools) | {"label": example.good}
        case TaggedTokens():
            lines = (f"{token}\t{tag}" for token, tag in zip(example.tokens, example.tags, strict=True))
            asked = Message("user", " ".join(example.tokens))
            return {"messages": _turns((asked, Message("assistant", "\n".join(lines))), _Ids())}
    whole = as_conversation(example, images=True)
    assert not isinstance(whole, PlainText)
    return {"messages": _turns(whole.messages, _Ids())} | _tools(whole.tools)


def _tools(tools: Sequence[Any]) -> dict[str, Any]:
    return {"tools": list(tools)} if tools else {}


class _Ids:
    """Ids of tool calls: the row's own, else `call_0`, `call_1` ...; results take them in order."""

    def __init__(self, made: int = 0, waiting: Sequence[str] = ()) -> None:
        self.made = made
        self.waiting = list(waiting)

    def copy(self) -> _Ids:
        return _Ids(self.made, self.waiting)

    def of_call(self, call: Mapping[str, Any]) -> str:
        known = str(call.get("id") or f"call_{self.made}")
        self.made += 1
        self.waiting.append(known)
        return known

    def of_result(self, message: Message) -> str:
        if message.tool_call_id:
            self.waiting = [one for one in self.waiting if one != message.tool_call_id]
            return message.tool_call_id
        return self.waiting.pop(0) if self.waiting else "call_unknown"


def _turns(messages: Sequence[Message], ids: _Ids) -> list[dict[str, Any]]:
    return [_turn(message, ids) for message in messages]


def _turn(message: Message, ids: _Ids) -> dict[str, Any]:
    turn: dict[str, Any] = {"role": message.role, "content": _content(message)}
    if message.tool_calls:
        turn["content"] = turn["content"] or None
        turn["tool_calls"] = [_call(call, ids.of_call(call)) for call in message.tool_calls]
    if message.role == "tool":
        turn["tool_call_id"] = ids.of_result(message)
    if message.name:
        turn["name"] = message.name
    if message.weight != 1:
        turn["weight"] = int(message.weight) if message.weight == int(message.weight) else message.weight
    return turn


def _call(call: Mapping[str, Any], identity: str) -> dict[str, Any]:
    """A call in OpenAI's form: its arguments are JSON text there."""
    function = dict(call["function"])
    arguments = function.get("arguments", {})
    if not isinstance(arguments, str):
        function["arguments"] = json.dumps(arguments, ensure_ascii=False)
    return {"id": identity, "type": "function", "function": function}


def _content(message: Message) -> str | list[dict[str, Any]]:
    if not message.images:
        return message.content
    parts: list[dict[str, Any]] = []
    texts = message.content.split(IMAGE)
    for place, text in enumerate(texts):
        if text:
            parts.append({"type": "text", "text": text})
        if place < len(message.images):
            parts.append({"type": "image_url", "image_url": {"url": message.images[place]}})
    return parts
