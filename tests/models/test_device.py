"""The machine's facts, on made-up machines: containers with limits, processors with and without bfloat16."""

from __future__ import annotations

from types import SimpleNamespace

import psutil
import pytest

from ftkit.models import device


@pytest.fixture
def cgroup(tmp_path, monkeypatch):
    monkeypatch.setattr(device, "_CGROUP", tmp_path)

    def write(**files):
        for name, text in files.items():
            path = tmp_path / name.replace("__", "/").replace("--", ".")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    monkeypatch.setattr(
        psutil, "virtual_memory", lambda: SimpleNamespace(total=64 * 10**9, available=50 * 10**9)
    )
    return write


def test_without_limits_the_machine_counts(cgroup):
    assert device.memory_gb() == (64.0, 50.0)


def test_a_containers_limit_counts(cgroup):
    cgroup(
        **{
            "memory--max": "2000000000",
            "memory--current": "800000000",
            "memory--stat": "inactive_file 300000000\n",
        }
    )
    assert device.memory_gb() == (2.0, 1.5)


def test_no_limit_is_no_limit(cgroup):
    cgroup(**{"memory--max": "max\n", "memory--current": "800000000"})
    assert device.memory_gb() == (64.0, 50.0)


def test_the_older_kind_of_control_group_counts_too(cgroup):
    cgroup(
        **{"memory__memory--limit_in_bytes": "4000000000", "memory__memory--usage_in_bytes": "1000000000"},
    )
    assert device.memory_gb() == (4.0, 3.0)


def test_a_cpu_quota_bounds_the_cores(cgroup, monkeypatch):
    monkeypatch.setattr(device.os, "cpu_count", lambda: 32)
    monkeypatch.setattr(device.os, "sched_getaffinity", lambda pid: set(range(32)), raising=False)
    monkeypatch.setattr(psutil, "cpu_count", lambda logical=True: 32 if logical else 16)
    assert device._cores() == 16
    cgroup(**{"cpu--max": "150000 100000"})
    assert device._cores() == 2
    cgroup(**{"cpu--max": "max 100000"})
    assert device._cores() == 16


@pytest.mark.parametrize(
    ("text", "native"),
    [
        ("model name : Intel Xeon\nflags : fpu avx512f avx512_bf16\n", True),
        ("model name : Intel Xeon\nflags : fpu amx_bf16\n", True),
        ("model name : Old Xeon\nflags : fpu avx2 avx512f\n", False),
        ("Features : fp asimd bf16\n", True),
        ("", False),
    ],
)
def test_native_bfloat16_is_read_from_the_flags(monkeypatch, text, native):
    monkeypatch.setattr(device.Path, "read_text", lambda self: text)
    device._cpu.cache_clear()
    try:
        assert device._cpu().native_bf16 is native
    finally:
        device._cpu.cache_clear()


def test_this_machine():
    here = device.probe()
    assert here.cores >= 1
    assert here.name
    assert 0 < here.free_gb <= here.memory_gb
