"""Each kernel beside its reference: values, gradients, drawn shapes, not-a-numbers."""

from __future__ import annotations

import itertools
import weakref
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import given, settings
from hypothesis import strategies as st

from ftkit.fast import attention, compiled, loss
from ftkit.fast.gated import ACTIVATIONS, gated_mlp
from ftkit.fast.lora import Group, Linear, grouped_linear
from ftkit.fast.norms import reference_rms_norm, rms_norm
from ftkit.fast.rotary import rotary

needs_kernels = pytest.mark.skipif(
    compiled.why_not() is not None, reason=f"no compiled kernels: {compiled.why_not()}"
)
CLOSE: dict[torch.dtype, dict[str, float]] = {
    torch.float64: {"atol": 1e-10, "rtol": 1e-10},
    torch.float32: {"atol": 2e-5, "rtol": 2e-4},
    torch.bfloat16: {"atol": 6e-2, "rtol": 6e-2},
}


def layer(
    inputs: int, outputs: int, rank: int, dtype: torch.dtype = torch.float64, bias: bool = False
) -> Linear:
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    return Linear(
        torch.randn(outputs, inputs, dtype=dtype) / inputs**0.5,
        torch.randn(outputs, dtype=dtype) if bias else None,
        torch.randn(rank, inputs, dtype=wide).div(inputs**0.5).requires_grad_() if rank else None,
        torch.randn(outputs, rank, dtype=wide).requires_grad_() if rank else None,
        0.7,
    )


def by_hand(x: torch.Tensor, one: Linear) -> torch.Tensor:
    out = F.linear(x, one.weight, one.bias)
    if one.a is None or one.b is None:
        return out
    return out + one.scaling * (x @ one.a.to(x.dtype).T @ one.b.to(x.dtype).T)


def same(got: torch.Tensor, want: torch.Tensor, over: list[torch.Tensor]) -> None:
    """Values and, weighted at random, gradients agree."""
    torch.testing.assert_close(got, want, **CLOSE[got.dtype])
    weights = torch.randn_like(want)
    grads = (torch.autograd.grad((out * weights).sum(), over) for out in (got, want))
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other, **CLOSE[got.dtype])


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 5),
    st.lists(st.tuples(st.integers(1, 6), st.integers(0, 3), st.booleans()), min_size=1, max_size=3),
)
def test_grouped_linear_equals_its_layers(tokens: int, shapes: list[tuple[int, int, bool]]) -> None:
    torch.manual_seed(0)
    layers = [layer(5, outputs, rank, bias=bias) for outputs, rank, bias in shapes]
    x = torch.randn(2, tokens, 5, dtype=torch.float64, requires_grad=True)
    want = torch.cat([by_hand(x, one) for one in layers], -1)
    trained = [p for one in layers for p in (one.a, one.b) if p is not None]
    same(grouped_linear(x, Group(layers)), want, [x, *trained])


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("activation", ACTIVATIONS, ids=["silu", "gelu tanh", "gelu"])
def test_gated_mlp_equals_its_parts(activation: Any, dtype: torch.dtype, recompute: bool) -> None:
    torch.manual_seed(0)
    gate, up, down = layer(6, 9, 2, dtype), layer(6, 9, 3, dtype), layer(9, 6, 2, dtype)
    x = torch.randn(1, 7, 6, dtype=dtype, requires_grad=True)

    def act(t: torch.Tensor) -> torch.Tensor:
        return F.silu(t) if activation is ACTIVATIONS[0] else F.gelu(t, approximate=activation.approximate)

    want = by_hand(act(by_hand(x, gate)) * by_hand(x, up), down)
    got = gated_mlp(x, Group([gate, up]), Group([down]), activation, recompute=recompute)
    same(got, want, [x, *(p for one in (gate, up, down) for p in (one.a, one.b) if p is not None)])


def test_gradcheck_in_double_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    x = torch.randn(1, 4, 5, dtype=torch.float64, requires_grad=True)
    group, down = Group([layer(5, 6, 2), layer(5, 6, 2)]), Group([layer(6, 5, 1)])
    assert torch.autograd.gradcheck(lambda t: grouped_linear(t, group), (x,))
    for activation in ACTIVATIONS:
        assert torch.autograd.gradcheck(lambda t, a=activation: gated_mlp(t, group, down, a), (x,))
    q, k, v = (torch.randn(1, h, 7, 4, dtype=torch.float64, requires_grad=True) for h in (4, 2, 2))
    monkeypatch.setattr(attention, "SHORT_WEIGHTS", 0)
    for window, cap in itertools.product((None, 2), (None, 3.0)):
        assert torch.autograd.gradcheck(
            lambda *qkv, w=window, c=cap: attention.segment_attention(
                *qkv, torch.tensor([0, 3, 7]), window=w, softcap=c
            ),
            (q, k, v),
        )
    head = torch.randn(11, 5, dtype=torch.float64, requires_grad=True)
    bend = loss.Logits(scale=0.5, softcap=2.0)
    targets = torch.tensor([3, 0, 10, 10])
    assert torch.autograd.gradcheck(
        lambda h, w: loss.token_scores(h, w, targets, logits=bend).logprobs, (x[0], head)
    )


