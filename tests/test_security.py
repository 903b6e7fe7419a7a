"""What comes in as data stays data: names keep to their folder, files stay small, nothing is executed."""

from __future__ import annotations

import gzip
import json
import os
import time
from pathlib import Path

import pyarrow
import pytest
from pydantic import ValidationError

import ftkit
from ftkit.data import load, readers
from ftkit.errors import DataError, FtkitError, ModelError, RecipeError
from ftkit.folders import inside, is_device
from ftkit.models import resolve
from ftkit.recipe import Model, Recipe
from ftkit.recipe.code import to_python
from ftkit.ui.receiving import safe_name

ROWS = [{"prompt": f"q{n}", "completion": f"a{n}"} for n in range(4)]
HOSTILE_NAMES = [
    "../up.jsonl",
    "/etc/passwd",
    "a/../../up.jsonl",
    "nul\0.jsonl",
    "x" * 300 + ".jsonl",
    "CON",
    "con.jsonl",
    "~nobody-of-this-name/x.jsonl",
    "..\\up.jsonl",
    "a\nb",
    "\ud800.jsonl",
]


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_a_runs_name_is_a_plain_name(name: str) -> None:
    with pytest.raises(RecipeError, match=r"output"):
        Recipe(output={"name": name})


@pytest.mark.parametrize("name", ["NUL", "com1.txt", "Lpt9", "conin$", "aux .x"])
def test_names_of_devices_are_known(name: str) -> None:
    assert is_device(name)
    assert not is_device(f"a{name}")


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_a_source_of_any_name_is_found_or_refused_in_words(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for ask in (
        lambda: load(name, offline=True),
        lambda: resolve(Model(source=name), offline=True),
        lambda: ftkit.data.Template(_NoTemplate(), template=f"{name}.jinja"),
        lambda: ftkit.attach(name),
        lambda: Recipe.from_yaml(Path(name)),
    ):
        with pytest.raises((FtkitError, ValidationError)):
            ask()


class _NoTemplate:
    added_tokens_decoder: dict[int, str] = {}  # noqa: RUF012
    eos_token = ""
    chat_template = None


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_an_upload_gets_a_name_in_its_folder(name: str, tmp_path: Path) -> None:
    try:
        kept = safe_name(name)
    except DataError:
        return
    assert Path(kept).name == kept
    assert len(kept.encode()) < 255
    assert (tmp_path / kept).resolve().parent == tmp_path.resolve()


def test_links_do_not_lead_out_of_a_folder_of_data(tmp_path: Path) -> None:
    outside = tmp_path / "private.jsonl"
    outside.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    folder = tmp_path / "dataset"
    folder.mkdir()
    (folder / "train.jsonl").symlink_to(outside)
    with pytest.raises(DataError, match="link that leaves the folder"):
        load(folder)
    entries = {
        "a": {"file_name": "train.jsonl"},
        "b": {"hf_hub_url": str(outside)},
        "c": {"hf_hub_url": "../private.jsonl"},
        "d": {"file_name": str(outside)},
    }
    (folder / "dataset_info.json").write_text(json.dumps(entries))
    for name in entries:
        with pytest.raises(DataError, match=r"leaves the folder|neither a file here nor the id|offline"):
            load(folder, subset=name, offline=name == "b")


def test_links_of_the_hubs_own_cache_count_as_inside(tmp_path: Path) -> None:
    blobs, snapshot = tmp_path / "datasets--o--n" / "blobs", tmp_path / "datasets--o--n" / "snapshots" / "abc"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    (blobs / "1f").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (snapshot / "train.jsonl").symlink_to("../../blobs/1f")
    assert len(load(snapshot, held_out_fraction=0).train) == 4
    (snapshot / "more.jsonl").symlink_to("/etc/hostname")
    assert inside(snapshot, "more.jsonl") is None


def test_an_index_of_weights_names_files_of_its_folder_alone(tmp_path: Path) -> None:
    other = tmp_path / "other.safetensors"
    other.write_bytes(b"x" * 100)
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    index = {"weight_map": {"a": "../other.safetensors", "b": str(other), "c": 3}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match="not whole"):
        resolve(Model(source=str(folder)))


@pytest.mark.parametrize("suffix", [".jsonl.gz", ".csv.gz", ".txt.gz", ".json.gz", ".parquet.gz"])
def test_a_small_file_does_not_unpack_to_a_disk(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readers, "UNPACKED_AT_LEAST", 1_000_000)
    path = tmp_path / f"bomb{suffix}"
    with gzip.open(path, "wb") as file:
        for _ in range(60):
            file.write(b"[" + b" " * 1_000_000)
    with pytest.raises(DataError, match="unpacks to more than"):
        load(path)


def test_an_arrow_file_that_points_outside_of_itself_is_refused(tmp_path: Path) -> None:
    text = pyarrow.array(["hello", "world"])
    path = tmp_path / "rows.arrow"
    with pyarrow.OSFile(str(path), "wb") as file:
        schema = pyarrow.schema([("text", pyarrow.string())])
        with pyarrow.ipc.new_file(file, schema) as writer:
            writer.write_batch(pyarrow.RecordBatch.from_arrays([text], schema=schema))
    offsets, beyond = (b"".join(n.to_bytes(4, "little") for n in (0, 5, end)) for end in (10, 1 << 30))
    assert path.read_bytes().count(offsets) == 1
    path.write_bytes(path.read_bytes().replace(offsets, beyond))
    with pytest.raises(DataError, match="cannot be read"):
        load(path)


LAUGHS = "a: &a [x, x]\n" + "".join(
    f"{chr(98 + n)}: &{chr(98 + n)} [{', '.join(['*' + chr(97 + n)] * 9)}]\n" for n in range(20)
)


@pytest.mark.parametrize(
    "text",
    [
        LAUGHS,
        "model: !!python/object/apply:os.system ['touch hacked']",
        "model: !!python/name:os.system",
        "a: " + "[" * 5000,
        "a: " + "9" * 5000,
        "data: {max_rows: 2001-99-99}",
        "self: 1",
        "model: {source: 'a\0b'}",
        'model: {source: "\\0"}',
        'model: {source: "\\ud800"}',
        "? [1, 2]\n: 3",
        "x: " + "y" * 2_000_000,
    ],
)
def test_yaml_is_data(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    began = time.thread_time()
    with pytest.raises(RecipeError) as caught:
        Recipe.from_yaml(text + "\n")
    assert len(str(caught.value)) < 5000
    assert time.thread_time() - began < 5
    assert os.listdir() == []


HOSTILE_TEXTS = [
    "'); import os; os.system('touch hacked') #",
    '"""\nimport os; os.system("touch hacked")\n"""',
    "\\'\n__import__('os').system('touch hacked')",
    "{__import__('os').system('touch hacked')}",
]


@pytest.mark.parametrize("text", HOSTILE_TEXTS)
def test_the_code_of_a_recipe_holds_texts_as_texts(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ast

    monkeypatch.chdir(tmp_path)
    recipe = Recipe(
        model=text,
        data={
            "source": text,
            "columns": {text: text},
            "system_prompt": text,
            "mixed_with": [{"source": text}],
        },
        output={"folder": text},
    )
    tree = ast.parse(to_python(recipe))
    calls = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    assert calls <= {"ftkit.Recipe", "ftkit.start", "run.wait", "ftkit.recipe.Data", "ftkit.recipe.Output"}
    assert Recipe.from_yaml(recipe.to_yaml()) == recipe
    assert os.listdir() == []
