"""Data to choose from without typing: files near the notebook, and rows that its cells have made."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MOST = 100
"""Files listed; somebody with more of them knows their names."""
_DEPTH = 3
_LOOKED_AT = 5000
"""Directory entries after which the search ends: a home folder may hold millions."""
_BESIDE = ("../data", "../datasets", "../input", "../shared/data", "../../shared/data")
"""Folders that are looked into, too: where courses and Kaggle keep data."""
_LARGEST_LISTING = 5_000_000
"""Bytes of a dataset_info.json; LLaMA-Factory's own has a hundredth."""
_NEVER = {"node_modules", "site-packages", "__pycache__", "checkpoints", "adapter", "runs", "venv"}


@dataclass(frozen=True)
class Found:
    """Something that rows can be taken from.

    Attributes
    ----------
    label
        For people.
    source, subset
        What a Recipe calls it; empty for rows of the kernel.
    variable
        The name of a variable that holds rows; empty for a file.
    """

    label: str
    source: str = ""
    subset: str | None = None
    variable: str = ""


def files(folder: Path | None = None) -> list[Found]:
    """Data files below `folder` (None: the working directory) and in folders beside it, nearest first.

    Run folders, hidden ones and such of programs are left out.
    """
    start = folder or Path.cwd()
    beside = [place for name in _BESIDE if (place := Path(os.path.normpath(start / name))).is_dir()]
    found: list[Found] = []
    for path, size in itertools.chain(_walk(start), *map(_walk, beside)):
        name = os.path.relpath(path, start)
        if path.name == "dataset_info.json":
            there = os.path.relpath(path.parent, start)
            found += [Found(f"{one} in {there}", there, one) for one in _listed(path, size)]
        else:
            found.append(Found(f"{name} ({_size(size)})", name))
        if len(found) >= MOST:
            break
    return found[:MOST]


def variables(space: Mapping[str, Any]) -> list[Found]:
    """Variables of a notebook that hold rows: DataFrames, lists of objects, `datasets.Dataset`."""
    from ftkit.recipe.rows import are_rows

    found = []
    for name, value in space.items():
        if name.startswith("_") or isinstance(value, type):
            continue
        try:
            if not are_rows(value) or hasattr(value, "__next__"):
                continue
            found.append(Found(f"{name}: {type(value).__name__} of {len(value):,} rows", variable=name))
        except Exception:  # noqa: BLE001 - somebody's own class: it may answer in any way
            continue
    return found


def notebook_space() -> Mapping[str, Any]:
    """The variables of the notebook that this kernel serves; none outside of one."""
    try:
        from IPython import get_ipython
    except ImportError:
        return {}
    shell = get_ipython()
    return dict(getattr(shell, "user_ns", None) or {})


def _walk(start: Path) -> Iterator[tuple[Path, int]]:
    """Data files with their sizes, folder by folder, those nearest first."""
    from ftkit.data.readers import READERS, kind

    level, seen = [start], 0
    for _ in range(_DEPTH):
        below: list[Path] = []
        for folder in level:
            try:
                with os.scandir(folder) as there:
                    entries = list(itertools.islice(there, _LOOKED_AT))
            except OSError:
                continue
            entries.sort(key=lambda entry: entry.name.lower())
            if folder != start and any(entry.name == "recipe.yaml" for entry in entries):
                continue  # a run's own folder
            listed = any(entry.name == "dataset_info.json" for entry in entries)
            for entry in entries:
                seen += 1
                if entry.name.startswith("."):
                    continue
                try:
                    if entry.is_dir(follow_symlinks=False):
                        below += [Path(entry.path)] if entry.name not in _NEVER else []
                    elif entry.name == "dataset_info.json" or (
                        not listed and kind(Path(entry.name)) in READERS and _is_data(entry.name)
                    ):
                        yield Path(entry.path), entry.stat().st_size
                except OSError:
                    continue
            if seen > _LOOKED_AT:
                return
        level = below


def _is_data(name: str) -> bool:
    """Not the settings and notes that lie beside code."""
    low = name.lower()
    settings = ("package", "tsconfig", "composer", "manifest", "config", "tokenizer", "special_tokens_map")
    return not low.startswith(("requirements", "readme", "license", "constraints", *settings))


def _listed(path: Path, size: int) -> list[str]:
    if size > _LARGEST_LISTING:
        return []
    try:
        entries = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError):
        return []
    return [str(name) for name in entries] if isinstance(entries, dict) else []


def _size(count: int) -> str:
    return f"{count / 1e6:,.1f} MB" if count >= 1e5 else f"{count / 1e3:,.1f} kB"
