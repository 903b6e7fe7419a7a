"""Rows out of a file, one after the other: of a large file only the part at hand is in memory."""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import itertools
import json
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from ftkit.errors import DataError

Row = dict[str, Any]
COMPRESSED = (".gz", ".zst")
BLOCK = 1 << 24
"""Characters of a JSON file that are read at once: most files are not longer."""
UNPACKED, UNPACKED_AT_LEAST = 200, 200_000_000
"""A compressed file may become so many times as large, and so many bytes in any case."""
_PIECE = 1 << 17
_TAIL = 16
"""A fault so near the end of what has been read may be the cut rather than the file."""
_ENCODINGS = {b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}


def kind(path: Path) -> str:
    """The suffix that says what a file is, without that of a compression."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    while suffixes and suffixes[-1] in COMPRESSED:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def rows_of(path: Path) -> Iterator[Any]:
    """The rows of one file, in order, read as they are asked for.

    Raises
    ------
    DataError
        When the file is of an unknown kind, broken or cannot be read; with the line where there is one.
    """
    reader = READERS.get(kind(path))
    if reader is None:
        raise DataError(f"{path.name} is of an unknown kind.", f"Known: {', '.join(READERS)}.")
    try:
        yield from reader(path)
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise DataError(f"{path} is not a whole gzip file.", "Fetch or write it again.") from None
    except UnicodeError:
        raise _not_text(path) from None
    except ValueError as error:  # such as a number of thousands of digits
        raise DataError(f"{path} cannot be read: {error}.", "Mend that value.") from None
    except OSError as error:
        if path.suffix.lower() == ".zst" and error.errno is None:
            raise DataError(f"{path} is not a whole zstd file.", "Fetch or write it again.") from None
        raise DataError(
            f"{path} cannot be read: {error.strerror or error}.", "Check the file and its permissions."
        ) from None


class _Unpacked(io.RawIOBase):
    """What a compressed file holds, up to a size that rows explain: kilobytes may unpack to a whole disk."""

    def __init__(self, source: IO[bytes], path: Path) -> None:
        self._source, self._path = source, path
        self._left = UNPACKED_AT_LEAST + UNPACKED * path.stat().st_size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._source.read(len(buffer))
        self._left -= len(data)
        if self._left < 0:
            raise DataError(
                f"{self._path} unpacks to more than {UNPACKED} times its size.",
                "No rows do. If you trust the file, unpack it yourself and name what comes out.",
            )
        buffer[: len(data)] = data
        return len(data)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    """The file's bytes, unpacked."""
    suffix = path.suffix.lower()
    if suffix == ".gz":
        with gzip.open(path, "rb") as packed:
            yield io.BufferedReader(_Unpacked(packed, path), _PIECE)  # type: ignore[arg-type]
    elif suffix == ".zst":
        import pyarrow

        with pyarrow.input_stream(str(path), compression="zstd") as stream:
            yield io.BufferedReader(_Unpacked(stream, path), _PIECE)
    else:
        with path.open("rb") as file:
            yield file


@contextlib.contextmanager
def _text(path: Path, newline: str | None) -> Iterator[io.TextIOWrapper]:
    """The file as text: UTF-8, or UTF-16 where it begins with its mark."""
    with _opened(path) as file:
        encoding = _ENCODINGS.get(file.read(2), "utf-8-sig")
    with _opened(path) as file, io.TextIOWrapper(file, encoding, newline=newline) as text:
        yield text


