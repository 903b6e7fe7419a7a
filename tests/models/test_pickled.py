"""Pickled weights: refused with advice, converted in a process that reaches nothing."""

from __future__ import annotations

import json
import pickle
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from ftkit.errors import ModelError
from ftkit.models import convert_weights, load_model, resolve
from ftkit.models.isolation import IsolatedError, run_apart
from ftkit.recipe import Compute, Model

Tiny = Callable[..., Path]


@pytest.fixture
def pickled(tiny_model_folder: Tiny, tmp_path: Path) -> Path:
    """A model folder as there were many: its weights in pytorch_model.bin."""
    folder = tmp_path / "old"
    shutil.copytree(tiny_model_folder(), folder)
    weights = load_file(folder / "model.safetensors")
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"]  # tied, as torch.save writes it
    torch.save(weights, folder / "pytorch_model.bin")
    torch.save({"args": 1}, folder / "training_args.bin")
    (folder / "model.safetensors").unlink()
    (folder / "modeling_old.py").write_text("import os")
    return folder


def test_they_are_refused_and_converted(pickled: Path, tiny_model_folder: Tiny, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="ftkit convert-weights"):
        resolve(Model(source=str(pickled)))
    out = convert_weights(pickled, tmp_path / "new")
    assert not list(out.glob("*.bin")) + list(out.glob("*.py"))
    compute = Compute(device="cpu", dtype="float32")
    models = [load_model(Model(source=str(one)), compute).model for one in (tiny_model_folder(), out)]
    ids = torch.arange(20)[None]
    assert torch.equal(*(model(ids).logits for model in models))
    with pytest.raises(ModelError, match="is in use"):
        convert_weights(pickled, out)


def test_several_files_keep_their_index(pickled: Path, tmp_path: Path) -> None:
    weights = torch.load(pickled / "pytorch_model.bin", weights_only=True)
    (pickled / "pytorch_model.bin").unlink()
    names = sorted(weights)
    placed: dict[str, str] = {}
    for number, part in enumerate((names[::2], names[1::2]), start=1):
        file = f"pytorch_model-{number:05d}-of-00002.bin"
        torch.save({"state_dict": {name: weights[name] for name in part}, "epoch": 3}, pickled / file)
        placed |= dict.fromkeys(part, file)
    index = pickled / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": placed}))
    out = convert_weights(pickled, tmp_path / "new")
    assert resolve(Model(source=str(out))).kind == "folder"
    found = json.loads((out / "model.safetensors.index.json").read_text())["weight_map"]
    assert sorted(found) == names
    index.write_text(json.dumps({"weight_map": {"a": "../elsewhere.bin"}}))
    with pytest.raises(ModelError, match="no file of its folder"):
        convert_weights(pickled, tmp_path / "other")


class Harm:
    """What unpickling it would do."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> Any:
        return exec, (self.command,)


@pytest.mark.parametrize("write", [pickle.dump, torch.save])
def test_what_is_in_a_pickle_is_not_run(write: Any, pickled: Path, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    with (pickled / "pytorch_model.bin").open("wb") as file:
        write({"a": Harm(f"open({str(mark)!r}, 'w')")}, file)
    with pytest.raises(ModelError, match="could not be converted"):
        convert_weights(pickled, tmp_path / "new")
    assert not mark.exists()
    assert not (tmp_path / "new").exists()


def test_the_process_has_no_network_no_tokens_and_starts_no_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    reached: list[object] = []
    threading.Thread(target=lambda: reached.append(listener.accept()), daemon=True).start()
    (tmp_path / "curious.py").write_text(
        "import ctypes, os, socket, struct, subprocess\n"
        "def main(port, out):\n"
        "    said = [str('HF_TOKEN' in os.environ)]\n"
        "    for act in (lambda: socket.create_connection(('127.0.0.1', int(port)), 2),\n"
        "                lambda: subprocess.run(['true']), lambda: os.system('true'),\n"
        "                lambda: bytearray(60_000_000_000)):\n"
        "        try:\n"
        "            act(); said.append('done')\n"
        "        except Exception as error:\n"
        "            said.append(type(error).__name__)\n"
        "    libc = ctypes.CDLL(None)  # past Python: the kernel has no network for it either\n"
        "    plug = libc.socket(2, 1, 0)\n"
        "    where = struct.pack('<H', 2) + struct.pack('>H', int(port)) + bytes([127, 0, 0, 1] + [0] * 8)\n"
        "    said.append('reached' if libc.connect(plug, where, 16) == 0 else 'cut off')\n"
        "    open(out, 'w').write(' '.join(said))\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("HF_TOKEN", "hf_secret_of_the_test")
    out = tmp_path / "said"
    run_apart("curious", [str(listener.getsockname()[1]), str(out)], lambda text, share: None, "", 100)
    said, raw = out.read_text().split(" Memory")
    assert said == "False PermissionError PermissionError PermissionError"
    if subprocess.run(["unshare", "-rn", "true"], capture_output=True, check=False).returncode == 0:
        assert raw == "Error cut off"
        assert not reached
    listener.close()


def test_what_goes_wrong_there_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken.py").write_text("def main(): raise ValueError('no such thing')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(IsolatedError, match="no such thing"):
        run_apart("broken", [], lambda text, share: None, "", 100)


@pytest.mark.slow
def test_the_command_converts(pickled: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "ftkit", "convert-weights", str(pickled), str(tmp_path / "new")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "model.source" in done.stdout
    assert (tmp_path / "new" / "model.safetensors").is_file()
