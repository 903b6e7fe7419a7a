"""Where rows come from: a starter set, local files, a dataset on the Hub, or rows in memory."""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ftkit.data import entries
from ftkit.data.readers import COMPRESSED, READERS, kind, rows_of
from ftkit.data.spool import spooled
from ftkit.data.starter import STARTER_SETS, StarterSet
from ftkit.errors import DataError
from ftkit.folders import cache_root, inside, is_there, named
from ftkit.recipe.rows import rows_in_memory

Progress = Callable[[str, float | None], None]
FILES = tuple(READERS)
LARGE = 64_000_000
"""Bytes of files from which on their rows are kept on disk: in memory they take several times as much."""
PACKED = 5
"""How much larger a compressed file is taken to be than it is on disk."""
FEW = 10_000
"""Rows that are always held in memory."""
_HUB_ID = re.compile(r"[\w][\w.-]{0,95}(/[\w][\w.-]{0,95})?")
_LOOK_UP = 1000
"""Rows between two words to the person who waits."""


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
    path = named(source)
    return is_there(path) or kind(path) in FILES or source.startswith((".", "/", "~"))


def read_rows(
    source: str,
    *,
    on_hub: bool | None = None,
    subset: str | None = None,
    split: str = "train",
    offline: bool = False,
    limit: int | None = None,
    progress: Progress | None = None,
) -> Sequence[Any]:
    """The rows of a local file, of a folder of files, or of a Hub dataset.

    A list; or, where they are too many for memory, rows that are read from disk when they are asked for.

    Parameters
    ----------
    on_hub
        Whether it is a Hub dataset; None: told by its name.
    limit
        At most so many, from the first; the others are neither read nor fetched.
    progress
        Told how far it is; may raise to end it.

    Raises
    ------
    DataError
        When it is missing, cannot be read, or holds no rows.
    """
    tell = _teller(source, progress)
    if is_local(source) if on_hub is None else not on_hub:
        rows = _local(named(source), limit, tell)
    else:
        rows = _hub(source, subset, split, offline, limit, tell)
    if not len(rows):
        raise DataError(f"{source} holds no rows.", "Choose a file with at least one row.")
    return rows


def held_rows(data: Any, limit: int | None = None, progress: Progress | None = None) -> Sequence[Any]:
    """The rows of a list of objects, a pandas or polars DataFrame, or a `datasets.Dataset`.

    Raises
    ------
    DataError
        When it is something else, or empty.
    """
    tell = _teller("the rows", progress)

    def taken() -> Iterator[Any]:
        return itertools.islice(rows_in_memory(data), limit)

    if getattr(data, "_fingerprint", None) and getattr(data, "dataset_size", None):
        found = _held_or_kept(data.data.nbytes, limit, ["dataset", data._fingerprint, limit], taken, tell)
    else:
        found = list(_told(taken(), tell))
    if not len(found):
        raise DataError("There are no rows.", "Give at least one.")
    return found


def _teller(source: str, progress: Progress | None) -> Callable[[int], None]:
    def tell(count: int) -> None:
        if progress is not None:
            progress(f"Reading {source}: {count:,} rows", None)

    return tell


def _told(rows: Iterable[Any], tell: Callable[[int], None]) -> Iterator[Any]:
    for count, row in enumerate(rows):
        if count and count % _LOOK_UP == 0:
            tell(count)
        yield row


def is_large(source: str) -> bool:
    """Whether the files that a source names have so many rows that these are kept on disk."""
    path = named(source)
    try:
        return is_there(path) and starter_set(source) is None and _size(_files(path)) > LARGE
    except (DataError, OSError):
        return False


def _size(files: Sequence[Path]) -> int:
    """Bytes of the rows of files, as far as can be known without reading them."""
    packed = (".parquet", *COMPRESSED)
    return sum(file.stat().st_size * (PACKED if file.suffix.lower() in packed else 1) for file in files)