def masked(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    starts: list[int],
    window: int | None,
    cap: float | None,
) -> torch.Tensor:
    n, rep = q.shape[2], q.shape[1] // k.shape[1]
    row = torch.bucketize(torch.arange(n), torch.tensor(starts[1:]), right=True)
    seen = (row[:, None] == row) & torch.ones(n, n, dtype=torch.bool).tril()
    if window:
        seen &= torch.ones(n, n, dtype=torch.bool).triu(1 - window)
    scores = q @ k.repeat_interleave(rep, 1).mT * q.shape[-1] ** -0.5
    if cap:
        scores = cap * torch.tanh(scores / cap)
    return scores.masked_fill(~seen, float("-inf")).softmax(-1) @ v.repeat_interleave(rep, 1)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(1, 23), min_size=1, max_size=6),
    st.sampled_from([(1, 1), (4, 2), (3, 1)]),
    st.sampled_from([None, 1, 4, 30]),
    st.sampled_from([None, 2.0]),
    st.sampled_from([torch.float64, torch.float32]),
    st.sampled_from([0, 384]),
    st.sampled_from([0, attention.SHORT_WEIGHTS]),
    st.booleans(),
)
def test_segment_attention_equals_masked_softmax(
    lengths: list[int],
    heads: tuple[int, int],
    window: int | None,
    cap: float | None,
    dtype: torch.dtype,
    kept: int,
    short: int,
    takes_groups: bool,
) -> None:
    torch.manual_seed(0)
    starts = [0, *itertools.accumulate(lengths)]
    q, k, v = (
        torch.randn(1, h, starts[-1], 4, dtype=dtype, requires_grad=True) for h in (heads[0], *[heads[1]] * 2)
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention, "BLOCK", 8)
        patch.setattr(attention, "KEPT_UP_TO", kept)
        patch.setattr(attention, "SHORT_WEIGHTS", short)
        patch.setattr(attention, "takes_groups", lambda: takes_groups)  # torch before 2.9 does not
        got = attention.segment_attention(q, k, v, torch.tensor(starts), window=window, softcap=cap)
        same(got, masked(q, k, v, starts, window, cap), [q, k, v])


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 9),
    st.sampled_from([1, 2, 13, 130]),
    st.sampled_from([loss.Logits(), loss.Logits(scale=0.3), loss.Logits(softcap=3.0), loss.Logits(2.0, 5.0)]),
    st.sampled_from([torch.float64, torch.float32, torch.bfloat16]),
    st.booleans(),
    st.sampled_from([0.0, 2.0]),
)
def test_token_scores_equal_the_reference(
    rows: int, words: int, bend: loss.Logits, dtype: torch.dtype, trains_head: bool, kept: float
) -> None:
    torch.manual_seed(0)
    hidden = torch.randn(rows, 6, dtype=dtype, requires_grad=True)
    head = torch.randn(words, 6, dtype=dtype, requires_grad=trains_head)
    targets = torch.randint(words, (rows,))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loss, "SLICE_BYTES", 1)
        patch.setattr(loss, "LEAST_ROWS", 4)
        patch.setattr(loss, "KEPT", kept)
        scores = loss.token_scores(hidden, head, targets, logits=bend)
        want = loss.reference_logprobs(hidden, head, targets, logits=bend)
        torch.testing.assert_close(scores.logprobs, want, **CLOSE[dtype])
        over = [hidden, head] if trains_head else [hidden]
        weights = torch.randn_like(want)
        grads = (torch.autograd.grad((out * weights).sum(), over) for out in (scores.logprobs, want))
        for one, other in zip(*grads, strict=True):
            torch.testing.assert_close(one, other, **CLOSE[dtype])
    if scores.entropy is not None and rows:
        made = loss.reference_logprobs(
            hidden.repeat_interleave(words, 0), head, torch.arange(words).repeat(rows), logits=bend
        ).view(rows, words)
        torch.testing.assert_close(scores.entropy, -(made.exp() * made).sum(-1).float(), atol=1e-3, rtol=1e-3)
        best = made.gather(1, targets[:, None])[:, 0] >= made.max(-1).values - 2e-2
        assert (scores.correct <= best).all()


