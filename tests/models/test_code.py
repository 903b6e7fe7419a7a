"""Python that comes with a model does not run by itself, and the person learns which files would."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import ftkit
from ftkit.errors import ModelError
from ftkit.models import load_model
from ftkit.models.code import code_files, remote_code, warning
from ftkit.recipe import Compute, Model

FILES = ("modeling_own.py", "other/place: modeling_far.py", "helper.py")


@pytest.fixture
def curious(tiny_model_folder: Callable[..., Path], tmp_path: Path) -> Path:
    """A model whose code leaves a mark."""
    folder = tmp_path / "curious"
    shutil.copytree(tiny_model_folder(), folder)
    config = json.loads((folder / "config.json").read_text())
    config["model_type"] = "own"
    config["auto_map"] = {
        "AutoConfig": "modeling_own.OwnConfig",
        "AutoModelForCausalLM": "modeling_own.OwnForCausalLM",
        "AutoTokenizer": ["other/place--modeling_far.Far", None],
        "odd": [3, None, {}],
    }
    (folder / "config.json").write_text(json.dumps(config))
    code = f"open({str(tmp_path / 'mark')!r}, 'w')\n"
    (folder / "modeling_own.py").write_text(code)
    (folder / "helper.py").write_text(code)
    return folder


def test_it_is_listed_and_does_not_run(curious: Path, tmp_path: Path) -> None:
    assert code_files(curious) == FILES
    assert remote_code(Model(source=str(curious)), offline=True) == FILES
    with pytest.raises(ModelError) as caught:
        load_model(Model(source=str(curious)), Compute(device="cpu"))
    assert all(name in str(caught.value) for name in FILES)
    assert "does not run it" in str(caught.value)
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize("written", ["{", "[]", '{"auto_map": 3}', '{"auto_map": {"a": "b"}}', "[" * 5000])
def test_a_configuration_of_any_kind_is_read(written: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(written)
    assert code_files(tmp_path) == ()
    assert warning((), trusted=True) == ""


def test_the_panel_names_the_files_as_text(curious: Path) -> None:
    (curious / "<img src=x>.py").write_text("")
    panel = ftkit.ui.ModelPanel()
    panel.choose(str(curious))
    panel.wait()
    assert "which ftkit does not run: modeling_own.py" in panel._code.value
    assert "&lt;img src=x&gt;.py" in panel._code.value
    panel.workspace.edit({"model.trust_remote_code": True})
    panel.wait()
    assert "runs with all your rights" in panel._code.value
    assert "ftk-bad" in panel._code.value
    panel.choose("starter")
    panel.wait()
    assert panel._code.value == ""
