"""The datasets that a LLaMA-Factory file names, as the Recipe's sources."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ftkit.recipe.llamafactory.given import Given

LISTING = "dataset_info.json"


def training(names: tuple[str, ...], given: Given) -> dict[str, Any] | tuple[str, str]:
    """The fields of `data` that read these datasets; or what is wrong and what to do."""
    if not names:
        return "It names no dataset.", f"Name one of {LISTING}."
    folder = given.get("dataset_dir")
    if not isinstance(folder, str):
        return "dataset_dir is not the path of a folder.", f"Name the folder with {LISTING}."
    if folder.startswith("REMOTE:"):
        return (
            f"dataset_dir {folder[:80]!r} is a listing on the Hub, which ftkit does not read.",
            "Fetch the folder, or name the datasets one by one with dataset_dir: ONLINE.",
        )
    weights = given.get("interleave_probs")
    online = folder == "ONLINE"
    source = folder if online else str(_found(folder, given.folder) or folder)
    if not (weights or online):  # ftkit reads several names of one listing itself
        return {"data.source": source, "data.subset": ", ".join(names)}
    shares = _numbers(weights) if weights else [1.0] * len(names)
    if shares is None or len(shares) != len(names):
        return (
            f"interleave_probs has {len(weights)} shares for {len(names)} datasets, or one is no number "
            "above 0.",
            "Write a number for each, such as 0.7, 0.3.",
        )
    sources = [_source(name, source, online, share, given) for name, share in zip(names, shares, strict=True)]
    changes = {f"data.{field}": value for field, value in sources[0].items()}
    return {**changes, "data.mixed_with": sources[1:]} if sources[1:] else changes


def held_out(names: tuple[str, ...], given: Given) -> str | None:
    """The file of the dataset that is held out; None where it is not one file of a listing."""
    folder = given.get("dataset_dir")
    if len(names) != 1 or not isinstance(folder, str):
        return None
    found = _found(folder, given.folder)
    if found is None:
        return None
    try:
        entry = json.loads((found / LISTING).read_text(encoding="utf-8-sig"))[names[0]]
        file = found / entry["file_name"]
        inside = file.resolve().is_relative_to(found.resolve())
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return str(file) if inside else None


def _source(name: str, folder: str, online: bool, share: float, given: Given) -> dict[str, Any]:
    one: dict[str, Any] = {"source": name} if online else {"source": folder, "subset": name}
    if given.get("mix_strategy") != "concat":
        one["weight"] = share
    if given.values.get("max_samples") is not None:
        one["max_rows"] = given.values["max_samples"]
    return one


def _found(folder: str, beside: Path | None) -> Path | None:
    """The folder of the listing: as it is written, or seen from the file or from a folder above it."""
    path = Path(folder).expanduser()
    places = [path]
    if beside is not None and not path.is_absolute():
        above = beside.resolve()
        places += [place / path for place in (above, *above.parents)]
    for place in places:
        try:
            if (place / LISTING).is_file():
                return place
        except (OSError, ValueError):
            continue
    return None


def _numbers(texts: tuple[str, ...]) -> list[float] | None:
    try:
        shares = [float(text) for text in texts]
    except ValueError:
        return None
    return shares if all(0 < share < float("inf") for share in shares) else None
