"""Where rows come from: a starter set, a local file, or a dataset on the Hub."""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ftkit.data.starter import STARTER_SETS, StarterSet
from ftkit.errors import DataError

Row = dict[str, Any]
FILES = (".jsonl", ".json", ".csv", ".tsv", ".parquet", ".txt")


def starter_set(source: str) -> StarterSet | None:
    """The starter set that `starter:NAME` names, or None for another source."""
    if not source.startswith("starter:"):
        return None
    name = source.removeprefix("starter:")
    if name not in STARTER_SETS:
        raise DataError(f"There is no starter set {name!r}.", f"There are: {', '.join(STARTER_SETS)}.")
    return STARTER_SETS[name]


def read_rows(
    source: str, *, subset: str | None = None, split: str = "train", offline: bool = False
) -> list[Row]:
    """All rows of a local file or of a Hub dataset.

    Raises
    ------
    DataError
        When it is missing, cannot be read, or holds no rows.
    """
    path = Path(source).expanduser()
    local = path.exists() or path.suffix.lower() in FILES or source.startswith((".", "/", "~"))
    rows = _file(path) if local else _hub(source, subset, split, offline)
    if not rows:
        raise DataError(f"{source} holds no rows.", "Choose a file with at least one row.")
    return rows


def _file(path: Path) -> list[Row]:
    if not path.is_file():
        raise DataError(f"There is no file {path}.", _nearest(path))
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise DataError(f"{path.name} is of an unknown kind.", f"Known: {', '.join(FILES)}.")
    try:
        return reader(path)
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text (byte {error.start}).", "Save it as UTF-8.") from None


def _nearest(path: Path) -> str:
    if not path.parent.is_dir():
        return f"The folder {path.parent} does not exist either."
    near = difflib.get_close_matches(path.name, [entry.name for entry in path.parent.iterdir()], n=3)
    return f"Did you mean {', '.join(near)}?" if near else f"It is looked for in {path.parent.resolve()}."


def _jsonl(path: Path) -> list[Row]:
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), start=1):
        if line.strip():
            rows.append(_object(_parse(line, path, number), f"{path}, line {number}"))
    return rows


def _json(path: Path) -> list[Row]:
    text = path.read_text(encoding="utf-8-sig")
    if not text.strip():
        return []
    value = _parse(text, path, 1)
    if not isinstance(value, list):
        raise DataError(
            f"{path} is not a list of rows.", "Write [{...}, {...}], or one object a line as .jsonl."
        )
    return [_object(row, f"{path}, row {number}") for number, row in enumerate(value)]


def _parse(text: str, path: Path, first_line: int) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        line = first_line + error.lineno - 1
        where = f"{path}, line {line}, column {error.colno}"
        raise DataError(
            f"{where}: broken JSON ({error.msg}).", "Mend that line; nothing was changed."
        ) from None


def _object(value: Any, where: str) -> Row:
    if not isinstance(value, dict):
        raise DataError(f"{where}: a row must be an object, this is {type(value).__name__}.", "Write {...}.")
    return value


def _table(path: Path) -> list[Row]:
    import pandas as pd

    try:
        if path.suffix.lower() == ".parquet":
            frame = pd.read_parquet(path)
        else:
            frame = pd.read_csv(
                path, sep="\t" if path.suffix.lower() == ".tsv" else ",", encoding="utf-8-sig"
            )
    except pd.errors.EmptyDataError:
        return []
    except (ValueError, OSError) as error:
        if isinstance(error, UnicodeDecodeError):
            raise
        raise DataError(
            f"{path} cannot be read: {error}", "Check the separators and quotes near there."
        ) from None
    return [{str(key): value for key, value in row.items()} for row in frame.to_dict("records")]


def _text(path: Path) -> list[Row]:
    paragraphs = path.read_text(encoding="utf-8-sig").split("\n\n")
    return [{"text": paragraph.strip()} for paragraph in paragraphs if paragraph.strip()]


def _hub(source: str, subset: str | None, split: str, offline: bool) -> list[Row]:
    if offline:
        raise DataError(
            f"{source} is neither a local file nor a starter set, and compute.offline is on.",
            "Choose a local file, or turn compute.offline off to ask the Hub.",
        )
    import datasets

    try:
        return list(datasets.load_dataset(source, subset, split=split))
    except Exception as error:
        text = str(error).splitlines()[0][:300] if str(error) else ""
        raise DataError(
            f"The dataset {source!r} cannot be fetched from the Hub ({type(error).__name__}: {text}).",
            "Check its name, data.subset and data.split and the network; or choose a local file.",
        ) from error


_READERS: dict[str, Callable[[Path], list[Row]]] = {
    ".jsonl": _jsonl,
    ".json": _json,
    ".csv": _table,
    ".tsv": _table,
    ".parquet": _table,
    ".txt": _text,
}
