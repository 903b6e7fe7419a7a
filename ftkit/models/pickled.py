"""Pickled weights (`pytorch_model.bin` and the like) become safetensors: once, in a closed-in process.

Reading a pickle can run whatever is in it. ftkit reads none to train or to talk; a person who needs the
weights asks for this. torch's own restricted reader (`weights_only`) is used even there.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from ftkit.errors import ModelError
from ftkit.folders import inside, is_there, named
from ftkit.models.cache import Progress, silent
from ftkit.models.isolation import IsolatedError, run_apart

PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
"""Suffixes of files that are, or may hold, pickles."""
_INDEX = "pytorch_model.bin.index.json"
_OF_TRAINING = ("training_args", "optimizer", "scheduler", "rng_state", "scaler")
_BESIDE = ("*.json", "*.model", "*.txt", "*.jinja", "*.tiktoken")


def convert_weights(folder: str | Path, out: str | Path, progress: Progress | None = None) -> Path:
    """Write a model folder with safetensors instead of its pickled weights; the old one is left as it is.

    Parameters
    ----------
    folder
        A model folder with config.json and `pytorch_model.bin` (one or several), or such a file in one.
    out
        The folder to write; it must not be there yet, or be empty.
    progress
        Told what happens; may raise to cancel.

    Returns
    -------
    The folder.

    Raises
    ------
    ModelError
        When there are no such weights, they hold something else, or `out` is in use.
    """
    source, target = named(folder), named(out)
    if not is_there(source):
        raise ModelError(f"There is no folder {source}.", "Name a model folder with pickled weights.")
    files = [source] if source.is_file() else _weights(source)
    place = source.parent if source.is_file() else source
    if is_there(target) and (not target.is_dir() or any(target.iterdir())):
        raise ModelError(f"{target} is in use.", "Name a folder that is not there yet.")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
        try:
            _convert_all(files, work, progress or silent)
            _copy_beside(place, work)
            work.chmod(0o755)
            if is_there(target):
                target.rmdir()
            work.replace(target)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    except OSError as error:
        raise ModelError(
            f"{target} cannot be written: {error.strerror or error}.",
            "Free some space or name another folder.",
        ) from None
    return target


def _weights(folder: Path) -> list[Path]:
    """The pickled weights of a folder: those of its index, or all that are not of training."""
    if (folder / _INDEX).is_file():
        try:
            names = set(json.loads((folder / _INDEX).read_text(encoding="utf-8"))["weight_map"].values())
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise ModelError(f"{folder / _INDEX} cannot be read.", "Copy the model again.") from None
        outside = [name for name in names if not isinstance(name, str) or Path(name).name != name]
        if outside:
            raise ModelError(f"{folder / _INDEX} names {outside[0]!r:.100}, which is no file of its folder.")
        found = [folder / name for name in sorted(names)]
    else:
        found = sorted(
            file
            for file in folder.iterdir()
            if file.suffix in PICKLED and file.is_file() and not file.name.startswith(_OF_TRAINING)
        )
    missing = [file.name for file in found if not file.is_file()]
    if missing or not found:
        what = f"lacks {missing[0]}" if missing else "holds no pickled weights (*.bin, *.pt)"
        raise ModelError(f"{folder} {what}.", "Name the folder that has them.")
    return found


def _convert_all(files: list[Path], work: Path, tell: Progress) -> None:
    many = len(files) > 1
    placed: dict[str, str] = {}
    size = 0
    for number, file in enumerate(files, start=1):
        name = f"model-{number:05d}-of-{len(files):05d}.safetensors" if many else "model.safetensors"
        megabytes = 3 * file.stat().st_size / 1e6
        text = f"Converting {file.name} in a process of its own"
        try:
            arguments = [str(file.resolve()), str((work / name).resolve())]
            run_apart("ftkit.models.pickled", arguments, tell, text, megabytes)
        except IsolatedError as error:
            raise ModelError(
                f"{file.name} could not be converted: {error}",
                "It holds more than weights, or is damaged. Get the model as safetensors from its makers.",
            ) from None
        size += (work / name).stat().st_size
        placed |= dict.fromkeys(_keys(work / name), name)
    if many:
        index = {"metadata": {"total_size": size}, "weight_map": placed}
        (work / "model.safetensors.index.json").write_text(json.dumps(index, indent=2), encoding="utf-8")


def _keys(file: Path) -> list[str]:
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        return [name for name in json.loads(opened.read(length)) if name != "__metadata__"]


def _copy_beside(place: Path, work: Path) -> None:
    """Configuration and tokenizer; no code, and no link that leads elsewhere."""
    for pattern in _BESIDE:
        for file in place.glob(pattern):
            if file.is_file() and inside(place, file.name) and not file.name.endswith(".index.json"):
                shutil.copyfile(file, work / file.name)


def prepare() -> None:
    """Import what `main` needs."""
    import safetensors.torch  # noqa: F401
    import torch  # noqa: F401


def main(source: str, target: str) -> None:
    """Read one file with torch's restricted reader and write its tensors; called in the closed-in process."""
    import torch
    from safetensors.torch import save_file

    try:
        found = torch.load(source, map_location="cpu", weights_only=True, mmap=True)
    except (RuntimeError, ValueError) as error:
        if "mmap" not in str(error):
            raise
        found = torch.load(source, map_location="cpu", weights_only=True)  # of torch before 1.6
    tensors = _tensors(found)
    if not tensors:
        msg = "there are no weights in it"
        raise SystemExit(msg)
    # a copy each: tied weights share memory, which safetensors does not write
    save_file({name: one.contiguous().clone() for name, one in tensors.items()}, target, {"format": "pt"})


def _tensors(found: Any) -> dict[str, Any]:
    import torch

    for key in ("state_dict", "model", "module"):
        if isinstance(found, dict) and isinstance(found.get(key), dict):
            found = found[key]
    if not isinstance(found, dict):
        return {}
    return {str(name): one.detach() for name, one in found.items() if isinstance(one, torch.Tensor)}
