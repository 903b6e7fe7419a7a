"""Tokens kept on disk are those that were made; any change makes them anew; a damaged entry is replaced."""

from __future__ import annotations

import importlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ftkit.data import (
    Conversation,
    Encoded,
    EncodedSet,
    Message,
    PlainText,
    RatedReply,
    Template,
    encode_all,
    token_cache,
    token_store,
)
from ftkit.data.batches import PackedCollator
from ftkit.errors import DataError
from ftkit.recipe import SFT, Pretraining


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.import_module("ftkit.data.encode"), "CACHED_FROM", 2)


def talks(count: int = 300, *, said: str = "answer") -> list[Conversation]:
    return [
        Conversation(
            (Message("user", f"question {n}"), Message("assistant", f"{said} {n} " * (n % 5 + 1))), n
        )
        for n in range(count)
    ]


Make = Callable[..., EncodedSet]


@pytest.fixture
def make(starter_tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Encode through the cache; `make.rendered` counts the conversations that were rendered."""

    def run(
        examples: Any, *, system: str | None = None, template: str | None = None, **given: Any
    ) -> EncodedSet:
        chat = Template(starter_tokenizer, system_prompt=system, template=template)
        real = chat.prepare
        run.prepared = 0  # type: ignore[attr-defined]

        def counted(some: Any) -> Any:
            run.prepared += len(some)  # type: ignore[attr-defined]
            return real(some)

        monkeypatch.setattr(chat, "prepare", counted)
        settings = {"objective": SFT(), "max_length": 90, "too_long": "drop"} | given
        return encode_all(examples, chat, cache=tmp_path / "tokens", **settings)

    return run


def assert_same(one: EncodedSet, other: EncodedSet) -> None:
    assert (one.refused, one.shortened) == (other.refused, other.shortened)
    assert len(one.rows) == len(other.rows)
    for a, b in zip(one.rows, other.rows, strict=True):
        assert a.row == b.row
        np.testing.assert_array_equal(a.ids, b.ids)
        np.testing.assert_array_equal(a.mask, b.mask)


def entries(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "tokens").iterdir())


def test_the_second_time_nothing_is_rendered_and_all_is_the_same(make: Make, tmp_path: Path) -> None:
    rows = [*talks(), RatedReply((Message("user", "a"), Message("assistant", "b")), good=False, row=300)]
    rows.append(Conversation((Message("user", "long " * 99), Message("assistant", "b")), 301))
    plain = encode_all(rows, make_template(make), objective=SFT(), max_length=90, too_long="drop")
    first = make(rows)
    assert make.prepared > 300  # type: ignore[attr-defined]
    again = make(rows)
    assert make.prepared == 0  # type: ignore[attr-defined]
    assert_same(first, plain)
    assert_same(again, plain)
    assert len(first.refused) == 2
    assert isinstance(again.rows, token_store.EncodedRows)
    assert isinstance(again.rows.ids, np.memmap)
    assert (again.tokens, again.trained_tokens) == (plain.tokens, plain.trained_tokens)
    assert len(entries(tmp_path)) == 1
    batch = PackedCollator()(again.rows[-3:])
    assert batch["input_ids"].shape[1] == sum(len(row.ids) for row in plain.rows[-3:])


def make_template(make: Make) -> Template:
    from ftkit.models import load_tokenizer
    from ftkit.recipe import Model

    return Template(load_tokenizer(Model()))


@pytest.mark.parametrize(
    "change",
    [
        {"max_length": 50},
        {"too_long": "keep_end"},
        {"objective": SFT(train_on="all")},
        {"system": "Be brief."},
        {"template": "zephyr"},
        {"examples": talks(said="reply")},
        {"examples": talks()[::-1]},
        {"examples": [*talks()[:-1], Conversation(talks()[-1].messages, 999)]},
        {
            "examples": [
                Conversation((m[0], Message("assistant", "x", weight=0), *m), 0)
                for m in [talks(1)[0].messages] * 3
            ]
        },
    ],
    ids=lambda change: next(iter(change)),
)
def test_whatever_decides_the_tokens_makes_another_entry(
    make: Make, tmp_path: Path, change: dict[str, Any]
) -> None:
    make(talks())
    change = dict(change)
    make(change.pop("examples", talks()), **change)
    assert make.prepared  # type: ignore[attr-defined]
    assert len(entries(tmp_path)) == 2


def test_other_columns_of_the_rows_do_not_matter(make: Make, tmp_path: Path) -> None:
    make(talks())
    make([Conversation(talk.messages, talk.row, {"extra": object()}) for talk in talks()])
    assert make.prepared == 0  # type: ignore[attr-defined]


@pytest.mark.parametrize("file", ["ids.bin", "mask.bin", "ends.bin", "numbers.bin", "about.json"])
@pytest.mark.parametrize("harm", ["cut", "changed", "removed"])
def test_a_damaged_entry_is_made_anew(make: Make, tmp_path: Path, file: str, harm: str) -> None:
    whole = encode_all(talks(9), make_template(make), objective=SFT(), max_length=90, too_long="drop")
    make(talks(9))
    path = entries(tmp_path)[0] / file
    data = bytearray(path.read_bytes())
    data[3] ^= 1
    path.write_bytes({"cut": path.read_bytes()[:-4], "changed": bytes(data), "removed": b""}[harm])
    if harm == "removed":
        path.unlink()
    assert_same(make(talks(9)), whole)
    assert make.prepared == 9  # type: ignore[attr-defined]
    assert_same(make(talks(9)), whole)
    assert make.prepared == 0  # type: ignore[attr-defined]


def test_the_oldest_entries_go_when_there_is_too_much(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, system in enumerate("abc"):
        make(talks(), system=system)
        for entry in entries(tmp_path):
            about = entry / token_store.ABOUT
            if about.stat().st_mtime > 1e6:
                os.utime(about, (number, number))
    size = max(sum(file.stat().st_size for file in entry.iterdir()) for entry in entries(tmp_path))
    make(talks(), system="a")  # used again: now the newest
    monkeypatch.setattr(token_cache, "LIMIT_BYTES", int(2.5 * size))
    make(talks(), system="d")
    assert len(entries(tmp_path)) == 2
    make(talks(), system="a")
    assert make.prepared == 0  # type: ignore[attr-defined]
    left = tmp_path / "tokens" / ".writing-x"
    left.mkdir()
    os.utime(left, (0, 0))
    monkeypatch.setattr(token_cache, "LIMIT_BYTES", 0)
    make(talks(), system="e")
    assert len(entries(tmp_path)) == 1, "the one in use stays"


def test_without_a_folder_to_write_to_it_works_in_memory(make: Make, tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text("a file is in the way")
    assert len(make(talks()).rows) == len(talks())


def test_a_disk_that_fills_up_is_survived(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = token_store.Writer._write

    def full(writer: token_store.Writer, name: str, values: np.ndarray) -> None:
        if writer.rows > 200:
            raise OSError(28, "No space left on device")
        real(writer, name, values)

    monkeypatch.setattr(token_store.Writer, "_write", full)
    assert len(make(talks()).rows) == len(talks())
    assert entries(tmp_path) == []


def test_stopping_or_an_error_leaves_nothing_behind(make: Make, tmp_path: Path) -> None:
    def stop(text: str, fraction: float | None) -> None:
        if fraction:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make(talks(600), progress=stop)
    with pytest.raises(DataError, match="too long"):
        make(talks(), max_length=5, too_long="error")
    with pytest.raises(DataError, match="No row can be trained on"):
        make(talks(), max_length=5)
    assert entries(tmp_path) == []


def test_plain_text_needs_no_template(tiny_model_folder: Callable[..., Path], tmp_path: Path) -> None:
    from ftkit.models import load_tokenizer
    from ftkit.recipe import Model

    tokenizer = load_tokenizer(Model(source=str(tiny_model_folder(chat_template=None))))
    limits: dict[str, Any] = {"objective": Pretraining(), "max_length": 99, "too_long": "drop"}
    texts = [PlainText("the lamp", n) for n in range(5)]
    for _ in range(2):
        assert len(encode_all(texts, Template(tokenizer), cache=tmp_path, **limits).rows) == 5


_row = st.lists(st.tuples(st.integers(0, 2**31 - 1), st.booleans()), min_size=1, max_size=9)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(st.lists(_row, max_size=6), min_size=1, max_size=4))
def test_rows_come_back_from_disk_as_they_went(
    tmp_path: Path, chunks: list[list[list[tuple[int, bool]]]]
) -> None:
    numbers = iter(range(10**6))
    rows = [
        [
            Encoded(np.array([i for i, _ in row], np.int32), np.array([m for _, m in row]), next(numbers))
            for row in chunk
        ]
        for chunk in chunks
    ]
    if not any(rows):
        return
    shutil.rmtree(tmp_path / "entry", ignore_errors=True)
    writer = token_store.Writer(tmp_path / "entry")
    for chunk in rows:
        writer.add(chunk)
    writer.finish({"refused": [], "shortened": []})
    writer.close()
    found = token_store.read(tmp_path / "entry")
    assert found is not None
    flat = [row for chunk in rows for row in chunk]
    assert_same(EncodedSet(found[0], ()), EncodedSet(flat, ()))
    assert token_store.lengths(found[0]).tolist() == token_store.lengths(flat).tolist()
    assert [row.row for row in found[0][1:]] == [row.row for row in flat[1:]]
    np.testing.assert_array_equal(found[0][-1].ids, flat[-1].ids)
