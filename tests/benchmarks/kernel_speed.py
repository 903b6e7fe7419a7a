"""Each fast piece beside its plain reference, forward and backward, over the sizes that models have.

    python -m tests.benchmarks.kernel_speed [--seconds 2] [--only norms,attention]

The two take turns of a millisecond in one process. Compared are the shortest turns, which other work on the
machine touches least, and the least time that its cores spent: long calls on both cores have no turn that
nothing touched. A piece is slower where both say so, and must be at no size; the last lines name the slowest.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812  the field's own abbreviation
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.models.llama import modeling_llama

from ftkit.fast import attention, compiled, decoding, loss, pool
from ftkit.fast.gated import ACTIVATIONS, gated_mlp
from ftkit.fast.lora import Group, Linear, grouped_linear
from ftkit.fast.norms import reference_rms_norm, rms_norm
from ftkit.fast.rotary import rotary
from ftkit.models import probe

NOISE = 1.05
"""A ratio up to here counts as no slower."""
TURN = 0.001
"""Seconds that a turn takes at least: short calls are repeated."""
LEAST_TURNS, PARTS = 5, 5
"""Turns of each at least, however long they take; parts of them whose ratios show the spread."""
STARTER, GEMMA = (576, 1536, 9, 3, 64, 49_152), (640, 2048, 4, 1, 256, 262_144)
"""Width, feed-forward, heads, heads of keys, size of a head, words: of the two models of train_speed."""

Call = Callable[[], Sequence[torch.Tensor]]


@dataclass(frozen=True)
class Case:
    """A piece at one size: two ways to the same result, and what takes a gradient."""

    piece: str
    size: str
    fast: Call
    plain: Call
    over: tuple[torch.Tensor, ...] = ()


def _linear(inputs: int, outputs: int, rank: int, dtype: torch.dtype) -> Linear:
    return Linear(
        torch.randn(outputs, inputs, dtype=dtype) / inputs**0.5,
        None,
        (torch.randn(rank, inputs) / inputs**0.5).requires_grad_(),
        torch.randn(outputs, rank).requires_grad_(),
        2.0,
    )


def _as_peft(x: torch.Tensor, one: Linear) -> torch.Tensor:
    """The frozen product, and beside it the update in float32, cast around."""
    assert one.a is not None
    assert one.b is not None
    update = F.linear(F.linear(x.to(one.a.dtype), one.a), one.b) * one.scaling
    return F.linear(x, one.weight) + update.to(x.dtype)


def _trained(*layers: Linear) -> list[torch.Tensor]:
    return [p for one in layers for p in (one.a, one.b) if p is not None]


def lora(model: tuple[int, ...], tokens: int, dtype: torch.dtype) -> Iterator[Case]:
    """Queries, keys and values as one node; the feed-forward as one."""
    width, wide, heads, kv_heads, size, _ = model
    x = torch.randn(1, tokens, width, dtype=dtype, requires_grad=True)
    qkv = [_linear(width, count * size, 8, dtype) for count in (heads, kv_heads, kv_heads)]
    group = Group(qkv)
    yield Case(
        "lora", f"{tokens} x {width} -> {group.outputs}",
        lambda: grouped_linear(x, group).split([len(one.weight) for one in qkv], dim=-1),
        lambda: [_as_peft(x, one) for one in qkv],
        (x, *_trained(*qkv)),
    )  # fmt: skip
    gate, up, down = (_linear(width, wide, 8, dtype), _linear(width, wide, 8, dtype),
                      _linear(wide, width, 8, dtype))  # fmt: skip
    gate_up, out = Group([gate, up]), Group([down])
    yield Case(
        "mlp", f"{tokens} x {width} x {wide}",
        lambda: [gated_mlp(x, gate_up, out, ACTIVATIONS[0])],
        lambda: [_as_peft(F.silu(_as_peft(x, gate)) * _as_peft(x, up), down)],
        (x, *_trained(gate, up, down)),
    )  # fmt: skip


def norms(model: tuple[int, ...], tokens: int, dtype: torch.dtype) -> Iterator[Case]:
    """RMSNorm over a model's width."""
    x = torch.randn(1, tokens, model[0], dtype=dtype, requires_grad=True)
    weight = torch.randn(model[0], dtype=dtype)
    yield Case(
        "norms", f"{tokens} x {model[0]}",
        lambda: [rms_norm(x, weight, eps=1e-5)],
        lambda: [reference_rms_norm(x, weight, eps=1e-5)],
        (x,),
    )  # fmt: skip


