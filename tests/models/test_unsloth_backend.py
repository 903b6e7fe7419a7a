"""Unsloth's calls exist with the keywords that ftkit passes; it is chosen where it can run.

The released package is read as a syntax tree, never imported: its wheel is fetched without its dependencies.
"""

from __future__ import annotations

import ast
import importlib.machinery
import json
import os
import subprocess
import sys
import types
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

import ftkit
from ftkit.errors import ModelError
from ftkit.models import unsloth_backend
from ftkit.models.device import Device
from ftkit.models.unsloth_backend import adapting, loading, pick_backend

VERSION = "2026.10.9"
LOAD = (
    "model_name max_seq_length dtype load_in_4bit full_finetuning trust_remote_code "
    "use_gradient_checkpointing random_state"
)
ADAPT = (
    "model r target_modules lora_alpha lora_dropout bias use_gradient_checkpointing random_state "
    "max_seq_length use_rslora"
)
GPU_LOAD = ("unsloth", "unsloth/models/loader.py", "FastLanguageModel", "from_pretrained")
CPU_LOAD = ("unsloth_zoo", "unsloth_zoo/cpu/loader.py", "FastCPUModel", "from_pretrained")
RECORDED = {
    GPU_LOAD: LOAD,
    ("unsloth", "unsloth/models/llama.py", "FastLlamaModel", "get_peft_model"): ADAPT,
    ("unsloth", "unsloth/models/vision.py", "FastBaseModel", "get_peft_model"): ADAPT,
    # in its CPU mode what is not named is taken by **kwargs
    CPU_LOAD: LOAD.replace(" random_state", ""),
    ("unsloth_zoo", "unsloth_zoo/cpu/loader.py", "FastCPUModel", "get_peft_model"): ADAPT,
}
"""Where a call is defined, and the parameters that ftkit relies on, as released in `VERSION`."""
UNSLOTH = Path(__file__).resolve().parents[2] / "bench" / "unsloth"


def recipe(**changes: Any) -> ftkit.Recipe:
    return ftkit.Recipe(**({"compute": {"backend": "unsloth"}} | changes))


def passed(call: str) -> set[str]:
    asked = recipe(method={"type": "lora", "rank": 4, "use_rslora": True})
    if call == "from_pretrained":
        return set(loading(asked, "folder", torch.bfloat16))
    return {"model"} | set(adapting(asked, asked.method, ["q_proj"]))  # type: ignore[arg-type]


@pytest.mark.parametrize("place", RECORDED, ids=lambda place: f"{place[2]}.{place[3]}")
def test_every_keyword_is_one_that_was_seen_in_the_release(place: tuple[str, ...]) -> None:
    unknown = passed(place[3]) - set(RECORDED[place].split())
    assert unknown <= ({"random_state"} if place == CPU_LOAD else set())


@pytest.fixture(scope="module")
def wheels(request: pytest.FixtureRequest) -> dict[str, zipfile.ZipFile]:
    folder = Path(request.config.cache.mkdir("unsloth"))
    names = {package: f"{package}-{VERSION}-py3-none-any.whl" for package in ("unsloth", "unsloth_zoo")}
    missing = [package for package, name in names.items() if not (folder / name).exists()]
    if missing:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--dest", str(folder)]
        command += ["--retries", "1", "--timeout", "15", *(f"{package}=={VERSION}" for package in missing)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        if done.returncode:
            pytest.skip(f"the wheels of Unsloth cannot be fetched: {done.stderr.strip()[-200:]}")
    return {package: zipfile.ZipFile(folder / name) for package, name in names.items()}


@pytest.mark.parametrize("place", RECORDED, ids=lambda place: f"{place[2]}.{place[3]}")
def test_the_released_package_has_the_recorded_parameters(
    place: tuple[str, ...], wheels: dict[str, zipfile.ZipFile]
) -> None:
    package, file, owner, name = place
    tree = ast.parse(wheels[package].read(file))
    made = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == owner)
    call = next(node for node in made.body if isinstance(node, ast.FunctionDef) and node.name == name)
    found = {argument.arg for argument in (*call.args.args, *call.args.kwonlyargs)}
    assert set(RECORDED[place].split()) <= found
    assert call.args.kwarg is not None
    assert "use_dora" not in found, "ftkit refuses DoRA for a backend that may take it by now"


