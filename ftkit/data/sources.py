"""Where rows come from: rows in memory, a starter set, local files, or a dataset on the Hub."""

from __future__ import annotations

import csv
import difflib
import gzip
import io
import json
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from ftkit.data.starter import STARTER_SETS, StarterSet
from ftkit.errors import DataError

Row = dict[str, Any]
FILES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".arrow", ".txt")
COMPRESSED = (".gz", ".zst")


def starter_set(source: str) -> StarterSet | None:
    """The starter set that `starter:NAME` names, or None for another source."""
    if not source.startswith("starter:"):
        return None
    name = source.removeprefix("starter:")
    if name not in STARTER_SETS:
        raise DataError(f"There is no starter set {name!r}.", f"There are: {', '.join(STARTER_SETS)}.")
    return STARTER_SETS[name]


def is_local(source: str) -> bool:
    """Whether a source names a file or folder rather than a dataset on the Hub."""
    path = Path(source).expanduser()
    return path.exists() or _kind(path) in FILES or source.startswith((".", "/", "~"))


def read_rows(
    source: str, *, subset: str | None = None, split: str = "train", offline: bool = False
) -> list[Any]:
    """All rows of a local file, of a folder of files, or of a Hub dataset.

    Raises
    ------
    DataError
        When it is missing, cannot be read, or holds no rows.
    """
    path = Path(source).expanduser()
    rows = _local(path) if is_local(source) else _hub(source, subset, split, offline)
    if not rows:
        raise DataError(f"{source} holds no rows.", "Choose a file with at least one row.")
    return rows


def rows_in_memory(data: Any) -> list[Any]:
    """Rows of a list of objects, a pandas or polars DataFrame, or a `datasets.Dataset`.

    Raises
    ------
    DataError
        When it is something else, or empty.
    """
    if hasattr(data, "to_dict") and hasattr(data, "columns"):  # pandas
        rows = data.to_dict("records")
    elif hasattr(data, "to_dicts"):  # polars
        rows = data.to_dicts()
    elif isinstance(data, Mapping) or not isinstance(data, Iterable) or isinstance(data, (str, bytes)):
        raise DataError(
            f"Rows cannot be taken from {type(data).__name__}.",
            "Give a list of objects, a DataFrame, a datasets.Dataset, or the path of a file.",
        )
    else:
        rows = [dict(row) if isinstance(row, Mapping) else row for row in data]
    if not rows:
        raise DataError("There are no rows.", "Give at least one.")
    return rows


