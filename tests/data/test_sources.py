"""Rows of every kind of file, of the kernel and of the Hub; as a list, or on disk where they are too many."""

from __future__ import annotations

import bz2
import csv
import datetime
import gzip
import json
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ftkit
from ftkit.data import load, readers, sources, spool
from ftkit.data.examples import LazyExamples
from ftkit.data.preflight import preflight
from ftkit.data.spool import SpooledRows
from ftkit.errors import DataError

ROWS = [{"prompt": f"question {n} ä\u2028", "completion": f"answer {n}"} for n in range(40)]


def write(path: Path, rows: list[dict[str, Any]] = ROWS) -> Path:
    """Rows in the kind that the name says."""
    plain = path.with_suffix("") if path.suffix in readers.COMPRESSED else path
    match plain.suffix:
        case ".json":
            plain.write_text(json.dumps(rows, indent=1), encoding="utf-8")
        case ".csv" | ".tsv":
            with plain.open("w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(
                    file, list(rows[0]), delimiter="\t" if plain.suffix == ".tsv" else ","
                )
                writer.writeheader()
                writer.writerows(rows)
        case ".parquet":
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), plain, row_group_size=7)
        case ".arrow":
            table = pyarrow.Table.from_pylist(rows)
            with pyarrow.ipc.new_file(str(plain), table.schema) as sink:
                sink.write_table(table, max_chunksize=9)
        case _:
            plain.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(plain.read_bytes(), mtime=0))
    elif path.suffix == ".zst":
        with pyarrow.output_stream(str(path), compression="zstd") as stream:
            stream.write(plain.read_bytes())
    return path


