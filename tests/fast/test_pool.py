"""The pool of large tensors: blocks go back when the last tensor over them is gone, and only then."""

from __future__ import annotations

import gc
import sys
import threading
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ftkit.fast import pool
from ftkit.fast.gated import ACTIVATIONS, gated_mlp
from ftkit.fast.lora import Group, Linear
from ftkit.fast.norms import rms_norm, source_of
from tests.fast.test_kernels import needs_kernels

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the pool is for Linux")
LIKE = torch.empty(0)
MB = 2**18
"""Numbers of a float32 megabyte."""


@pytest.fixture
def used() -> Iterator[pool.Pool]:
    """The pool, in use and with nothing in it."""
    gc.collect()
    with pool.in_use():
        pool._POOL.release()
        yield pool._POOL


def test_a_block_is_the_next_tensors_of_its_size(used: pool.Pool) -> None:
    first = pool.empty(LIKE, 2 * MB)
    place = first.data_ptr()
    view = first[5:].view(-1)
    del first
    assert pool.empty(LIKE, 2 * MB).data_ptr() != place, "a view still needs it"
    del view
    assert used.waiting > 0
    assert place in {pool.empty(LIKE, 2 * MB).data_ptr() for _ in range(2)}


def test_what_autograd_keeps_is_not_given_away(used: pool.Pool) -> None:
    x = torch.randn(2 * MB, requires_grad=True)
    kept = torch.mul(x.detach(), 2, out=pool.empty(LIKE, 2 * MB))
    y = (x * kept).sum()
    wanted = kept.clone()
    del kept
    pool.empty(LIKE, 2 * MB).fill_(7)
    y.backward()
    assert x.grad is not None
    assert torch.equal(x.grad, wanted)


@given(st.lists(st.integers(1, 6), min_size=1, max_size=15), st.randoms())
@settings(max_examples=30, deadline=None)
def test_tensors_in_use_never_share_memory(sizes: list[int], random: object) -> None:
    with pool.in_use():
        held: dict[int, torch.Tensor] = {}
        for number, size in enumerate(sizes):
            held[number] = pool.empty(LIKE, size, MB).fill_(number)
            if random.random() < 0.5:  # type: ignore[attr-defined]
                del held[random.choice(sorted(held))]  # type: ignore[attr-defined]
            assert all((x == mark).all() for mark, x in held.items())


def test_sizes_of_other_steps_do_not_pile_up(used: pool.Pool) -> None:
    for step in range(40):
        for _ in range(20):
            passing = [pool.empty(LIKE, rows * (MB + 7919 * step)) for rows in (2, 4, 8)]
            del passing
    assert used.waiting < 2 * 14 * 1.4 * 4 * (MB + 7919 * 40)


def test_outside_of_a_run_it_holds_nothing() -> None:
    with pool.in_use():
        late = pool.empty(LIKE, 2 * MB)
        passing = pool.empty(LIKE, 3 * MB)
        del passing
    assert pool._POOL.waiting == 0
    del late
    assert pool._POOL.waiting == 0


def test_without_memory_it_gives_up_what_waits(used: pool.Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    passing = pool.empty(LIKE, 2 * MB)
    del passing

    def none_left(size: int) -> object:
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(pool, "_memory", none_left)
    assert pool.empty(LIKE, 8 * MB).shape == (8 * MB,)
    assert used.waiting == 0


def test_a_tensor_may_go_while_another_is_given(used: pool.Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    """As when the garbage collector runs within the pool, in the thread that holds its lock."""
    held = [pool.empty(LIKE, size * MB) for size in (1, 2, 3)]
    own = pool._memory

    def collected(size: int) -> object:
        held.clear()
        return own(size)

    monkeypatch.setattr(pool, "_memory", collected)
    assert pool.empty(LIKE, 9 * MB).shape == (9 * MB,)
    assert used.waiting >= 6 * 4 * MB


def test_threads_take_and_give_at_once(used: pool.Pool) -> None:
    wrong: list[int] = []

    def work(mark: int) -> None:
        for _ in range(300):
            one, other = pool.empty(LIKE, MB).fill_(mark), pool.empty(LIKE, 2 * MB).fill_(-mark)
            if not (bool((one == mark).all()) and bool((other == -mark).all())):
                wrong.append(mark)

    threads = [threading.Thread(target=work, args=(mark,)) for mark in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@needs_kernels
@pytest.mark.parametrize("recompute", [False, True])
def test_a_norms_output_that_is_made_again_is_the_same(used: pool.Pool, recompute: bool) -> None:
    """The gradients beside those where the output was kept: to the bit."""
    torch.manual_seed(0)
    width, wide, tokens = 64, 96, 4200  # above a megabyte
    x = torch.randn(1, tokens, width, requires_grad=True)
    weight = torch.rand(width)

    def linear(inputs: int, outputs: int) -> Linear:
        a, b = torch.randn(4, inputs).requires_grad_(), torch.randn(outputs, 4).requires_grad_()
        return Linear(torch.randn(outputs, inputs), None, a, b, 2.0)

    gate_up, down = Group([linear(width, wide), linear(width, wide)]), Group([linear(wide, width)])
    over = [x, *gate_up.parameters, *down.parameters]
    found = []
    for kept in (False, True):
        normed = rms_norm(x, weight, eps=1e-6)
        read = normed * 1 if kept else normed
        assert (source_of(read) is None) == kept
        out = gated_mlp(read, gate_up, down, ACTIVATIONS[0], recompute=recompute)
        del normed, read
        found.append(torch.autograd.grad(out.square().mean(), over))
    for again, kept_one in zip(*found, strict=True):
        assert torch.equal(again, kept_one)


@needs_kernels
def test_a_norms_output_that_was_changed_is_kept() -> None:
    y = rms_norm(torch.randn(4, 8, requires_grad=True), torch.rand(8), eps=1e-6)
    assert source_of(y) is not None
    with torch.no_grad():
        y.mul_(2)
    assert source_of(y) is None
    with torch.inference_mode():
        assert source_of(rms_norm(torch.randn(4, 8), torch.rand(8), eps=1e-6)) is None