def test_what_unsloth_is_told() -> None:
    asked = recipe(method={"rank": 4, "alpha": 8}, data={"max_length": 300}, training={"seed": 5})
    told = loading(asked, "folder", torch.bfloat16)
    assert (told["max_seq_length"], told["dtype"], told["full_finetuning"]) == (300, torch.bfloat16, False)
    told = adapting(asked, asked.method, ["q_proj", "o_proj"])  # type: ignore[arg-type]
    assert (told["r"], told["lora_alpha"], told["target_modules"]) == (4, 8, ["q_proj", "o_proj"])
    assert (told["random_state"], told["use_gradient_checkpointing"]) == (5, "unsloth")
    whole = recipe(method="full", compute={"backend": "unsloth", "gradient_checkpointing": "off"})
    told = loading(whole, "folder", torch.bfloat16)
    assert (told["dtype"], told["full_finetuning"]) == (torch.float32, True)
    assert told["use_gradient_checkpointing"] is False


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A machine with a GPU and Unsloth, where transformers has not been imported."""

    def make(*, kind: Any = "cuda", installed: bool = True, late: bool = False) -> None:
        device = Device(kind, "a device", 2, True, 16.0, 16.0)
        monkeypatch.setattr(unsloth_backend, "probe", lambda _: device)
        spec = importlib.machinery.ModuleSpec("unsloth", None) if installed else None
        monkeypatch.setattr(unsloth_backend, "find_spec", lambda _: spec)
        for name in ("transformers", "unsloth"):
            monkeypatch.delitem(sys.modules, name, raising=False)
        if late:
            monkeypatch.setitem(sys.modules, "transformers", types.ModuleType("transformers"))

    return make


def test_auto_takes_unsloth_on_a_gpu_where_it_is_installed(machine: Any) -> None:
    auto = ftkit.Recipe()
    machine()
    assert pick_backend(auto) == ("unsloth", "")
    machine(kind="cpu")
    assert pick_backend(auto) == ("ftkit", "")
    machine(installed=False)
    assert pick_backend(auto) == ("ftkit", "")


def test_auto_says_why_it_leaves_unsloth_out(machine: Any) -> None:
    machine()
    backend, note = pick_backend(ftkit.Recipe(method={"use_dora": True}))
    assert backend == "ftkit"
    assert "method.use_dora" in note
    machine(late=True)
    backend, note = pick_backend(ftkit.Recipe())
    assert backend == "ftkit"
    assert "Restart the kernel" in note


def test_asked_for_it_is_taken_or_refused_in_words(machine: Any) -> None:
    machine(kind="cpu", late=True)
    backend, note = pick_backend(recipe())
    assert backend == "unsloth"
    assert "ftkit run" in note
    machine(installed=False)
    with pytest.raises(ModelError, match="not installed") as refused:
        pick_backend(recipe())
    assert "ftkit[unsloth]" in refused.value.advice
    assert pick_backend(recipe(compute={"backend": "ftkit"})) == ("ftkit", "")


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lora", "full"])
def test_its_cpu_mode_learns_what_ftkit_learns(method: str, tiny_model_folder: Any, tmp_path: Path) -> None:
    if not (UNSLOTH / ".made").exists():
        pytest.skip("there is no environment with Unsloth (make bench makes one)")
    asked = ftkit.Recipe(
        model=str(tiny_model_folder()),
        data={"source": "starter:extract", "max_rows": 24, "eval_rows": 8},
        method=method,
        training={"max_steps": 4, "batch_size": 4, "evals": 1, "learning_rate": 1e-3},
        compute={"device": "cpu", "dtype": "float32", "fast": False},
        output={"folder": tmp_path, "name": "own"},
    )
    own = ftkit.start(asked).wait(120)
    path = tmp_path / "recipe.yaml"
    asked.replace({"compute.backend": "unsloth", "output.name": "unsloth"}).to_yaml(path)
    done = subprocess.run(
        [str(UNSLOTH / "bin" / "python"), "-m", "ftkit", "run", str(path)],
        capture_output=True, text=True, timeout=300, check=False,
        env=os.environ | {"PYTHONPATH": str(Path(ftkit.__file__).parents[1]), "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    assert not done.returncode, done.stderr[-2000:]
    run = ftkit.attach(tmp_path / "unsloth")
    assert run.facts["backend"] == "unsloth"
    # the first values of the adapter's B are zero, and the seeds are the same
    assert run.metrics["loss"].dropna().tolist() == pytest.approx(
        own.metrics["loss"].dropna().tolist(), rel=1e-3
    )
    loaded = run.open_model()
    assert loaded.method == ("lora" if method == "lora" else "none")
    if method == "lora":
        settings = json.loads((run.path / "adapter" / "adapter_config.json").read_text())
        assert settings["base_model_name_or_path"] == str(tiny_model_folder())