def rotations(model: tuple[int, ...], tokens: int, dtype: torch.dtype) -> Iterator[Case]:
    """Rotary positions on queries and keys."""
    _, _, heads, kv_heads, size, _ = model
    q, k = (torch.randn(1, tokens, n, size, dtype=dtype).transpose(1, 2).requires_grad_()
            for n in (heads, kv_heads))  # fmt: skip
    angles = torch.randn(1, tokens, size // 2).repeat(1, 1, 2)
    cos, sin = angles.cos().to(dtype), angles.sin().to(dtype)
    own = getattr(modeling_llama.apply_rotary_pos_emb, "__wrapped__", modeling_llama.apply_rotary_pos_emb)
    yield Case(
        "rotary", f"{tokens} x {heads}+{kv_heads} x {size}",
        lambda: rotary(q, k, cos, sin),
        lambda: own(q, k, cos, sin),
        (q, k),
    )  # fmt: skip


def segments(model: tuple[int, ...], tokens: int, dtype: torch.dtype) -> Iterator[Case]:
    """Rows laid end to end beside torch's attention over padded rows: one row, eight alike, eight unlike."""
    _, _, heads, kv_heads, size, _ = model
    for lengths, shown in (
        ([tokens], f"1 row of {tokens}"),
        ([tokens // 8] * 8, f"8 rows of {tokens // 8}"),
        ([tokens * n // 36 for n in range(1, 9)], f"8 rows of {tokens // 36} to {tokens * 8 // 36}"),
    ):
        if min(lengths) < 1:
            continue
        count, longest = sum(lengths), max(lengths)
        starts = torch.tensor([0, *itertools.accumulate(lengths)])
        q, k, v = (torch.randn(1, n, count, size, dtype=dtype, requires_grad=True)
                   for n in (heads, kv_heads, kv_heads))  # fmt: skip
        place = torch.cat([n * longest + torch.arange(length) for n, length in enumerate(lengths)])

        def padded(
            q: torch.Tensor = q, k: torch.Tensor = k, v: torch.Tensor = v,
            rows: int = len(lengths), longest: int = longest, place: torch.Tensor = place,
        ) -> Sequence[torch.Tensor]:  # fmt: skip
            if rows == 1:
                return [F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)]
            laid = []
            for x in (q, k, v):
                room = x.new_zeros(x.shape[1], rows * longest, size).index_copy(1, place, x[0])
                laid.append(room.view(x.shape[1], rows, longest, size).transpose(0, 1))
            out = F.scaled_dot_product_attention(*laid, is_causal=True, enable_gqa=True)
            return [out.transpose(0, 1).flatten(1, 2)[:, place][None]]

        yield Case(
            "attention", f"{shown}, {heads}/{kv_heads} x {size}",
            lambda q=q, k=k, v=v, starts=starts: [attention.segment_attention(q, k, v, starts)],
            padded,
            (q, k, v),
        )  # fmt: skip


def scores(model: tuple[int, ...], tokens: int, dtype: torch.dtype) -> Iterator[Case]:
    """Log-probabilities of the trained tokens, with the head frozen and trained."""
    width, *_, words = model
    if tokens * words > 2**28:  # the reference's logits alone would be many gigabytes
        return
    hidden = torch.randn(tokens, width, dtype=dtype, requires_grad=True)
    targets = torch.randint(words, (tokens,))
    for trained in (False, True):
        head = torch.randn(words, width, dtype=dtype, requires_grad=trained)
        yield Case(
            "loss", f"{tokens} x {words}, head {'trained' if trained else 'frozen'}",
            lambda head=head: [loss.token_scores(hidden, head, targets).logprobs],
            lambda head=head: [loss.reference_logprobs(hidden, head, targets)],
            (hidden, head) if trained else (hidden,),
        )  # fmt: skip


def one_token(model: tuple[int, ...], tokens: int, dtype: torch.dtype) -> Iterator[Case]:
    """What answering does a token at a time: a product of one row with its adapter; one query's attention."""
    width, wide, heads, kv_heads, size, _ = model
    one = _linear(width, wide, 8, dtype)
    a, b = (x.detach().float().contiguous() for x in _trained(one))
    x = torch.randn(1, 1, width, dtype=dtype)
    if tokens == min(TOKENS):
        yield Case(
            "one token", f"{width} -> {wide}",
            lambda: [decoding.one_linear(x, one.weight, None, a, b, one.scaling)],
            lambda: [_as_peft(x, one)],
        )  # fmt: skip
    q = torch.randn(1, heads, 1, size, dtype=dtype)
    k, v = (torch.randn(1, kv_heads, tokens, size, dtype=dtype) for _ in range(2))
    module = torch.nn.Module()  # as a model calls the one and the other
    module.num_key_value_groups, module.is_causal = heads // kv_heads, True  # type: ignore[assignment]
    fast = AttentionInterface()[attention.register()]
    yield Case(
        "one token", f"{tokens} keys, {heads}/{kv_heads} x {size}",
        lambda: [fast(module, q, k, v, None)[0]],
        lambda: [sdpa_attention_forward(module, q, k, v, None)[0]],
    )  # fmt: skip


PIECES = (lora, norms, rotations, segments, scores, one_token)
TOKENS = (8, 32, 64, 256, 1880)
"""Tokens of a batch: a row of one word or two, two short rows, a row, eight rows of about 235."""


@dataclass(frozen=True)
class Ratio:
    """The fast way's time over the plain one's."""

    shortest: float
    parts: list[float]
    """Of the shortest turns of every part."""
    medians: float
    processor: float
    """Of the least time that the cores spent, in all."""
    plain: float
    """Microseconds of the plain way's shortest turn."""

    def __str__(self) -> str:
        return (
            f"{self.shortest:.2f} ({min(self.parts):.2f}-{max(self.parts):.2f}), "
            f"medians {self.medians:.2f}, processor {self.processor:.2f}, of {self.plain:.0f} us"
        )


def seconds(call: Call, case: Case, grads: Sequence[torch.Tensor], times: int) -> tuple[float, float]:
    """Of one call and its backward, over so many in a row; and of all cores."""
    begun = time.perf_counter(), time.process_time()
    with torch.set_grad_enabled(bool(case.over)):
        for _ in range(times):
            out = call()
            if case.over:
                torch.autograd.grad(out, case.over, grads)
    return (time.perf_counter() - begun[0]) / times, (time.process_time() - begun[1]) / times


def measure(case: Case, budget: float) -> Ratio:
    """The two in turns, each first as often as the other, for so many seconds."""
    grads = [torch.randn_like(out) for out in case.plain()]
    calls = (case.fast, case.plain)
    for call in calls:
        seconds(call, case, grads, 2)  # memory and threads are there
    times = max(1, round(TURN / min(seconds(call, case, grads, 1)[0] for call in calls)))
    taken: tuple[list[tuple[float, float]], ...] = ([], [])
    end = time.perf_counter() + budget
    while len(taken[0]) < LEAST_TURNS or time.perf_counter() < end:
        for which in (0, 1) if len(taken[0]) % 2 else (1, 0):
            taken[which].append(seconds(calls[which], case, grads, times))
    (fast, fast_cores), (plain, plain_cores) = (list(zip(*turns, strict=True)) for turns in taken)
    return Ratio(
        min(fast) / min(plain),
        [min(fast[part::PARTS]) / min(plain[part::PARTS]) for part in range(PARTS)],
        statistics.median(fast) / statistics.median(plain),
        min(fast_cores) / min(plain_cores),
        min(plain) * 1e6,
    )


def main() -> None:
    """Measure all and print a line a case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seconds", type=float, default=2.0, help="for a piece at one size")
    parser.add_argument("--only", default="", help="pieces, with commas between them; all otherwise")
    parser.add_argument("--tokens", type=int, nargs="*", default=TOKENS)
    given = parser.parse_args()
    if missing := compiled.why_not():
        raise SystemExit(f"There are no compiled kernels: {missing}")
    dtype = torch.bfloat16 if probe("cpu").native_bf16 else torch.float32
    only = {name for name in given.only.split(",") if name}
    found: list[tuple[float, str]] = []
    torch.manual_seed(0)
    for model, tokens, piece in itertools.product((STARTER, GEMMA), given.tokens, PIECES):
        for case in piece(model, tokens, dtype):
            if only and case.piece not in only:
                continue
            with pool.in_use():  # as in a run
                ratio = measure(case, given.seconds)
            named = f"{case.piece}, {case.size}"
            print(f"{named:58} {ratio}", flush=True)
            found.append((min(ratio.shortest, ratio.processor), named))
    slow = [f"\n  {ratio:.2f} {named}" for ratio, named in sorted(found, reverse=True) if ratio > NOISE]
    print(
        f"bench: kernels ({str(dtype).removeprefix('torch.')}) slowest {max(found)[0]:.2f} "
        f"({max(found)[1]}), {len(slow)} of {len(found)} slower than the reference{''.join(slow)}"
    )


if __name__ == "__main__":
    main()
