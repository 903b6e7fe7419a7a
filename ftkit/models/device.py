"""What this machine computes with: processor or GPU, cores, native bfloat16, memory.

Facts about the processor come from the operating system, so that panels can show them without torch. In a
container the limits of its control group count, not the size of the host.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import os
import platform
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

_CGROUP = Path("/sys/fs/cgroup")
_NO_LIMIT = 1 << 60
"""Version 1 control groups write a number near 2^63 for "no limit"."""


@dataclass(frozen=True)
class Device:
    """What a model would run on.

    Attributes
    ----------
    kind
        "cpu" or "cuda".
    name
        The processor's or GPU's name.
    cores
        Processor cores that this process may use.
    native_bf16
        Whether the hardware computes in bfloat16, rather than imitating it.
    memory_gb, free_gb
        Memory of the device, and what is free of it now, in 10^9 bytes.
    native_fp8
        Whether the hardware computes in fp8.
    """

    kind: Literal["cpu", "cuda"]
    name: str
    cores: int
    native_bf16: bool
    memory_gb: float
    free_gb: float
    native_fp8: bool = False


def compilers() -> list[str]:
    """C++ compilers on this machine, the one that `CXX` names first."""
    names = (os.environ.get("CXX") or "", "g++", "clang++")
    return list(dict.fromkeys(filter(None, map(shutil.which, names))))


def probe(kind: Literal["auto", "cpu", "cuda"] = "auto") -> Device:
    """The device a Recipe's `compute.device` means on this machine; free memory is as of now.

    Parameters
    ----------
    kind
        "auto" takes a CUDA GPU where there is one. "cuda" without one
        gives the processor: `load_model` says so.
    """
    if kind != "cpu":
        gpu = _gpu()
        if gpu is not None:
            return dataclasses.replace(gpu, free_gb=_free_gpu_gb())
    total, free = memory_gb()
    return dataclasses.replace(_cpu(), memory_gb=total, free_gb=free)


def memory_gb() -> tuple[float, float]:
    """Total and free memory for this process, in 10^9 bytes; a container's limit counts where it is lower."""
    import psutil

    machine = psutil.virtual_memory()
    total, free = machine.total, machine.available
    limit, used = _cgroup_memory()
    if limit is not None:
        total = min(total, limit)
        free = max(0, min(free, limit - used))
    return total / 1e9, free / 1e9


def _cgroup_memory() -> tuple[int | None, int]:
    """Limit and use of this process's control group, in bytes; the page cache it can give back is not use."""
    for limit_file, used_file, cache_key in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file"),
    ):
        limit, used = _number(_CGROUP / limit_file), _number(_CGROUP / used_file)
        if limit is not None and used is not None and limit < _NO_LIMIT:
            statistics = (_CGROUP / limit_file).parent / "memory.stat"
            return limit, max(0, used - _statistic(statistics, cache_key))
    return None, 0


def _statistic(path: Path, key: str) -> int:
    try:
        rows = dict(line.split() for line in path.read_text().splitlines() if len(line.split()) == 2)
        return int(rows.get(key, 0))
    except (OSError, ValueError):
        return 0


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


@functools.cache
def _cpu() -> Device:
    name, flags = _processor()
    native = bool(flags & {"avx512_bf16", "amx_bf16", "bf16"})
    return Device("cpu", name, _cores(), native, 0.0, 0.0)


def _processor() -> tuple[str, set[str]]:
    """Name and feature flags of the processor; no flags where the system does not tell."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return _processor_elsewhere()
    facts: dict[str, str] = {}
    for line in text.splitlines():
        key, _, value = line.partition(":")
        facts.setdefault(key.strip().lower(), value.strip())
    flags = set(facts.get("flags", facts.get("features", "")).split())
    return facts.get("model name") or platform.machine() or "processor", flags


def _processor_elsewhere() -> tuple[str, set[str]]:
    if sys.platform == "darwin":
        # Apple's processors know bfloat16 from the M2 on, but torch's CPU kernels there do not use it.
        command = ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"]
        try:
            answer = subprocess.run(
                command, capture_output=True, text=True, timeout=5, check=False
            ).stdout.strip()
        except (OSError, subprocess.SubprocessError):
            answer = ""
        return answer or platform.machine(), set()
    return platform.processor() or platform.machine() or "processor", set()


def _cores() -> int:
    """Cores this process may use: its affinity and its container's quota, not the size of the host."""
    import psutil

    logical = os.cpu_count() or 1
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else logical
    physical = psutil.cpu_count(logical=False) or logical
    if allowed == logical and physical >= 4:
        # Two threads of one core share its arithmetic units: dense algebra gains nothing from the second.
        allowed = min(allowed, physical)
    quota = _cpu_quota()
    return max(1, min(allowed, math.ceil(quota)) if quota else allowed)


def _cpu_quota() -> float | None:
    try:
        quota, period = (_CGROUP / "cpu.max").read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        pass
    quota_us, period_us = (
        _number(_CGROUP / "cpu/cpu.cfs_quota_us"),
        _number(_CGROUP / "cpu/cpu.cfs_period_us"),
    )
    return quota_us / period_us if quota_us and period_us and quota_us > 0 else None


def _nvidia_driver() -> bool:
    """Whether an NVIDIA driver seems to be here; only then is torch imported to ask it."""
    if sys.platform == "win32":
        system = Path(os.environ.get("SYSTEMROOT", r"C:\Windows")) / "System32"
        return (system / "nvcuda.dll").exists()
    return any(Path(path).exists() for path in ("/proc/driver/nvidia", "/dev/nvidiactl", "/dev/dxg"))


@functools.cache
def _gpu() -> Device | None:
    if not _nvidia_driver():
        return None
    import torch

    if not torch.cuda.is_available():
        return None
    facts = torch.cuda.get_device_properties(0)
    fp8 = (facts.major, facts.minor) >= (8, 9)
    return Device("cuda", facts.name, _cores(), facts.major >= 8, facts.total_memory / 1e9, 0.0, fp8)


def _free_gpu_gb() -> float:
    import torch

    free, _ = torch.cuda.mem_get_info(0)
    # What torch's allocator keeps for itself without using it is free for the next model.
    return (free + torch.cuda.memory_reserved(0) - torch.cuda.memory_allocated(0)) / 1e9
