"""Lists of turns to Messages, whatever their keys and role names are."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from ftkit.data.example import IMAGE, Message, UnusableRowError

_ROLES = {
    "user": ("user", "human", "prompter", "customer"),
    "assistant": ("assistant", "gpt", "model", "bot", "chatgpt", "ai"),
    "system": ("system", "developer"),
    "tool": ("tool", "observation", "function_response", "ipython", "tool_response"),
    "call": ("function_call", "tool_call"),
}
_KEYS = (("role", "content"), ("from", "value"))
_ADDRESSES = ("image_url", "url", "path", "image")
_CONTENT_KEYS = ("content", "value", "text", "message")


@dataclass(frozen=True)
class Tags:
    """How a conversation's turns are written: the keys of role and content, and the roles' own names.

    Empty: recognised by itself. The names are LLaMA-Factory's.
    """

    role_tag: str = ""
    content_tag: str = ""
    user_tag: str = ""
    assistant_tag: str = ""
    observation_tag: str = ""
    function_tag: str = ""
    system_tag: str = ""

    def roles(self) -> dict[str, str]:
        """Every name of a role to the role; what is set here replaces the names known by themselves."""
        own = {
            "user": self.user_tag,
            "assistant": self.assistant_tag,
            "tool": self.observation_tag,
            "call": self.function_tag,
            "system": self.system_tag,
        }
        known = {name: role for role, names in _ROLES.items() for name in names}
        return known | {name.lower(): role for role, name in own.items() if name}


TAG_NAMES = tuple(field.name for field in fields(Tags))


def looks_like_turns(value: Any) -> bool:
    """Whether a column's value is a list of turns (also as JSON text)."""
    try:
        turns = turn_list(value, "it")
    except UnusableRowError:
        return False
    return bool(turns) and all(isinstance(turn, Mapping) for turn in turns) and bool(keys_of(turns[0]))


def keys_of(turn: Any) -> tuple[str, str] | None:
    """The keys of role and content in a turn; None where it has none that are known."""
    if not isinstance(turn, Mapping):
        return None
    for role, content in _KEYS:
        if role in turn and (content in turn or "tool_calls" in turn):
            return role, content
    known = Tags().roles()
    role = next((key for key, value in turn.items() if str(value).lower() in known), "")
    content = next((key for key in _CONTENT_KEYS if key in turn and key != role), "")
    return (role, content) if role and content else None


def turn_list(value: Any, column: str) -> Sequence[Any]:
    """A column's list of turns, out of a list, an array or JSON text."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise UnusableRowError(f"{column} is text, not a list of messages") from None
    if isinstance(value, Mapping):
        value = [value]
    if not isinstance(value, (list, tuple)) or not value:
        raise UnusableRowError(f"{column} is not a list of messages")
    return value


def read_turns(value: Any, column: str, tags: Tags) -> tuple[Message, ...]:
    """The Messages of a column's value."""
    turns = turn_list(value, column)
    found = keys_of(turns[0])
    role_key = tags.role_tag or (found[0] if found else "role")
    content_key = tags.content_tag or (found[1] if found else "content")
    known = tags.roles()
    return tuple(_read(turn, place, role_key, content_key, known) for place, turn in enumerate(turns))


def _read(turn: Any, place: int, role_key: str, content_key: str, known: Mapping[str, str]) -> Message:
    if not isinstance(turn, Mapping):
        raise UnusableRowError(f"message {place} is {type(turn).__name__}, not an object")
    if role_key not in turn:
        raise UnusableRowError(f"message {place} has no {role_key!r} (it has {', '.join(map(str, turn))})")
    name = str(turn[role_key])
    role = known.get(name.lower())
    if role is None:
        raise UnusableRowError(f"message {place} has the unknown role {name!r:.40}")
    (content, images), calls = (
        _content(turn.get(content_key), place, content_key),
        _calls(turn.get("tool_calls"), place),
    )
    if role == "call":
        role, calls, content = "assistant", _calls(content, place), ""
    weight = turn.get("weight")
    if weight is not None and not (isinstance(weight, (int, float)) and abs(weight) <= sys.float_info.max):
        raise UnusableRowError(f"the weight of message {place} is not a finite number")
    return Message(
        role,
        content,
        calls,
        1.0 if weight is None else float(weight),
        tool_call_id=str(turn.get("tool_call_id") or "") if role == "tool" else "",
        name=str(turn.get("name") or "") if role == "tool" else "",
        images=images,
    )


