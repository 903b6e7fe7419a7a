"""LLaMA-Factory's `dataset_info.json`: its entries as sources and layouts.

The keys mean what they mean there: when `columns` is given, a column that it does not name is absent.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ftkit.data.formats import Layout
from ftkit.data.turns import TAG_NAMES, Tags
from ftkit.errors import DataError
from ftkit.folders import inside, is_there, named

NAME = "dataset_info.json"
_SOURCES = ("file_name", "hf_hub_url")
_ELSEWHERE = ("ms_hub_url", "om_hub_url", "script_url", "cloud_file_name")
_KEYS = (*_SOURCES, "formatting", "ranking", "subset", "split", "folder", "num_samples", "columns", "tags")
_ROLE_OF = {
    "prompt": "prompt",
    "query": "query",
    "response": "response",
    "history": "history",
    "messages": "messages",
    "system": "system",
    "tools": "tools",
    "images": "images",
    "videos": "",
    "audios": "",
    "chosen": "chosen",
    "rejected": "rejected",
    "kto_tag": "rating",
}
_ALPACA = {"prompt": "instruction", "query": "input", "response": "output"}
_SHAREGPT = {"messages": "conversations"}
_SHAREGPT_TAGS = {
    "role_tag": "from",
    "content_tag": "value",
    "user_tag": "human",
    "assistant_tag": "gpt",
    "observation_tag": "observation",
    "function_tag": "function_call",
    "system_tag": "system",
}


@dataclass(frozen=True)
class Entry:
    """One dataset of a `dataset_info.json`.

    Attributes
    ----------
    name
        What the listing calls it.
    source
        A path, or a Hub id where `on_hub`.
    num_samples
        Use only so many rows; None: all.
    """

    name: str
    source: str
    on_hub: bool
    subset: str | None
    split: str
    num_samples: int | None
    layout: Layout


def find(source: str) -> Path | None:
    """The `dataset_info.json` that a source names: the file itself or its folder."""
    path = named(source)
    if not is_there(path):
        return None
    if path.name == NAME and path.is_file():
        return path
    return path / NAME if (path / NAME).is_file() else None


def names(subset: str | None) -> list[str | None]:
    """The datasets that are asked for: one, or several with commas between them."""
    return [name.strip() for name in subset.split(",") if name.strip()] if subset else [None]


def entry(path: Path, name: str | None) -> Entry:
    """The entry called `name`, or the only one.

    Raises
    ------
    DataError
        When the file is broken, there is no such entry, a key is unknown, or ftkit cannot reach its source.
    """
    entries = _read(path)
    if name is None:
        if len(entries) != 1:
            raise DataError(
                f"{path} lists {len(entries)} datasets.", f"Name one in data.subset: {', '.join(entries)}."
            )
        name = next(iter(entries))
    if name not in entries:
        near = difflib.get_close_matches(name, entries, n=3)
        raise DataError(
            f"{path} lists no dataset {name!r}.",
            f"Did you mean {', '.join(near)}?" if near else f"It lists: {', '.join(entries)}.",
        )
    return _entry(path, name, entries[name])


def _read(path: Path) -> dict[str, Any]:
    try:
        entries = json.loads(path.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path}, line {error.lineno}, column {error.colno}: broken JSON ({error.msg}).",
            "Mend that place; nothing was changed.",
        ) from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text (byte {error.start}).", "Save it as UTF-8.") from None
    except (RecursionError, ValueError) as error:  # such as a number of thousands of digits
        raise DataError(f"{path} cannot be read: {error}.", "Mend that value.") from None
    except OSError as error:
        raise DataError(
            f"{path} cannot be read: {error.strerror or error}.", "Check its permissions."
        ) from None
    if not isinstance(entries, dict) or not all(isinstance(value, dict) for value in entries.values()):
        raise DataError(f"{path} is not an object of datasets.", 'Write {"NAME": {"file_name": ...}, ...}.')
    return entries


def _entry(path: Path, name: str, values: Mapping[str, Any]) -> Entry:
    where = f"{path}, {name}"
    unknown = [key for key in values if key not in (*_KEYS, *_ELSEWHERE)]
    if unknown:
        near = difflib.get_close_matches(unknown[0], _KEYS, n=1)
        hint = f"Did you mean {near[0]!r}?" if near else f"Known: {', '.join(_KEYS)}."
        raise DataError(f"{where}: unknown key {unknown[0]!r}.", hint)
    on_hub = "hf_hub_url" in values
    if not on_hub and "file_name" not in values:
        named = next((key for key in _ELSEWHERE if key in values), None)
        what = f"its source is {named}, which ftkit cannot reach" if named else "it names no source"
        raise DataError(f"{where}: {what}.", "Fetch it yourself and name the file in file_name.")
    samples = values.get("num_samples")
    if samples is not None and (not isinstance(samples, int) or samples < 1):
        raise DataError(f"{where}: num_samples is not a positive number: {samples!r:.40}.", "Write 1000.")
    source = str(values["hf_hub_url"]) if on_hub else str(_inside(path, str(values["file_name"]), where))
    return Entry(
        name=name,
        source=source,
        on_hub=on_hub,
        subset=values.get("subset") or (values.get("folder") if on_hub else None),
        split=values.get("split") or "train",
        num_samples=samples,
        layout=_layout(values, where),
    )


def _inside(path: Path, name: str, where: str) -> Path:
    """A file below the folder of the listing: a listing from elsewhere must not read the rest of the disk."""
    target = inside(path.parent, name)
    if target is None:
        raise DataError(
            f"{where}: file_name {name!r:.200} leaves the folder {path.parent}.", "Put the file into it."
        )
    return target


def _layout(values: Mapping[str, Any], where: str) -> Layout:
    formatting = values.get("formatting", "alpaca")
    if formatting not in ("alpaca", "sharegpt", "openai"):
        raise DataError(f"{where}: unknown formatting {formatting!r}.", "Known: alpaca, sharegpt and openai.")
    columns = _columns(values.get("columns"), formatting, where)
    tags = _tags(values.get("tags"), formatting, where)
    if values.get("ranking"):
        kind = "preference" if "chosen" in columns else "ranking"
        columns.pop("response", None) if kind == "preference" else None
    elif "rating" in columns:
        kind = "rated" if "messages" in columns else "rated-replies"
    elif "messages" in columns:
        kind = "messages" if formatting == "openai" else "sharegpt"
    elif "response" in columns:
        kind = "prompt-completion"
    else:  # pre-training: the prompt alone
        kind, columns = "text", {"text": columns.get("prompt", "text")}
    return Layout(kind, columns, tags, 1.0, f"{NAME} says so")


def _columns(given: Any, formatting: str, where: str) -> dict[str, str]:
    if given is None:
        return dict(_ALPACA if formatting == "alpaca" else _SHAREGPT)
    if not isinstance(given, Mapping):
        raise DataError(f"{where}: columns is not an object.", 'Write {"prompt": "instruction", ...}.')
    unknown = [key for key in given if key not in _ROLE_OF]
    if unknown:
        raise DataError(f"{where}: unknown column {unknown[0]!r}.", f"Known: {', '.join(_ROLE_OF)}.")
    unread = [key for key, column in given.items() if column and not _ROLE_OF[key]]
    if unread:
        raise DataError(f"{where}: ftkit does not train on {unread[0]}.", "Leave the column out of columns.")
    columns = {_ROLE_OF[key]: str(column) for key, column in given.items() if column}
    if formatting != "alpaca" and "messages" not in columns:
        columns["messages"] = _SHAREGPT["messages"]
    return columns


def _tags(given: Any, formatting: str, where: str) -> Tags:
    if formatting == "alpaca":
        return Tags()
    if given is not None and not isinstance(given, Mapping):
        raise DataError(f"{where}: tags is not an object.", 'Write {"role_tag": "from", ...}.')
    unknown = [name for name in given or {} if name not in TAG_NAMES]
    if unknown:
        raise DataError(f"{where}: unknown tag {unknown[0]!r}.", f"Known: {', '.join(TAG_NAMES)}.")
    usual = {"role_tag": "role", "content_tag": "content"} if formatting == "openai" else _SHAREGPT_TAGS
    return Tags(**usual | {name: str(value) for name, value in (given or {}).items()})
