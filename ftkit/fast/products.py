"""Products in float32 by the library that numpy brings, where it is faster than torch's.

torch multiplies by MKL, which on AMD's processors reaches half to two thirds of what numpy's OpenBLAS does
(tests/benchmarks/NOTES.md). Both sum in float32, in another order.
"""

from __future__ import annotations

import functools
import itertools
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import threadpoolctl
import torch
import torch.nn.functional as F  # noqa: N812  the field's own abbreviation
from torch.autograd.function import once_differentiable

from ftkit.models.device import probe

Product = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""(n, k) and (k, m) to (n, m); no gradient goes through."""
LEAST = 8
"""Rows, columns and terms of a sum below which torch is as fast."""
_SHARED = 1 << 21
"""Multiplications from which a product is shared among threads."""


@functools.cache
def why_not() -> str | None:
    """Why torch's own products stay on this machine, or None where numpy's are faster."""
    if "AMD" not in probe("cpu").name or not torch.backends.mkl.is_available():
        return "torch's own are taken on this processor"
    return None if _library() else "numpy comes without OpenBLAS here"


@functools.cache
def _cores() -> int:
    """Shares of a product, for any number of threads: OpenBLAS rounds by the size of a share."""
    return probe("cpu").cores


def product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """`a @ b` of two matrices, by the faster library; without a gradient where that is numpy's."""
    if not _takes(a, b):
        return a @ b
    out = a.new_empty(len(a), b.shape[1])
    left, right, made = a.detach().numpy(), b.detach().numpy(), out.numpy()
    shares = _cores() if a.numel() * b.shape[1] >= _SHARED else 1
    threads = min(shares, torch.get_num_threads())
    if len(a) >= b.shape[1]:
        parts = [(left[cut], right, made[cut]) for cut in _cuts(len(a), shares)]
    else:
        parts = [(left, right[:, cut], made[:, cut]) for cut in _cuts(b.shape[1], shares)]
    with _no_threads:
        others = [_elsewhere(threads, parts[thread::threads]) for thread in range(1, threads)]
        _multiply(parts[::threads])
        for other in others:
            other.result()
    return out


_Parts = list[tuple[np.ndarray, np.ndarray, np.ndarray]]


def _multiply(parts: _Parts) -> None:
    for left, right, out in parts:
        np.matmul(left, right, out=out)


def _elsewhere(threads: int, parts: _Parts) -> Future[None]:
    try:
        return _pool(os.getpid(), threads).submit(_multiply, parts)
    except RuntimeError:  # Python is ending
        done: Future[None] = Future()
        _multiply(parts)
        done.set_result(None)
        return done


def _cuts(count: int, shares: int) -> list[slice]:
    ends = [count * share // shares for share in range(shares + 1)]
    return [slice(*pair) for pair in itertools.pairwise(ends)]


@functools.cache
def _pool(_: int, threads: int) -> ThreadPoolExecutor:
    """Threads of this process (by its id: a fork has none) that wait asleep.

    OpenBLAS's own wait by turning for some milliseconds, on cores that torch's threads want by then.
    """
    return ThreadPoolExecutor(threads, thread_name_prefix="ftkit-products")


@functools.cache
def _library() -> Any:
    """What sets the threads of numpy's OpenBLAS; None where numpy has another library."""
    found = threadpoolctl.ThreadpoolController().select(internal_api="openblas").lib_controllers
    return next((one for one in found if "numpy" in one.filepath), None)


class _NoThreads:
    """While anybody is within, numpy's OpenBLAS has no threads of its own."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._within = self._before = 0

    def __enter__(self) -> None:
        with self._lock:
            if not self._within:
                self._before = _library().get_num_threads()
                self._set(1)
            self._within += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._within -= 1
            if not self._within:
                self._set(self._before)

    def _set(self, count: int) -> None:
        """threadpoolctl hears one thread of the process alone, the first to ask: make it this one."""
        _library().clear_controlling_thread(force=True)
        _library().set_num_threads(count)
        _library().clear_controlling_thread()


_no_threads = _NoThreads()


def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """`x @ weight.T + bias`: (..., inputs) and (outputs, inputs) to (..., outputs), differentiable in all.

    torch's own layer where its products stay: in half precision it rounds product and bias once.
    """
    few = x.numel() < LEAST * x.shape[-1]
    if few or not x.dtype == weight.dtype == torch.float32 or why_not():
        return F.linear(x, weight, bias)
    made: torch.Tensor = _Linear.apply(x.reshape(-1, x.shape[-1]), weight, bias)
    return made.view(*x.shape[:-1], len(weight))  # out here: within, the result could not be changed in place


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, rows: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        ctx.save_for_backward(rows if ctx.needs_input_grad[1] else None, weight)
        made = product(rows, weight.T)
        return made if bias is None else made.add_(bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        rows, weight = ctx.saved_tensors
        of_rows, of_weight, of_bias = ctx.needs_input_grad
        return (
            product(grad, weight) if of_rows else None,
            product(grad.T, rows) if of_weight else None,
            grad.sum(0) if of_bias else None,
        )


def _takes(a: torch.Tensor, b: torch.Tensor) -> bool:
    return (
        a.dtype == b.dtype == torch.float32
        and a.is_cpu
        and b.is_cpu
        and min(*a.shape, b.shape[1]) >= LEAST
        and 1 in a.stride()
        and 1 in b.stride()
        and not torch.is_grad_enabled()
        and why_not() is None
    )
