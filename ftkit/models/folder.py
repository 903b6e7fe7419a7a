"""What a local folder holds: a model to load, a GGUF file to convert, or something to refuse with advice."""

from __future__ import annotations

import difflib
import json
import shlex
from pathlib import Path

from ftkit.errors import ModelError
from ftkit.folders import is_there, named

_PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
_LFS_POINTER = b"version https://git-lfs"


def missing_weights(folder: Path) -> list[str]:
    """Names of the safetensors files that a model folder should hold and does not.

    A folder without any index needs at least one safetensors file.
    """
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        try:
            shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return [index.name]
        return sorted(str(name)[:200] for name in shards if not _is_shard(folder, name))
    return [] if any(folder.glob("*.safetensors")) else ["model.safetensors"]


def _is_shard(folder: Path, name: object) -> bool:
    """Whether an index names a file of its own folder: a path would be followed out of it."""
    return isinstance(name, str) and Path(name).name == name and (folder / name).is_file()


def gguf_or_none(path: Path) -> Path | None:
    """Check a local model and say how to read it.

    Returns
    -------
    The GGUF file to convert, or None where `path` is a folder that transformers reads as it is.

    Raises
    ------
    ModelError
        Where it is neither; the advice says what it seems to be.
    """
    if path.is_file():
        return _single_file(path)
    weights = [file for file in path.glob("*.safetensors") if not file.name.startswith("adapter_")]
    if (path / "config.json").is_file() and (weights or (path / "model.safetensors.index.json").is_file()):
        _check_weights(path, weights)
        return None
    gguf = sorted(path.glob("*.gguf"))
    if len(gguf) == 1:
        return _single_file(gguf[0])
    if gguf:
        names = ", ".join(file.name for file in gguf[:5])
        raise ModelError(f"{path} holds several GGUF files: {names}.", "Give the path of the one you want.")
    raise _refusal(path, bool(weights))


def not_found(text: str) -> ModelError:
    """The error for a path that does not exist, with the nearest name beside it."""
    path = named(text)
    parent = path.parent
    while not is_there(parent) and parent != parent.parent:
        parent = parent.parent
    try:
        names = [entry.name for entry in parent.iterdir()]
    except OSError:
        names = []
    missing = (
        path.relative_to(parent).parts[0] if path.is_relative_to(parent) and path != parent else path.name
    )
    near = difflib.get_close_matches(missing, names, n=1, cutoff=0.5)
    hint = (
        f" Did you mean {parent / near[0]}?"
        if near
        else f" {parent.resolve()} exists and holds no {missing!r}."
    )
    return ModelError(
        f"There is no file or folder {text}.{hint}",
        "Give the path of a model folder, of a GGUF file, a Hub id such as organisation/name, or `starter`.",
    )


def _single_file(path: Path) -> Path:
    if path.suffix == ".gguf":
        with path.open("rb") as file:
            magic = file.read(len(_LFS_POINTER))
        if magic[:4] == b"GGUF":
            return path
        raise ModelError(f"{path} is not a GGUF file: it does not begin as one.", _lfs_advice(magic))
    if path.suffix == ".safetensors":
        raise ModelError(
            f"{path} is the weights alone.",
            f"Give its folder, {path.parent}, with config.json and the tokenizer's files in it.",
        )
    if any(path.match(pattern) for pattern in _PICKLED):
        raise _pickled(path)
    raise ModelError(f"{path} is no model.", "Give a model folder, a GGUF file, a Hub id or `starter`.")


def _check_weights(folder: Path, weights: list[Path]) -> None:
    missing = missing_weights(folder)
    if missing:
        raise ModelError(
            f"{folder} is not whole: it lacks {', '.join(missing[:4])}.",
            "Download or copy the model again.",
        )
    for file in weights:
        with file.open("rb") as opened:
            start = opened.read(len(_LFS_POINTER))
        if start == _LFS_POINTER or file.stat().st_size < 9:
            raise ModelError(f"{file} does not hold weights.", _lfs_advice(start))


def _lfs_advice(start: bytes) -> str:
    if start == _LFS_POINTER:
        return "It is a Git LFS pointer: run `git lfs pull` in the folder that it was cloned to."
    return "Download or copy it again."


def _refusal(path: Path, weights: bool) -> ModelError:
    if (path / "recipe.yaml").is_file():
        whole = path / "model"
        advice = (
            f"Its model is in {whole}."
            if whole.is_dir()
            else "It holds an adapter: talk to it with `ftkit.attach`, or start from its base model."
        )
        return ModelError(f"{path} is the folder of an ftkit run, not of a model.", advice)
    if (path / "adapter_config.json").is_file():
        return ModelError(
            f"{path} holds an adapter, not a whole model.",
            "Start from the model that it was trained on (base_model_name_or_path in adapter_config.json).",
        )
    if weights:
        return ModelError(
            f"{path} has weights but no config.json.", "Copy the model's config.json and tokenizer there."
        )
    for pattern in _PICKLED:
        for file in path.glob(pattern):
            return _pickled(file)
    inner = [child.name for child in path.iterdir() if (child / "config.json").is_file()]
    advice = (
        f"Did you mean {path / inner[0]}?"
        if inner
        else "A model folder holds config.json, *.safetensors and a tokenizer."
    )
    return ModelError(f"{path} holds no model.", advice)


def _pickled(file: Path) -> ModelError:
    return ModelError(
        f"{file.name} in {file.parent} is a pickled file. Reading it runs whatever code is in it; "
        "ftkit does not.",
        "Use a version of the model with safetensors. If there is none, convert it once, in a process "
        f"without network: ftkit convert-weights {shlex.quote(str(file.parent))} OUT, or "
        "ftkit.models.convert_weights(folder, out).",
    )
