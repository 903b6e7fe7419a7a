"""What goes through the pipes between a process and its workers.

A message is a length (8 bytes, little-endian) and so many bytes of JSON; the tokens of a chunk follow theirs
as plain arrays.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from ftkit.data.encoded import Chunk, Encoded, Limits
from ftkit.data.example import Conversation, Message, PlainText, Refusal
from ftkit.errors import DataError, TemplateError

if TYPE_CHECKING:
    from ftkit.data.template import Template


def send(stream: BinaryIO, message: dict[str, Any]) -> None:
    """Write one message."""
    data = json.dumps(message).encode()
    stream.write(len(data).to_bytes(8, "little") + data)
    stream.flush()


def receive(stream: BinaryIO) -> dict[str, Any] | None:
    """Read one message; None where the other side has ended."""
    size = stream.read(8)
    if len(size) < 8:
        return None
    length = int.from_bytes(size, "little")
    data = stream.read(length)
    return json.loads(data) if len(data) == length else None


def send_chunk(stream: BinaryIO, chunk: Chunk) -> None:
    """Write the tokens of a chunk."""
    about = {
        "refused": [[one.row, one.reason] for one in chunk.refused],
        "shortened": chunk.shortened,
        "numbers": [row.row for row in chunk.rows],
        "labels": [row.label for row in chunk.rows],
        "lengths": [len(row.ids) for row in chunk.rows],
    }
    send(stream, about)
    if chunk.rows:
        stream.write(np.concatenate([row.ids for row in chunk.rows]).astype("<i4").tobytes())
        stream.write(np.concatenate([row.mask for row in chunk.rows]).astype("|b1").tobytes())
        stream.flush()


def receive_chunk(stream: BinaryIO) -> Chunk | None:
    """Read the tokens of a chunk; None where the other side has ended.

    Raises
    ------
    DataError
        What the worker raised.
    """
    about = receive(stream)
    if about is None:
        return None
    if "error" in about:
        raise DataError(*about["error"])
    lengths = about["lengths"]
    total = sum(lengths)
    data = stream.read(5 * total)
    if len(data) < 5 * total:
        return None
    ends = np.cumsum(lengths, dtype=np.int64)[:-1]
    ids = np.split(np.frombuffer(data, "<i4", total), ends)
    mask = np.split(np.frombuffer(data, "|b1", total, offset=4 * total), ends)
    rows = [Encoded(*parts) for parts in zip(ids, mask, about["numbers"], about["labels"], strict=False)]
    return Chunk(rows, [Refusal(*one) for one in about["refused"]], about["shortened"])


def settings_of(template: Template, limits: Limits) -> dict[str, Any]:
    """What a worker needs to know; `prepare` reads it."""
    tokenizer, objective = template.tokenizer, limits.objective
    try:
        source = template.source
    except TemplateError:
        source = None  # plain text needs none
    return {
        "backend": tokenizer.backend_tokenizer.to_str(),
        "special": {name: _text(token) for name, token in tokenizer.special_tokens_map.items()},
        "split_special_tokens": bool(getattr(tokenizer, "split_special_tokens", False)),
        "source": source,
        "system_prompt": template.system_prompt,
        "objective": [type(objective).__name__, objective.model_dump(mode="json")],
        "max_length": limits.max_length,
        "too_long": limits.too_long,
    }


def _text(token: Any) -> Any:
    return [str(one) for one in token] if isinstance(token, (list, tuple)) else str(token)


def prepare(settings: dict[str, Any]) -> tuple[Template, Limits]:
    """The template and the limits in the worker."""
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    import ftkit.recipe
    from ftkit.data.template import Template

    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(settings["backend"]),
        split_special_tokens=settings["split_special_tokens"],
        **settings["special"],
    )
    tokenizer.chat_template = settings["source"]
    kind, fields = settings["objective"]
    limits = Limits(getattr(ftkit.recipe, kind)(**fields), settings["max_length"], settings["too_long"])
    return Template(tokenizer, system_prompt=settings["system_prompt"]), limits


def plain(example: Conversation | PlainText) -> dict[str, Any]:
    """An example as JSON takes it; `example_of` reads it."""
    if isinstance(example, PlainText):
        return {"row": example.row, "text": example.text}
    return {
        "row": example.row,
        "messages": [vars(message) for message in example.messages],
        "tools": example.tools,
        "rated": example.rated,
        "unanswered": example.unanswered,
    }


def example_of(row: dict[str, Any]) -> Conversation | PlainText:
    if "text" in row:
        return PlainText(row["text"], row["row"])
    messages = (Message(**turn | {"tool_calls": tuple(turn["tool_calls"])}) for turn in row["messages"])
    return Conversation(
        tuple(messages),
        row["row"],
        tools=tuple(row["tools"]),
        rated=row["rated"],
        unanswered=row["unanswered"],
    )
