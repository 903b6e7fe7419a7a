"""What a Recipe's model.source may be: folders, GGUF files, Hub ids, and everything that is refused."""

from __future__ import annotations

import json
import shutil
import time

import pytest

from ftkit.errors import ModelError
from ftkit.manifest import fault
from ftkit.models import hub, resolve
from ftkit.recipe import Model


@pytest.fixture(autouse=True)
def _no_hub(monkeypatch, tmp_path):
    """No Hub cache and no Hub, whatever this machine has."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(hub, "_reach", {})


def test_a_model_folder_is_taken_as_it_is(tiny_model_folder):
    folder = tiny_model_folder()
    found = resolve(Model(source=str(folder)))
    assert (found.kind, found.path) == ("folder", folder)
    assert found.describe() == f"{folder.name} from the folder {folder}"


@pytest.mark.parametrize("whole_folder", [False, True])
def test_a_gguf_file_is_converted_once(tiny_gguf, cache, whole_folder):
    told: list[str] = []
    config = Model(source=str(tiny_gguf.parent if whole_folder else tiny_gguf))
    found = resolve(config, progress=lambda text, fraction: told.append(text))
    assert (found.kind, found.name) == ("gguf", "tiny")
    assert (found.path / "model.safetensors").is_file()
    assert fault(found.path, thorough=True) is None
    assert told
    told.clear()
    assert resolve(config, progress=lambda text, fraction: told.append(text)) == found
    assert not told


def test_a_broken_gguf_file_is_said(tmp_path, cache):
    file = tmp_path / "broken.gguf"
    file.write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(ModelError, match=r"broken\.gguf could not be read as a model"):
        resolve(Model(source=str(file)))


def test_a_git_lfs_pointer_is_named(tiny_model_folder, tmp_path):
    folder = shutil.copytree(tiny_model_folder(), tmp_path / "model")
    (folder / "model.safetensors").write_text("version https://git-lfs and so on")
    with pytest.raises(ModelError, match="does not hold weights") as caught:
        resolve(Model(source=str(folder)))
    assert "git lfs pull" in caught.value.advice


def _folder(tmp_path, **files):
    folder = tmp_path / "model"
    folder.mkdir()
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)
    return folder


@pytest.mark.parametrize(
    ("files", "message", "advice"),
    [
        ({}, "holds no model", "config.json"),
        ({"config__json": "{}", "pytorch_model__bin": ""}, "pickled", "safetensors"),
        ({"model__safetensors": "x"}, "no config.json", "config.json"),
        ({"adapter_config__json": "{}", "adapter_model__safetensors": ""}, "an adapter", "base_model_name"),
        ({"recipe__yaml": ""}, "folder of an ftkit run", "attach"),
        ({"a__gguf": "", "b__gguf": ""}, r"several GGUF files: a\.gguf, b\.gguf", "the one you want"),
    ],
)
def test_other_folders_are_refused_with_advice(tmp_path, files, message, advice):
    folder = _folder(tmp_path, **files)
    with pytest.raises(ModelError, match=message) as caught:
        resolve(Model(source=str(folder)))
    assert advice in caught.value.advice


def test_missing_shards_are_named(tmp_path):
    index = json.dumps({"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}})
    folder = _folder(tmp_path, config__json="{}", model__safetensors__index__json=index)
    with pytest.raises(ModelError, match=r"not whole: it lacks model-1\.safetensors, model-2\.safetensors"):
        resolve(Model(source=str(folder)))


def test_a_pickled_file_is_refused(tmp_path):
    file = tmp_path / "weights.pt"
    file.write_bytes(b"")
    with pytest.raises(ModelError, match="pickled"):
        resolve(Model(source=str(file)))


def test_a_missing_folder_names_its_neighbour(tmp_path):
    (tmp_path / "my-model").mkdir()
    with pytest.raises(ModelError, match=r"Did you mean .*my-model\?"):
        resolve(Model(source=str(tmp_path / "my-modle")))


@pytest.mark.parametrize("text", ["Starter", "startr"])
def test_a_misspelt_starter_gets_a_hint(text):
    with pytest.raises(ModelError) as caught:
        resolve(Model(source=text))
    assert "starter" in caught.value.advice


def test_a_hub_id_offline_is_refused_at_once():
    start = time.monotonic()
    with pytest.raises(ModelError, match="offline run") as caught:
        resolve(Model(source="some-org/some-model"), offline=True)
    assert time.monotonic() - start < 10
    assert "starter" in caught.value.advice


def test_an_unreachable_hub_is_said_within_seconds():
    start = time.monotonic()
    with pytest.raises(ModelError, match="cannot be reached"):
        resolve(Model(source="some-org/some-model"))
    assert time.monotonic() - start < 30


def test_a_name_look_up_that_hangs_does_not_hold_anybody_up(monkeypatch):
    monkeypatch.setattr(hub, "_answers", lambda endpoint: time.sleep(5))
    monkeypatch.setattr(hub, "_DEADLINE", 0.3)
    start = time.monotonic()
    assert hub.reachable(lambda text, fraction: None) is False
    assert time.monotonic() - start < 4.5