def _not_text(path: Path) -> DataError:
    """Where a file stops being text; read again by lines, because a fault inside a block has no line."""
    at = 0
    with _opened(path) as file:
        for number, line in enumerate(file, start=1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as error:
                where = f"line {number} holds the byte 0x{line[error.start]:02x} (byte {at + error.start})"
                return DataError(f"{path} is not UTF-8 text: {where}.", "Save it as UTF-8.")
            at += len(line)
    return DataError(f"{path} is not whole UTF-16 text.", "Save it as UTF-8.")


def _jsonl(path: Path) -> Iterator[Any]:
    # only "\n" ends a line: JSON strings may hold U+2028 and its like as they are
    with _text(path, "\n") as text:
        for number, line in enumerate(text, start=1):
            if line.strip():
                yield _object(_parse(line.rstrip("\n"), path, number), f"{path}, line {number}")


def _json(path: Path) -> Iterator[Any]:
    with _text(path, "\n") as file:
        text = file.read(BLOCK)
        whole = len(text) < BLOCK
        if not whole and text.lstrip().startswith("["):
            for number, row in enumerate(_elements(file, text, path)):
                yield _object(row, f"{path}, row {number}")
            return
        if not whole and _is_lines(text):
            yield from _jsonl(path)
            return
        text += "" if whole else file.read()
    if not text.strip():
        return
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data":  # JSON lines under the name .json
            yield from _jsonl(path)
            return
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
    for number, row in enumerate(value):
        yield _object(row, f"{path}, row {number}")


def _is_lines(text: str) -> bool:
    """Whether the first line is an object by itself."""
    first, _, rest = text.lstrip().partition("\n")
    try:
        return bool(rest) and isinstance(json.loads(first), dict)
    except (ValueError, RecursionError):
        return False


def _elements(file: IO[str], text: str, path: Path) -> Iterator[Any]:
    """The values of a JSON list that is read piece by piece; each piece at least doubles what is at hand."""
    decoder = json.JSONDecoder()
    lines, columns = 0, 0  # of what has been dropped: whole lines, and characters of the line begun

    def fault(message: str, at: int) -> DataError:
        line = lines + text.count("\n", 0, at) + 1
        start = text.rfind("\n", 0, at)
        column = at - start if start >= 0 else columns + at + 1
        where = f"{path}, line {line}, column {column}"
        return DataError(f"{where}: broken JSON ({message}).", "Mend that line; nothing was changed.")

    at = text.index("[") + 1
    need_comma = False
    while True:
        while at < len(text) and text[at] in " \t\r\n":
            at += 1
        found = at < len(text)
        if found and text[at] == "]":
            rest = (text[at + 1 :] + file.read(BLOCK)).strip()
            if rest:
                raise fault("Extra data", at + 1)
            return
        if found and need_comma:
            if text[at] != ",":
                raise fault("Expecting ',' delimiter", at)
            at += 1
            need_comma = False
            continue
        value = None
        if found:
            try:
                value, end = decoder.raw_decode(text, at)
                found = end < len(text)  # a number may go on
            except json.JSONDecodeError as error:
                cut = error.pos >= len(text) - _TAIL or error.msg.startswith("Unterminated string")
                if not cut:
                    raise fault(error.msg, error.pos) from None
                found = False
            except RecursionError:
                raise fault("nested too deeply", at) from None
        if not found:
            more = file.read(max(BLOCK, len(text) - at))
            if not more:
                raise fault("the list is not closed", len(text))
            dropped = text[:at]
            lines += dropped.count("\n")
            columns = len(dropped) - dropped.rfind("\n") - 1 if "\n" in dropped else columns + len(dropped)
            text, at = text[at:] + more, 0
            continue
        yield value
        at, need_comma = end, True


def _parse(text: str, path: Path, first_line: int) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise _broken(path, error, first_line) from None
    except RecursionError:
        raise DataError(
            f"{path}, line {first_line} is nested too deeply.", "A row is an object of plain columns."
        ) from None
    except ValueError as error:  # a number of thousands of digits
        raise DataError(f"{path}, line {first_line}: {error}.", "Mend that line.") from None


def _broken(path: Path, error: json.JSONDecodeError, first_line: int) -> DataError:
    where = f"{path}, line {first_line + error.lineno - 1}, column {error.colno}"
    return DataError(f"{where}: broken JSON ({error.msg}).", "Mend that line; nothing was changed.")


def _object(value: Any, where: str) -> Row:
    if isinstance(value, str):
        return {"text": value}
    if not isinstance(value, dict):
        raise DataError(f"{where}: a row must be an object, this is {type(value).__name__}.", "Write {...}.")
    return value


def _csv(path: Path) -> Iterator[Any]:
    before = csv.field_size_limit(min(sys.maxsize, 2**31 - 1))  # a cell may be longer than 128 KiB
    try:
        with _text(path, "") as text:
            header = next((line for line in text if line.strip()), "")
            delimiter = "\t" if kind(path) == ".tsv" else max(",;\t", key=header.count)
            lines = itertools.chain([header], text)
            yield from _csv_rows(csv.reader(lines, delimiter=delimiter, strict=True), path)
    except csv.Error as error:
        raise DataError(
            f"{path} is not valid CSV: {error}.", "Look for a quote that is never closed."
        ) from None
    finally:
        csv.field_size_limit(before)


def _csv_rows(reader: Any, path: Path) -> Iterator[Any]:
    names = [name.strip() for name in next(reader, [])]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(f"{path} has two columns {twice[0]!r}.", "Give each column a name of its own.")
    for cells in reader:
        if len(cells) not in (0, len(names)):
            raise DataError(
                f"{path}, line {reader.line_num}: {len(cells)} cells, the header has {len(names)}.",
                "Put text that holds separators or line breaks into quotes.",
            )
        if cells:
            yield dict(zip(names, cells, strict=True))


def _arrow(path: Path) -> Iterator[Any]:
    import pyarrow
    import pyarrow.parquet

    try:
        with _opened(path) if path.suffix.lower() in COMPRESSED else contextlib.nullcontext() as packed:
            source = pyarrow.BufferReader(packed.read()) if packed else pyarrow.memory_map(str(path))
        if kind(path) == ".parquet":
            batches = pyarrow.parquet.ParquetFile(source).iter_batches(batch_size=256)
        else:
            try:
                found = pyarrow.ipc.open_file(source)
                batches = (found.get_batch(n) for n in range(found.num_record_batches))
            except pyarrow.ArrowInvalid:  # the streaming form, which `datasets` writes
                source.seek(0)
                batches = iter(pyarrow.ipc.open_stream(source))
        for batch in batches:
            batch.validate(full=True)  # a file from elsewhere may point outside of itself
            yield from batch.to_pylist()
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError, MemoryError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise DataError(
            f"{path} cannot be read: {(str(error) or type(error).__name__).splitlines()[0]:.200}",
            "Fetch or write it again.",
        ) from None


def _paragraphs(path: Path) -> Iterator[Any]:
    lines: list[str] = []
    with _text(path, None) as text:
        for line in itertools.chain(text, ["\n"]):
            if line != "\n":
                lines.append(line)
                continue
            if paragraph := "".join(lines).strip():
                yield {"text": paragraph}
            lines = []


READERS: dict[str, Callable[[Path], Iterator[Any]]] = {
    ".jsonl": _jsonl,
    ".ndjson": _jsonl,
    ".json": _json,
    ".csv": _csv,
    ".tsv": _csv,
    ".parquet": _arrow,
    ".arrow": _arrow,
    ".txt": _paragraphs,
}
