"""Python that comes with a model: which files would run with `model.trust_remote_code`. None runs here."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ftkit.errors import ModelError
from ftkit.folders import is_there, named
from ftkit.models import hub
from ftkit.models.cache import silent
from ftkit.recipe import Model

_CONFIGURATIONS = ("config.json", "tokenizer_config.json", "processor_config.json", "generation_config.json")
_LARGEST = 50_000_000
_LISTED = 12


def code_files(folder: Path) -> tuple[str, ...]:
    """The files of a model folder that would run: those that its configurations name, and those beside them.

    A file of another repository is written `REPOSITORY: FILE`; it would be fetched.
    """
    called: list[str] = []
    for name in _CONFIGURATIONS:
        called += _called(folder / name)
    try:
        there = sorted(file.name for file in folder.glob("*.py"))
    except OSError:
        there = []
    return tuple(dict.fromkeys([*called, *there]))


def remote_code(model: Model, *, offline: bool = False) -> tuple[str, ...]:
    """The same for the model that a Recipe names, wherever it is; empty where nothing is known.

    Of a model that is not here yet the Hub is asked for its configuration, and with `trust_remote_code` on
    for the list of its files.
    """
    if model.source == "starter":
        return ()
    path = named(model.source)
    if is_there(path):
        return code_files(path) if path.is_dir() else ()
    found = hub.cached(model.source, model.revision, code=model.trust_remote_code)
    if found is not None:
        return code_files(found)
    offline = offline or hub.offline()
    try:
        file = hub.config_file(model.source, model.revision, silent, offline=offline)
        named_there = tuple(_called(file))
        listed = hub.listing(model.source, model.revision) if model.trust_remote_code and not offline else []
    except ModelError:
        return ()
    return tuple(dict.fromkeys([*named_there, *(name for name in listed if name.endswith(".py"))]))


def warning(files: Sequence[str], trusted: bool) -> str:
    """What a person is told about the code of a model; empty where there is none."""
    if not files:
        return ""
    more = f" and {len(files) - _LISTED} more" if len(files) > _LISTED else ""
    names = ", ".join(one[:100] for one in files[:_LISTED]) + more
    if trusted:
        return (
            "model.trust_remote_code is on: Python code that comes with the model runs with all your rights "
            f"when it is loaded: {names}. Leave it on only if you have read these files."
        )
    return (
        f"The model brings Python code, which ftkit does not run: {names}. If it cannot be loaded without, "
        "read these files before you think of model.trust_remote_code."
    )


def _called(file: Path) -> list[str]:
    """The files that a configuration names in its `auto_map`."""
    try:
        if file.stat().st_size > _LARGEST:
            return []
        values = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return []
    found = values.get("auto_map") if isinstance(values, dict) else None
    places = _places(found if isinstance(found, Mapping) else {})
    return [_file_of(place) for place in places]


def _places(found: Mapping[str, Any]) -> Iterator[str]:
    for value in found.values():
        for place in value if isinstance(value, (list, tuple)) else [value]:
            if isinstance(place, str) and "." in place:
                yield place


def _file_of(place: str) -> str:
    """`modeling_x.XForCausalLM` is modeling_x.py; with `org/name--` before it, of another repository."""
    repository, dashes, inner = place.rpartition("--")
    module = inner.rpartition(".")[0].replace(".", "/")
    return f"{repository}: {module}.py" if dashes else f"{module}.py"