def _local(path: Path, limit: int | None, tell: Callable[[int], None]) -> Sequence[Any]:
    files = _files(path)

    def rows() -> Iterator[Any]:
        return itertools.islice(itertools.chain.from_iterable(map(rows_of, files)), limit)

    try:
        size = _size(files)
        states = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    except OSError as error:
        raise DataError(
            f"{path} cannot be read: {error.strerror or error}.", "Check its permissions."
        ) from None
    return _held_or_kept(size, limit, ["files", states, limit], rows, tell)


def _held_or_kept(
    size: int,
    limit: int | None,
    about: list[Any],
    rows: Callable[[], Iterable[Any]],
    tell: Callable[[int], None],
) -> Sequence[Any]:
    """The rows in memory; of many bytes on disk, under a name made of what they are taken from."""
    if size <= LARGE or (limit is not None and limit <= FEW):
        return list(_told(rows(), tell))
    name = hashlib.sha256(json.dumps([*about, entries.code_digest()]).encode()).hexdigest()
    return spooled(name, lambda: _told(rows(), tell), cache_root() / "rows")


def _files(path: Path) -> list[Path]:
    """The file itself, or the data files of a folder."""
    if not is_there(path):
        raise DataError(f"There is no file {path}.", _nearest(path))
    if not path.is_dir():
        if not path.is_file():
            raise DataError(f"{path} is neither a file nor a folder.", "Choose a file.")
        return [path]
    files = sorted(child for child in path.iterdir() if child.is_file() and kind(child) in FILES)
    if not files:
        raise DataError(f"The folder {path} holds no data files.", f"Known: {', '.join(FILES)}.")
    kinds = {kind(child) for child in files}
    outside = [file.name for file in files if inside(path, file.name) is None]
    if outside:
        raise DataError(
            f"{path / outside[0]} is a link that leaves the folder.",
            "A dataset from elsewhere must not read the rest of the disk. If you mean it, name the file.",
        )
    if len(kinds) > 1:
        raise DataError(
            f"The folder {path} holds files of several kinds ({', '.join(sorted(kinds))}).",
            "Name one file, or keep files of one kind in a folder.",
        )
    return files


def _nearest(path: Path) -> str:
    if not is_there(path.parent) or not path.parent.is_dir():
        return f"The folder {path.parent} does not exist either."
    try:
        names = [entry.name for entry in path.parent.iterdir()]
    except OSError:
        names = []
    near = difflib.get_close_matches(path.name, names, n=3)
    return f"Did you mean {', '.join(near)}?" if near else f"It is looked for in {path.parent.resolve()}."


def _hub(
    source: str,
    subset: str | None,
    split: str,
    offline: bool,
    limit: int | None,
    tell: Callable[[int], None],
) -> Sequence[Any]:
    if offline:
        raise DataError(
            f"{source} is neither a local file nor a starter set, and compute.offline is on.",
            "Choose a local file, or turn compute.offline off to ask the Hub.",
        )
    if not _HUB_ID.fullmatch(source):
        raise DataError(
            f"{source!r:.200} is neither a file here nor the id of a dataset on the Hub.",
            "An id is written organisation/name.",
        )
    import datasets

    tell(0)
    with _fetching(source):
        found = datasets.load_dataset(source, subset, split=split, streaming=limit is not None)

    def rows() -> Iterator[Any]:
        with _fetching(source):
            yield from map(dict, found if limit is None else found.take(limit))

    if limit is not None:  # fetched as far as needed, no further
        return list(_told(rows(), tell))
    return _held_or_kept(found.data.nbytes, None, ["dataset", found._fingerprint, None], rows, tell)


@contextlib.contextmanager
def _fetching(source: str) -> Iterator[None]:
    """What goes wrong inside, whatever it is, as an error for people."""
    try:
        yield
    except Exception as error:
        text = str(error).splitlines()[0][:300] if str(error) else ""
        raise DataError(
            f"The dataset {source!r} cannot be fetched from the Hub ({type(error).__name__}: {text}).",
            "Check its name, data.subset and data.split and the network; or choose a local file.",
        ) from error