@pytest.fixture
def small_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine on which these rows are many."""
    monkeypatch.setattr(sources, "LARGE", 10)
    monkeypatch.setattr(sources, "FEW", 0)
    monkeypatch.setattr(readers, "BLOCK", 64)
    monkeypatch.setenv("FTKIT_CACHE", str(tmp_path / "cache"))


NAMES = ["a.json", "a.jsonl", "a.ndjson", "a.csv", "a.tsv", "a.parquet", "a.arrow"]
NAMES += ["a.jsonl.gz", "a.json.zst", "a.csv.gz", "a.parquet.gz"]


@pytest.mark.parametrize("name", NAMES)
def test_every_kind_gives_the_same_rows_in_memory_and_from_disk(
    name: str, tmp_path: Path, small_memory: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / name)
    kept = sources.read_rows(str(path))
    assert isinstance(kept, SpooledRows)
    assert list(kept) == ROWS == [kept[place] for place in range(len(kept))]
    assert kept[-1] == ROWS[-1]
    assert kept[3:5] == ROWS[3:5]
    monkeypatch.undo()
    assert sources.read_rows(str(path)) == ROWS
    assert sources.read_rows(str(path), limit=3) == ROWS[:3]


def test_rows_on_disk_are_split_and_encoded_like_rows_in_memory(
    tmp_path: Path, small_memory: None, starter_tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [
        *ROWS,
        {"prompt": "q", "completion": ""},
        *({**row, "prompt": f"{row['prompt']}!"} for row in ROWS),
    ]
    path = write(tmp_path / "a.jsonl", rows)
    lazy = load(path, system_prompt="Be brief.")
    assert isinstance(lazy.train[:5], type(lazy.train))
    encoded = ftkit.data.encode_all(
        lazy.train,
        ftkit.data.Template(starter_tokenizer),
        objective=ftkit.recipe.SFT(),
        max_length=999,
        too_long="drop",
    )
    monkeypatch.undo()
    listed = load(path, system_prompt="Be brief.")
    assert list(lazy.train) == listed.train
    assert list(lazy.held_out) == listed.held_out
    assert lazy.refused == listed.refused
    assert [row.row for row in encoded.rows] == [example.row for example in listed.train]
    assert preflight(lazy.train) == preflight(listed.train)


def test_tokens_of_rows_on_disk_are_found_again_without_reading_the_rows(
    tmp_path: Path, small_memory: None, starter_tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules["ftkit.data.encode"], "CACHED_FROM", 10)
    path = write(tmp_path / "a.jsonl")
    limits: dict[str, Any] = {"objective": ftkit.recipe.SFT(), "max_length": 999, "too_long": "drop"}

    def tokens(**data: Any) -> Any:
        template = ftkit.data.Template(starter_tokenizer)
        return ftkit.data.encode_all(load(path, **data).train, template, cache=tmp_path / "tokens", **limits)

    first = tokens()
    monkeypatch.setattr(
        sys.modules["ftkit.data.chunks"], "encode_chunks", lambda *_: pytest.fail("not found again")
    )
    assert [row.ids.tolist() for row in tokens().rows] == [row.ids.tolist() for row in first.rows]
    with pytest.raises(pytest.fail.Exception):
        tokens(seed=7)
    write(path, [*ROWS, *ROWS])
    with pytest.raises(pytest.fail.Exception):
        tokens()


def test_the_source_may_go_once_its_rows_are_kept(tmp_path: Path, small_memory: None) -> None:
    path = write(tmp_path / "a.jsonl")
    dataset = load(path, held_out_fraction=0)
    assert isinstance(dataset.train, LazyExamples)
    path.write_text("gone")
    assert dataset.train[39].messages[0].content == ROWS[39]["prompt"]  # type: ignore[union-attr]


def test_a_damaged_entry_is_made_anew(tmp_path: Path, small_memory: None) -> None:
    path = write(tmp_path / "a.jsonl")
    sources.read_rows(str(path))
    (entry,) = (tmp_path / "cache" / "rows").iterdir()
    (entry / "rows.jsonl").write_text("{")
    assert list(sources.read_rows(str(path))) == ROWS


def test_no_room_for_the_rows_is_said(
    tmp_path: Path, small_memory: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "a.jsonl")
    (tmp_path / "full").write_text("")
    monkeypatch.setenv("FTKIT_CACHE", str(tmp_path / "full"))
    with pytest.raises(DataError, match="FTKIT_CACHE"):
        load(path)


def test_memory_does_not_grow_with_the_rows(
    tmp_path: Path, small_memory: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readers, "BLOCK", 1 << 16)
    text = "word " * 400
    peaks = []
    for count in (2_000, 8_000):
        path = write(tmp_path / f"{count}.json", [{"text": f"{text}{n}"} for n in range(count)])
        tracemalloc.start()
        dataset = load(path)
        assert sum(len(one.text) for one in dataset.train) > count * 1700  # type: ignore[union-attr]
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 2_000_000  # the file has 16 MB
    assert peaks[1] - peaks[0] < 6_000 * 100  # places, and what the split holds of them


def test_cancelling_ends_the_reading_and_leaves_nothing(tmp_path: Path, small_memory: None) -> None:
    path = write(tmp_path / "a.jsonl", ROWS * 100)

    def stop(text: str, fraction: float | None) -> None:
        if "1,000" in text:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        load(path, progress=stop)
    assert list((tmp_path / "cache" / "rows").iterdir()) == []


@given(
    st.lists(
        st.dictionaries(
            st.text(max_size=3),
            st.one_of(st.text(), st.none(), st.floats(allow_nan=False), st.lists(st.text())),
        ),
        min_size=1,
    ),
    st.integers(1, 40),
    st.sampled_from([None, 0, 2]),
)
@settings(deadline=None, max_examples=60)
def test_a_json_list_read_piece_by_piece_is_the_list(
    tmp_path_factory: Any, rows: list[Any], block: int, indent: int | None
) -> None:
    path = tmp_path_factory.mktemp("json") / "rows.json"
    path.write_text(json.dumps(rows, indent=indent, ensure_ascii=False), encoding="utf-8", newline="")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(readers, "BLOCK", block)
        assert list(readers.rows_of(path)) == rows


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ('[{"a": 1},\n {"a": oops}, {"a": "long enough to be read in pieces ........"}]', "line 2, column 8"),
        ('[{"a": 1},\n\n {"a": 2} {"a": "long enough to be read in pieces ........."}]', "line 3, column 11"),
        ('[{"a": 1},\n {"a": 2},\n {"a": "the list goes on and on and is then not closed', "line 3"),
        ('[{"a": "some text in here, long enough"}]\n[{"a": 1}]', "line 1, column 42|line 2, column 1"),
    ],
)
def test_a_fault_in_a_list_read_piece_by_piece_has_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, where: str
) -> None:
    monkeypatch.setattr(readers, "BLOCK", 24)
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(DataError, match=where):
        list(readers.rows_of(tmp_path / "a.json"))


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.txt"])
@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig"])
def test_text_with_a_byte_order_mark_is_read(name: str, encoding: str, tmp_path: Path) -> None:
    path = write(tmp_path / name)
    path.write_text(path.read_text(encoding="utf-8"), encoding=encoding)
    assert len(sources.read_rows(str(path))) == (1 if name == "a.txt" else len(ROWS))


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.json", "a.txt"])
def test_what_is_not_text_is_refused_with_its_line(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b'{"prompt": "a",\n"completion": "caf\xe9"}')
    with pytest.raises(DataError, match=r"line 2 holds the byte 0xe9"):
        load(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("a.jsonl.gz", gzip.compress(b'{"text": "a"}' * 50, mtime=0)[:-9], "not a whole gzip"),
        ("a.jsonl.gz", b"plain", "not a whole gzip"),
        ("a.jsonl.zst", b"plain", "not a whole zstd"),
        ("a.parquet", b"", "cannot be read"),
        ("a.arrow", b"nonsense", "cannot be read"),
        ("a.json", b"", "no rows"),
        ("a.csv", b"", "no rows"),
        ("a.csv", b"a,b\n1,2,3\n", "line 2: 3 cells, the header has 2"),
        ("a.csv", b"a,a\n1,2\n", "two columns 'a'"),
        ("a.csv", b'a,b\n"1,2\n', "not valid CSV"),
        ("a.jsonl", b'{"text": ' + b"[" * 100_000, "nested too deeply"),
        ("a.json", b"[" * 100_000, "nested too deeply"),
        ("a.json", b'[{"a": ' + b"9" * 5000 + b"}]", "Exceeds the limit"),
        ("a.bz2", bz2.compress(b"a"), "unknown kind"),
    ],
)
def test_a_broken_file_says_what_is_wrong(name: str, data: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError, match=words):
        load(str(tmp_path / name))


def test_a_folder_of_one_kind_is_read_and_of_several_is_asked_about(tmp_path: Path) -> None:
    write(tmp_path / "b.jsonl", ROWS[20:])
    write(tmp_path / "a.jsonl", ROWS[:20])
    (tmp_path / "README.md").write_text("not data")
    assert sources.read_rows(str(tmp_path)) == ROWS
    write(tmp_path / "c.csv")
    with pytest.raises(DataError, match=r"several kinds \(.csv, .jsonl\)"):
        load(tmp_path)


def test_a_row_of_fifty_megabytes_is_refused_by_its_length_and_the_others_stay(
    tmp_path: Path, starter_tokenizer: Any
) -> None:
    rows = [*ROWS[:5], {"prompt": "long", "completion": "word " * 10_000_000}]
    dataset = load(write(tmp_path / "a.jsonl", rows), held_out_fraction=0)
    template = ftkit.data.Template(starter_tokenizer)
    kept = ftkit.data.encode_all(
        dataset.train, template, objective=ftkit.recipe.SFT(), max_length=1024, too_long="drop"
    )
    assert [row.row for row in kept.rows] == [0, 1, 2, 3, 4]
    assert kept.refused[0].row == 5
    assert kept.refused[0].reason.startswith("50,000,0") or "cut-off" in kept.refused[0].reason


def test_rows_of_the_kernel_become_a_file_that_a_recipe_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FTKIT_CACHE", str(tmp_path))
    recipe = ftkit.Recipe(data=pd.DataFrame(ROWS))
    assert recipe.data.source == ftkit.Recipe(data=ROWS).data.source
    assert recipe.data.source != ftkit.Recipe(data=ROWS[1:]).data.source
    assert ftkit.Recipe.from_yaml(recipe.to_yaml()) == recipe
    assert sources.read_rows(recipe.data.source) == ROWS
    assert len(load(recipe.data).train) == 36


def test_rows_of_polars_are_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    polars = pytest.importorskip("polars")
    monkeypatch.setenv("FTKIT_CACHE", str(tmp_path))
    frame = polars.DataFrame(ROWS)
    for rows in (frame, frame.lazy()):
        assert [one.row for one in load(rows, held_out_fraction=0).train] == list(range(40))
        assert ftkit.Recipe(data=rows) == ftkit.Recipe(data=ROWS)


def test_values_of_a_table_are_written_as_json_has_them(tmp_path: Path) -> None:
    frame = pd.DataFrame({"day": [pd.Timestamp("2026-01-02")], "numbers": [np.arange(3)], "text": ["a"]})
    path = ftkit.data.save_rows(frame, "my frame/../x", tmp_path)
    assert path.parent == tmp_path
    assert sources.read_rows(str(path)) == [{"day": "2026-01-02T00:00:00", "numbers": [0, 1, 2], "text": "a"}]
    polars_like = [{"when": datetime.date(2026, 1, 2)}]
    assert sources.read_rows(str(ftkit.data.save_rows(polars_like, folder=tmp_path))) == [
        {"when": "2026-01-02"}
    ]
    for bad, words in (([{"a": object()}], "Row 0 cannot be written"), ([], "no rows"), (7, "int")):
        with pytest.raises(DataError, match=words):
            ftkit.data.save_rows(bad, folder=tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


def test_a_dataset_of_the_datasets_library_is_taken(tmp_path: Path, small_memory: None) -> None:
    import datasets

    path = write(tmp_path / "a.jsonl")
    kept = datasets.Dataset.from_json(str(path), cache_dir=str(tmp_path / "hf"))
    assert list(sources.held_rows(kept)) == ROWS
    assert [one.row for one in load(kept, held_out_fraction=0).train] == list(range(40))


def test_of_a_hub_dataset_no_more_rows_are_fetched_than_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The Hub is a mock here: this machine has none."""
    import datasets

    asked: dict[str, Any] = {}

    def load_dataset(source: str, subset: str | None, split: str, streaming: bool = False) -> Any:
        asked.update(source=source, subset=subset, split=split, streaming=streaming)
        whole = datasets.Dataset.from_list(ROWS)
        return whole.to_iterable_dataset() if streaming else whole

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    few = load("someone/chats", subset="en", max_rows=7, held_out_fraction=0)
    assert len(few.train) == 7
    assert asked == {"source": "someone/chats", "subset": "en", "split": "train", "streaming": True}
    assert len(load("someone/chats", held_out_fraction=0).train) == 40
    assert not asked["streaming"]


def test_entries_go_beyond_the_limit(
    tmp_path: Path, small_memory: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spool, "LIMIT_BYTES", 1)
    for name in ("a.jsonl", "b.jsonl"):
        assert len(load(write(tmp_path / name), held_out_fraction=0).train) == 40
    assert len(list((tmp_path / "cache" / "rows").iterdir())) == 1


def test_rows_whose_column_holds_something_else_are_refused_one_by_one(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        *ROWS[:8],
        {"prompt": "q", "completion": ["a", "list"]},
        {"prompt": {}, "completion": 7},
    ]
    dataset = load(write(tmp_path / "a.jsonl", rows), held_out_fraction=0)
    assert len(dataset.train) == 8
    assert [(one.row, one.reason) for one in dataset.refused] == [
        (8, "completion is list, not text"),
        (9, "prompt is dict, not text"),
    ]
