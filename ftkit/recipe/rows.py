"""Rows of the running kernel: taken as they are, and written to a file that a Recipe can name.

A run outlives its kernel, so its rows must, too: `Recipe(data=frame)` writes them once, under a name made of
their content, and names that file.
"""

from __future__ import annotations

import datetime
import decimal
import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ftkit.errors import DataError
from ftkit.folders import cache_root

_NAME_CHARACTERS = 60


def rows_in_memory(data: Any) -> Iterable[Any]:
    """Rows of a list of objects, a pandas or polars DataFrame, or a `datasets.Dataset`.

    Raises
    ------
    DataError
        When it is something else.
    """
    if type(data).__name__ == "LazyFrame" and hasattr(data, "collect"):
        data = data.collect()
    if hasattr(data, "iter_rows") and hasattr(data, "columns"):  # polars
        return data.iter_rows(named=True)
    if hasattr(data, "to_dict") and hasattr(data, "columns"):  # pandas
        return data.to_dict("records")
    if isinstance(data, Mapping) or not isinstance(data, Iterable) or isinstance(data, (str, bytes)):
        raise DataError(
            f"Rows cannot be taken from {type(data).__name__}.",
            "Give a list of objects, a DataFrame, a datasets.Dataset, or the path of a file.",
        )
    return (dict(row) if isinstance(row, Mapping) else row for row in data)


def are_rows(value: Any) -> bool:
    """Whether a value is rows themselves, rather than the name of some or the fields of a data section."""
    if isinstance(value, (str, bytes, Path, Mapping)) or hasattr(value, "model_fields"):
        return False
    if isinstance(value, (list, tuple)):
        return any(isinstance(row, Mapping) for row in value)
    names = ("columns", "column_names", "collect_schema", "__next__")
    return any(hasattr(type(value), name) for name in names)  # not the value: some must work to answer


def save_rows(data: Any, name: str = "rows", folder: str | Path | None = None) -> Path:
    """Write rows of the kernel as JSON lines; the same rows make the same file.

    Parameters
    ----------
    data
        A list of objects, a pandas or polars DataFrame, or a `datasets.Dataset`.
    name
        Begins the file's name; a digest of the content follows.
    folder
        Where to. None: ftkit's cache folder.

    Raises
    ------
    DataError
        When there are no rows, a value has no place in JSON, or the file cannot be written.
    """
    target = Path(folder).expanduser() if folder is not None else cache_root() / "saved-rows"
    beside = target / f".writing-{os.getpid()}-{id(data)}"
    digest, count = hashlib.sha256(), 0
    try:
        target.mkdir(parents=True, exist_ok=True)
        with beside.open("wb") as file:
            for row in rows_in_memory(data):
                line = _line(row, count)
                digest.update(line)
                file.write(line)
                count += 1
        if not count:
            raise DataError("There are no rows.", "Give at least one.")
        plain = re.sub(r"[^\w-]+", "-", name)[:_NAME_CHARACTERS].strip("-") or "rows"
        final = target / f"{plain}-{digest.hexdigest()[:12]}.jsonl"
        beside.replace(final)
    except OSError as error:
        raise DataError(
            f"The rows cannot be written to {target}: {error.strerror or error}.", "Free some space there."
        ) from None
    finally:
        beside.unlink(missing_ok=True)
    return final


def _line(row: Any, number: int) -> bytes:
    try:
        text = json.dumps(row, ensure_ascii=False, default=plain)
    except (TypeError, ValueError, RecursionError) as error:
        raise DataError(
            f"Row {number} cannot be written as JSON: {error}.",
            "Keep text, numbers, lists and objects; of an image its path.",
        ) from None
    return text.encode("utf-8", "surrogatepass") + b"\n"


def plain(value: Any) -> Any:
    """A value of a table as JSON has it.

    Raises
    ------
    TypeError
        When it has no place there.
    """
    if hasattr(value, "tolist"):  # numpy
        return value.tolist()
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, (datetime.timedelta, decimal.Decimal)):
        return str(value)
    if isinstance(value, (set, frozenset)):
        return sorted(value, key=str)
    if isinstance(value, Mapping):
        return dict(value)
    msg = f"{type(value).__name__} is no value of JSON"
    raise TypeError(msg)