def _kind(path: Path) -> str:
    """The suffix that says what a file is, without that of a compression."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    while suffixes and suffixes[-1] in COMPRESSED:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def _local(path: Path) -> list[Any]:
    if path.is_dir():
        files = sorted(child for child in path.iterdir() if child.is_file() and _kind(child) in FILES)
        if not files:
            raise DataError(f"The folder {path} holds no data files.", f"Known: {', '.join(FILES)}.")
        kinds = {_kind(child) for child in files}
        if len(kinds) > 1:
            raise DataError(
                f"The folder {path} holds files of several kinds ({', '.join(sorted(kinds))}).",
                "Name one file, or keep files of one kind in a folder.",
            )
        return [row for child in files for row in _file(child)]
    return _file(path)


def _file(path: Path) -> list[Any]:
    if not path.is_file():
        raise DataError(f"There is no file {path}.", _nearest(path))
    reader = _READERS.get(_kind(path))
    if reader is None:
        raise DataError(f"{path.name} is of an unknown kind.", f"Known: {', '.join(FILES)}.")
    try:
        return reader(path)
    except OSError as error:
        raise DataError(
            f"{path} cannot be read: {error.strerror or error}.", "Check the file and its permissions."
        ) from None


def _nearest(path: Path) -> str:
    if not path.parent.is_dir():
        return f"The folder {path.parent} does not exist either."
    near = difflib.get_close_matches(path.name, [entry.name for entry in path.parent.iterdir()], n=3)
    return f"Did you mean {', '.join(near)}?" if near else f"It is looked for in {path.parent.resolve()}."


def _bytes(path: Path) -> bytes:
    suffix = path.suffix.lower()
    if suffix == ".gz":
        try:
            return gzip.decompress(path.read_bytes())
        except (gzip.BadGzipFile, EOFError):
            raise DataError(f"{path} is not a whole gzip file.", "Fetch or write it again.") from None
    if suffix == ".zst":
        import pyarrow

        try:
            with pyarrow.input_stream(str(path), compression="zstd") as stream:
                return stream.read()
        except (pyarrow.ArrowException, OSError):
            raise DataError(f"{path} is not a whole zstd file.", "Fetch or write it again.") from None
    return path.read_bytes()


def _text(path: Path) -> str:
    data = _bytes(path)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{path} is not UTF-8 text: line {line} holds the byte 0x{data[error.start]:02x} "
            f"(byte {error.start}).",
            "Save it as UTF-8.",
        ) from None


def _jsonl(path: Path) -> list[Any]:
    rows = []
    # not splitlines(): JSON strings may hold U+2028 and its like as they are
    for number, line in enumerate(_text(path).split("\n"), start=1):
        if line.strip():
            rows.append(_object(_parse(line, path, number), f"{path}, line {number}"))
    return rows


def _json(path: Path) -> list[Any]:
    text = _text(path)
    if not text.strip():
        return []
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data":  # JSON lines under the name .json
            return _jsonl(path)
        raise _broken(path, error, 1) from None
    except RecursionError:
        raise DataError(f"{path} is nested too deeply.", "A row is an object of plain columns.") from None
    if isinstance(value, dict):
        lists = [inner for inner in value.values() if isinstance(inner, list)]
        value = lists[0] if len(value) == 1 and lists else [value]
    if not isinstance(value, list):
        raise DataError(
            f"{path} is not a list of rows.", "Write [{...}, {...}], or one object a line as .jsonl."
        )
    return [_object(row, f"{path}, row {number}") for number, row in enumerate(value)]


def _parse(text: str, path: Path, first_line: int) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise _broken(path, error, first_line) from None
    except RecursionError:
        raise DataError(
            f"{path}, line {first_line} is nested too deeply.", "A row is an object of plain columns."
        ) from None


def _broken(path: Path, error: json.JSONDecodeError, first_line: int) -> DataError:
    where = f"{path}, line {first_line + error.lineno - 1}, column {error.colno}"
    return DataError(f"{where}: broken JSON ({error.msg}).", "Mend that line; nothing was changed.")


def _object(value: Any, where: str) -> Row:
    if isinstance(value, str):
        return {"text": value}
    if not isinstance(value, dict):
        raise DataError(f"{where}: a row must be an object, this is {type(value).__name__}.", "Write {...}.")
    return value


def _csv(path: Path) -> list[Any]:
    text = _text(path)
    header = next((line for line in text.split("\n") if line.strip()), "")
    delimiter = "\t" if _kind(path) == ".tsv" else max(",;\t", key=header.count)
    before = csv.field_size_limit(sys.maxsize)  # a cell may well be longer than the default 128 KiB
    try:
        return _csv_rows(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True), path)
    except csv.Error as error:
        raise DataError(
            f"{path} is not valid CSV: {error}.", "Look for a quote that is never closed."
        ) from None
    finally:
        csv.field_size_limit(before)


def _csv_rows(reader: Any, path: Path) -> list[Any]:
    names = [name.strip() for name in next(reader, [])]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(f"{path} has two columns {twice[0]!r}.", "Give each column a name of its own.")
    rows: list[Any] = []
    for cells in reader:
        if len(cells) not in (0, len(names)):
            raise DataError(
                f"{path}, line {reader.line_num}: {len(cells)} cells, the header has {len(names)}.",
                "Put text that holds separators or line breaks into quotes.",
            )
        if cells:
            rows.append(dict(zip(names, cells, strict=True)))
    return rows


def _arrow(path: Path) -> list[Any]:
    import pyarrow
    import pyarrow.parquet

    buffer = pyarrow.BufferReader(_bytes(path))
    try:
        if _kind(path) == ".parquet":
            return pyarrow.parquet.read_table(buffer).to_pylist()
        try:
            return pyarrow.ipc.open_file(buffer).read_all().to_pylist()
        except pyarrow.ArrowInvalid:  # the streaming form, which `datasets` writes
            buffer.seek(0)
            return pyarrow.ipc.open_stream(buffer).read_all().to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(
            f"{path} cannot be read: {str(error).splitlines()[0]:.200}", "Fetch or write it again."
        ) from None


def _paragraphs(path: Path) -> list[Any]:
    paragraphs = _text(path).replace("\r\n", "\n").split("\n\n")
    return [{"text": paragraph.strip()} for paragraph in paragraphs if paragraph.strip()]


def _hub(source: str, subset: str | None, split: str, offline: bool) -> list[Any]:
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


_READERS: dict[str, Callable[[Path], list[Any]]] = {
    ".jsonl": _jsonl,
    ".ndjson": _jsonl,
    ".json": _json,
    ".csv": _csv,
    ".tsv": _csv,
    ".parquet": _arrow,
    ".arrow": _arrow,
    ".txt": _paragraphs,
}
