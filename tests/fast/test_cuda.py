"""The fast pieces on a GPU; skipped where there is none, as in CI."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

from ftkit.fast.attention import segment_attention
from ftkit.fast.logprobs import LogProbs, choose
from tests.fast.test_kernels import masked
from tests.fast.test_pieces import CONFIGS, LENGTHS, ONLY_PACKED, adapted, batch, slopes

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU on this machine")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("window", [None, 5])
def test_segment_attention(dtype: torch.dtype, window: int | None) -> None:
    torch.manual_seed(0)
    starts = [0, 20, 21, 60]
    q, k, v = (torch.randn(1, h, 60, 16, requires_grad=True) for h in (4, 2, 2))
    want = masked(q, k, v, starts, window, None)
    on_gpu = [x.detach().to("cuda", dtype).requires_grad_() for x in (q, k, v)]
    got = segment_attention(*on_gpu, torch.tensor(starts, dtype=torch.int32, device="cuda"), window=window)
    close = {"atol": 5e-2, "rtol": 5e-2} if dtype == torch.bfloat16 else {"atol": 1e-4, "rtol": 1e-4}
    torch.testing.assert_close(got.cpu().float(), want, **close)
    weights = torch.randn_like(want)
    wanted = torch.autograd.grad((want * weights).sum(), (q, k, v))
    found = torch.autograd.grad((got * weights.to("cuda", dtype)).sum(), on_gpu)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one.cpu().float(), other, **close)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", CONFIGS)
def test_adapted_models(name: str, dtype: torch.dtype) -> None:
    plain, fast = adapted(name, dtype).cuda(), adapted(name, dtype).cuda()
    rows = {key: value.cuda() for key, value in batch(*LENGTHS).items()}
    way = choose(fast)
    assert way.report.used["lora"]
    if dtype == torch.float32:
        assert "no flash attention" in way.reason
        rows = {key: value[:, :9] for key, value in rows.items() if key in ("input_ids", "labels")}
        rows["attention_mask"] = torch.ones_like(rows["input_ids"])
    else:
        assert way.packed, way.reason
    plainly = ONLY_PACKED if way.packed else False
    expected = choose(plain, fast=plainly)(plain, rows)
    found = way(fast, rows)
    if dtype == torch.float32:
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
        wanted, got = (slopes(model, made) for model, made in ((plain, expected), (fast, found)))
        for parameter, slope in wanted.items():
            assert (got[parameter] - slope).norm() <= 1e-3 * slope.norm(), parameter
        return
    # two roundings differ from one another: each is held to the exact numbers instead
    exact = adapted(name, dtype).float().cuda()
    truth = _row_by_row(exact, rows)
    assert (found - truth).norm() <= 1.5 * (expected - truth).norm() + 1e-3
    slope, rounded, got = (slopes(m, made) for m, made in ((exact, truth), (plain, expected), (fast, found)))
    errors = [
        torch.stack([(one[parameter].float() - slope[parameter]).norm() for parameter in slope]).norm()
        for one in (got, rounded)
    ]
    assert errors[0] <= 1.5 * errors[1]


def _row_by_row(model: Any, rows: dict[str, torch.Tensor]) -> torch.Tensor:
    plain = LogProbs(False, None, "")
    found = []
    for start, end in itertools.pairwise(rows["cu_seqlens"].tolist()):
        part = {key: rows[key][:, start:end] for key in ("input_ids", "labels")}
        found.append(plain(model, part | {"attention_mask": torch.ones_like(part["input_ids"])}))
    return torch.cat(found)
