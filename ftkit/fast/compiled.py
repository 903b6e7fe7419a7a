"""The element-wise kernels of kernels.cpp: compiled once on this machine, kept in ftkit's cache.

They need a C++ compiler (g++, clang++ or `CXX`) and a processor with shared memory under it; without, every
piece that uses them has a plain version in torch, and `why_not` says what is missing.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from ftkit.models import cache, device

SOURCE = Path(__file__).with_name("kernels.cpp")
# Not -ffast-math: a library linked with it, or with its unsafe part, takes subnormals from the whole process.
_OPTIMISE = ("-O3", "-march=native", "-fopenmp", "-fno-math-errno", "-fno-trapping-math")
_REORDER = ("-fassociative-math", "-freciprocal-math", "-fno-signed-zeros")
FLAGS = (*_OPTIMISE, *_REORDER, "-std=c++17", "-fPIC", "-shared")
_SUFFIX = {torch.bfloat16: "bf16", torch.float32: "f32"}
_SECONDS = 120
"""A compiler that takes longer is given up."""


def available(*tensors: torch.Tensor) -> bool:
    """Whether the kernels take these tensors: on the processor, all of one type, bfloat16 or float32."""
    first = tensors[0].dtype
    return (
        first in _SUFFIX
        and all(tensor.is_cpu and tensor.dtype == first for tensor in tensors)
        and why_not() is None
    )


def why_not() -> str | None:
    """Why there are no compiled kernels on this machine, or None where there are."""
    found = _library()
    return found if isinstance(found, str) else None


def call(name: str, *arguments: torch.Tensor | float | int) -> None:
    """Call kernel `name` for the type of the first tensor, where `available` says that it can be.

    Tensors go as pointers, floats as float, ints as int64; the number of threads is added.
    """
    of_type = next(_SUFFIX[a.dtype] for a in arguments if isinstance(a, torch.Tensor))
    function = _function(f"{name}_{of_type}", tuple(isinstance(a, float) for a in arguments))
    plain = [a.data_ptr() if isinstance(a, torch.Tensor) else a for a in arguments]
    function(*plain, torch.get_num_threads())


@functools.cache
def _function(name: str, floats: tuple[bool, ...]) -> Any:
    """A kernel that knows its arguments' types: a call converts them without objects of their own."""
    library = _library()
    assert isinstance(library, ctypes.CDLL)
    function = library[name]  # unlike getattr's, an object for these types alone
    function.argtypes = [ctypes.c_float if one else ctypes.c_int64 for one in (*floats, False)]
    function.restype = None
    return function


@functools.cache
def _library() -> ctypes.CDLL | str:
    """The kernels, or why there are none."""
    if sys.platform == "win32":
        return "not offered on Windows"
    reason = "no C++ compiler (g++ or clang++) is installed"
    for compiler in device.compilers():
        try:
            return _load(compiler)
        except (OSError, subprocess.SubprocessError) as error:  # CXX may name a C compiler: the next may do
            said = (getattr(error, "stderr", None) or str(error)).strip().splitlines()
            reason = f"{Path(compiler).name} could not build them ({said[-1] if said else error!r:.200})"
    return reason


def _load(compiler: str) -> ctypes.CDLL:
    version = subprocess.run(
        [compiler, "--version"], capture_output=True, text=True, timeout=20, check=True
    ).stdout
    key = hashlib.sha256("\n".join([*FLAGS, version, _processor()]).encode() + SOURCE.read_bytes())
    folder = cache.root() / "kernels"
    built = folder / f"{key.hexdigest()[:24]}.so"
    if not built.exists():
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryDirectory(dir=folder) as work:
            fresh = Path(work) / "kernels.so"
            subprocess.run(
                [compiler, *FLAGS, "-o", str(fresh), str(SOURCE)],
                capture_output=True, text=True, timeout=_SECONDS, check=True,
            )  # fmt: skip
            fresh.replace(built)  # whole or not at all: another process may be building it too
    return ctypes.CDLL(str(built))


def _processor() -> str:
    """What -march=native means here: a cache shared by several machines must not mix them."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next((line for line in lines if line.startswith(("flags", "Features"))), platform.machine())
    except OSError:
        return platform.machine() + platform.processor()