def _content(value: Any, place: int, key: str) -> tuple[str, tuple[str, ...]]:
    """Text and images, out of text or OpenAI's list of parts; "" for an image without an address."""
    if value is None:
        return "", ()
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        texts, images = [], []
        for part in value:
            kind = part.get("type", "text") if isinstance(part, Mapping) else None
            if kind in ("text", "input_text", "output_text"):
                text = part.get("text") or ""
                if not isinstance(text, str):
                    raise UnusableRowError(
                        f"a text in the {key!r} of message {place} is {type(text).__name__}, not text"
                    )
                texts.append(text)
            elif kind in ("image", "image_url", "input_image"):
                texts.append(IMAGE)
                images.append(address(next((part[name] for name in _ADDRESSES if part.get(name)), "")))
            else:
                what = f"a part of the type {kind!r:.40}" if kind else "an unknown part"
                raise UnusableRowError(f"the {key!r} of message {place} holds {what}")
        return "".join(texts), tuple(images)
    if not isinstance(value, str):
        raise UnusableRowError(f"the {key!r} of message {place} is {type(value).__name__}, not text")
    return value, ()


def address(image: Any) -> str:
    """The path or address of an image, as data sets hold it: text, `{"path": ...}` or `{"url": ...}`."""
    if isinstance(image, Mapping):
        found = next((image[name] for name in ("path", "url") if image.get(name)), None)
        if found is None:
            raise UnusableRowError(
                "an image is given by its bytes alone: save it as a file and name its path"
            )
        image = found
    if not isinstance(image, str):
        raise UnusableRowError(f"an image is {type(image).__name__}, not a path or an address")
    return image


def place_images(messages: Sequence[Message], images: Sequence[str]) -> tuple[Message, ...]:
    """The messages with the images of a column put where they belong.

    Each `IMAGE` in the text takes one, in order; where there is none they stand before the first question.

    Raises
    ------
    UnusableRowError
        When there are more places than images, or the other way round.
    """
    given = [image for message in messages for image in message.images]
    if not images and not given:
        return tuple(messages)
    left = list(images)
    turns = list(messages)
    places = sum(turn.content.count(IMAGE) for turn in turns)
    if images and not places:
        first = next((n for n, turn in enumerate(turns) if turn.role == "user"), 0)
        turns[first] = replace(turns[first], content=IMAGE * len(left) + turns[first].content)
        places = len(left)
    if places != len(left) + sum(map(bool, given)):
        have = len(left) + sum(map(bool, given))
        raise UnusableRowError(f"it has {have} images and {places} places for them ({IMAGE})")
    for n, turn in enumerate(turns):
        own = list(turn.images) + [""] * (turn.content.count(IMAGE) - len(turn.images))
        turns[n] = replace(turn, images=tuple(image or left.pop(0) for image in own))
    return tuple(turns)


def _calls(value: Any, place: int) -> tuple[Mapping[str, Any], ...]:
    """Tool calls in OpenAI's form, from that form or from bare `{"name", "arguments"}`, also as JSON."""
    if value is None or (hasattr(value, "__len__") and not len(value)):
        return ()
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise UnusableRowError(f"the function call of message {place} is not JSON") from None
    if not isinstance(value, (Mapping, Sequence)) and not hasattr(value, "tolist"):
        raise UnusableRowError(f"the function call of message {place} is {type(value).__name__}")
    calls = []
    for call in [value] if isinstance(value, Mapping) else list(value):
        function = call.get("function", call) if isinstance(call, Mapping) else None
        if not isinstance(function, Mapping) or "name" not in function:
            raise UnusableRowError(f"a function call of message {place} has no name")
        function = dict(function)
        arguments = function.get("arguments")
        if isinstance(arguments, str):  # JSON text in OpenAI's form; chat templates want the object
            with contextlib.suppress(ValueError, RecursionError):
                parsed = json.loads(arguments)
                function["arguments"] = parsed if isinstance(parsed, Mapping) else arguments
        own = {"id": str(call["id"])} if call.get("id") else {}
        calls.append({"type": "function", "function": function} | own)
    return tuple(calls)


def check(messages: Sequence[Message], *, answered: bool = True) -> None:
    """Refuse turns that no chat template can make sense of.

    Raises
    ------
    UnusableRowError
        On an empty turn, no answer, or an answer before any question.
    """
    for place, message in enumerate(messages):
        if not message.content.strip() and not message.tool_calls:
            raise UnusableRowError(f"message {place} ({message.role}) is empty")
    if answered and not any(message.role == "assistant" for message in messages):
        raise UnusableRowError("there is no answer (no assistant message) to learn")
    if messages and messages[0].role == "assistant":
        raise UnusableRowError("it starts with an answer: there is no question before it")
