"""Entries of a cache folder: named by what they are made of, the oldest removed beyond a limit."""

from __future__ import annotations

import functools
import hashlib
import json
import shutil
import time
from importlib import metadata
from pathlib import Path

ABOUT = "about.json"
"""Written last into an entry; touched when the entry is used."""
_ABANDONED = 24 * 3600.0
"""Seconds after which a half-written entry belongs to no living process."""


@functools.cache
def code_digest() -> str:
    """This package's own code and the libraries that render and tokenise: another version, other entries."""
    digest = hashlib.sha256()
    for file in sorted(Path(__file__).parent.rglob("*")):
        if file.suffix in {".py", ".jinja"}:
            digest.update(file.name.encode() + file.read_bytes())
    versions = [metadata.version(name) for name in ("transformers", "tokenizers", "jinja2")]
    return digest.hexdigest() + json.dumps(versions)


def clean(folder: Path, keep: str, limit: int) -> None:
    """Remove the entries not used for longest, down to `limit` bytes, and what was left half-written."""
    entries = []
    for entry in folder.iterdir():
        try:
            if entry.name.startswith(".writing-"):
                if time.time() - entry.stat().st_mtime > _ABANDONED:
                    shutil.rmtree(entry, ignore_errors=True)
                continue
            used = (entry / ABOUT).stat().st_mtime
            entries.append((used, sum(file.stat().st_size for file in entry.iterdir()), entry))
        except OSError:
            continue  # another process is removing it
    total = sum(size for _, size, _ in entries)
    for _, size, entry in sorted(entries):
        if total <= limit:
            break
        if entry.name != keep:
            shutil.rmtree(entry, ignore_errors=True)
            total -= size