@needs_kernels
@settings(max_examples=25, deadline=None)
@given(st.integers(1, 6), st.sampled_from([1, 7, 16, 70]), st.sampled_from([0.0, 1.0]))
def test_rms_norm_equals_the_reference(rows: int, size: int, offset: float) -> None:
    torch.manual_seed(0)
    for dtype in (torch.float32, torch.bfloat16):
        x = torch.randn(2, rows, size, dtype=dtype, requires_grad=True)
        weight = torch.randn(size, dtype=dtype)
        got = rms_norm(x, weight, eps=1e-5, offset=offset)
        same(got, reference_rms_norm(x, weight, eps=1e-5, offset=offset), [x])


@needs_kernels
def test_rotary_equals_the_models_own() -> None:
    from transformers.models.llama import modeling_llama

    own = getattr(modeling_llama.apply_rotary_pos_emb, "__wrapped__", modeling_llama.apply_rotary_pos_emb)
    torch.manual_seed(0)
    q = torch.randn(1, 9, 3, 8).transpose(1, 2).requires_grad_()
    k = torch.randn(1, 9, 1, 8).transpose(1, 2).requires_grad_()
    angles = torch.randn(1, 9, 8)  # halves may differ
    want = own(q, k, angles.cos(), angles.sin())
    got = rotary(q, k, angles.cos(), angles.sin())
    same(torch.cat(got, 1), torch.cat(want, 1), [q, k])


@needs_kernels
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_exponentials_over_the_whole_range(dtype: torch.dtype) -> None:
    x = torch.cat([torch.linspace(-120, 88, 4001), torch.tensor([-1e30, -87.3, 0.0])]).to(dtype)
    logits = torch.stack([x, torch.zeros_like(x)], dim=1)  # the log of 1 / (1 + exp(-x))
    hidden, head = logits, torch.eye(2, dtype=dtype)
    scores = loss.token_scores(hidden, head, torch.zeros(len(x), dtype=torch.long))
    torch.testing.assert_close(scores.logprobs, F.logsigmoid(x.float()), atol=1e-5, rtol=1e-5)


@needs_kernels
def test_loading_the_kernels_leaves_the_process_its_subnormals() -> None:
    assert compiled.available(torch.ones(1))
    smallest = float.fromhex("0x1p-1074")
    assert smallest * 1.0 == smallest
    assert smallest != 0
    assert torch.tensor(1e-40).item() * 2 > 0


@needs_kernels
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_not_a_number_goes_through(dtype: torch.dtype) -> None:
    """A broken activation must show as a broken loss, not be hidden by a kernel."""
    bad = torch.ones(1, 4, 8, dtype=dtype)
    bad[0, 1, 2] = float("nan")
    weight = torch.ones(8, dtype=dtype)
    assert rms_norm(bad, weight, eps=1e-5)[0, 1].isnan().all()
    assert rms_norm(bad, weight, eps=1e-5)[0, 0].isfinite().all()
    group, down = Group([layer(8, 8, 2, dtype)]), Group([layer(4, 8, 2, dtype)])
    for activation in ACTIVATIONS[:2]:
        assert gated_mlp(bad, group, down, activation)[0, 1].isnan().all()
    scores = loss.token_scores(bad[0], torch.ones(5, 8, dtype=dtype), torch.zeros(4, dtype=torch.long))
    assert scores.logprobs.isnan().tolist() == [False, True, False, False]
    qkv = bad[:, None]
    assert attention.segment_attention(qkv, qkv, qkv, torch.tensor([0, 4]))[0, 0, 1:].isnan().any(-1).all()


@pytest.mark.parametrize("trained", [False, True])
def test_one_slice_of_logits_is_held_at_a_time(monkeypatch: pytest.MonkeyPatch, trained: bool) -> None:
    monkeypatch.setattr(loss, "SLICE_BYTES", 0)
    monkeypatch.setattr(loss, "LEAST_ROWS", 3)
    made: list[weakref.ref[torch.Tensor]] = []
    own = loss._score

    def score(*arguments: Any) -> Any:
        assert not any(one() is not None for one in made)
        scores, residual = own(*arguments)
        made.append(weakref.ref(residual))
        return scores, residual

    monkeypatch.setattr(loss, "_score", score)
    hidden, head = torch.randn(8, 5, requires_grad=True), torch.randn(11, 5, requires_grad=trained)
    loss.token_scores(hidden, head, torch.arange(8)).logprobs.sum().backward()
    assert len(made) == (6 if trained else 3)


def test_slices_of_few_rows_are_not_made_again_for_a_trained_head(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss, "SLICE_BYTES", 0)
    monkeypatch.setattr(loss, "LEAST_ROWS", 3)
    made, own = [], loss._score
    monkeypatch.setattr(loss, "_score", lambda *arguments: made.append(1) or own(*arguments))
    for width, times in ((16, 3), (14, 6)):  # eight rows are half of sixteen
        hidden, head = torch.randn(8, width), torch.randn(11, width, requires_grad=True)
        loss.token_scores(hidden, head, torch.arange(8)).logprobs.sum().backward()
        assert len(made) == times
        made.clear()
