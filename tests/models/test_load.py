"""Loading: precision, threads, special tokens, silence, and files that cannot be read."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ftkit.errors import ModelError
from ftkit.models import load, load_model
from ftkit.models.device import probe
from ftkit.recipe import Compute, Model


def _load(folder, **compute):
    return load_model(Model(source=str(folder)), Compute(**{"device": "cpu", **compute}))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_precision_is_the_one_asked_for(tiny_model_folder, dtype):
    loaded = _load(tiny_model_folder(), dtype=dtype)
    assert loaded.dtype == dtype
    assert str(loaded.model.dtype) == f"torch.{dtype}"
    assert not loaded.model.training


@pytest.mark.parametrize(("native", "expected"), [(True, "bfloat16"), (False, "float32")])
def test_auto_is_bfloat16_only_where_the_hardware_computes_in_it(native, expected):
    device = dataclasses.replace(probe("cpu"), native_bf16=native)
    assert load.pick_dtype(Compute(), device) == expected


def test_threads_are_set(tiny_model_folder):
    import torch

    before = torch.get_num_threads()
    try:
        _load(tiny_model_folder(), threads=1)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_cuda_without_a_gpu_is_refused(tiny_model_folder, monkeypatch):
    monkeypatch.setattr(load, "probe", lambda kind: probe("cpu"))
    with pytest.raises(ModelError, match="CUDA"):
        _load(tiny_model_folder(), device="cuda")


def test_padding_and_end_are_settled(tiny_model_folder, tmp_path):
    folder = shutil.copytree(tiny_model_folder(), tmp_path / "model")
    for name in ("tokenizer_config.json", "generation_config.json", "config.json"):
        facts = json.loads((folder / name).read_text())
        facts.pop("pad_token", None)
        facts.pop("pad_token_id", None)
        if name == "generation_config.json":
            facts["eos_token_id"] = 0
        (folder / name).write_text(json.dumps(facts))
    loaded = _load(folder)
    tokenizer, generation = loaded.tokenizer, loaded.model.generation_config
    assert tokenizer.pad_token_id is not None
    assert loaded.model.config.pad_token_id == generation.pad_token_id == tokenizer.pad_token_id
    assert generation.eos_token_id == [0, tokenizer.eos_token_id]


def _damaged(source, target, **files):
    folder = Path(shutil.copytree(source, target))
    for name, data in files.items():
        path = folder / name.replace("__", ".")
        path.unlink() if data is None else path.write_bytes(data)
    return folder


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"model__safetensors": b"x" * 1000}, "The model of .* cannot be read"),
        ({"config__json": b"{"}, "cannot be read"),
        ({"config__json": b'{"model_type": "quasimodo"}'}, "quasimodo"),
        ({"tokenizer__json": b"{}"}, "The tokenizer of .* cannot be read"),
    ],
)
def test_damaged_files_are_said(tiny_model_folder, tmp_path, files, message):
    folder = _damaged(tiny_model_folder(), tmp_path / "model", **files)
    with pytest.raises(ModelError, match=message) as caught:
        _load(folder)
    assert caught.value.advice


def test_code_that_comes_with_a_model_does_not_run_unless_asked_for(tiny_model_folder, tmp_path):
    folder = Path(shutil.copytree(tiny_model_folder(), tmp_path / "model"))
    config = json.loads((folder / "config.json").read_text())
    config["model_type"] = "mine"
    config["auto_map"] = {"AutoConfig": "mine.Mine", "AutoModelForCausalLM": "mine.Mine"}
    (folder / "config.json").write_text(json.dumps(config))
    witness = tmp_path / "ran"
    (folder / "mine.py").write_text(f"open({str(witness)!r}, 'w')\n")
    with pytest.raises(ModelError, match="needs Python code") as caught:
        _load(folder)
    assert "trust_remote_code" in caught.value.advice
    assert not witness.exists()


def test_loading_prints_nothing(tiny_model_folder, capfd):
    folder = tiny_model_folder()
    capfd.readouterr()
    _load(folder)
    assert capfd.readouterr() == ("", "")


def test_putting_an_adapter_on_prints_nothing_either(tiny_model_folder):
    code = (
        "from ftkit.models import apply_method, load_model; from ftkit.recipe import Compute, LoRA, Model; "
        f"apply_method(load_model(Model(source={str(tiny_model_folder())!r}), Compute(device='cpu')), LoRA())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")  # torchao, where it is installed, is imported by PEFT


def test_progress_may_cancel(tiny_model_folder):
    def cancel(text, fraction):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        load_model(Model(source=str(tiny_model_folder())), Compute(), progress=cancel)


def test_importing_and_estimating_take_no_torch():
    code = (
        "import sys; from ftkit.models import estimate, probe; from ftkit.recipe import Recipe;"
        "probe('cpu'); estimate(Recipe(compute={'device': 'cpu'}));"
        "assert not {'torch', 'transformers', 'peft', 'huggingface_hub'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
