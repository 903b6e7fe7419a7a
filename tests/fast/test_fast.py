"""The kernels agree with their references."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, MistralConfig, Qwen3Config

from ftkit.fast import loss
from ftkit.fast.attention import segment_attention
from ftkit.fast.logprobs import IGNORED, LogProbs, choose


@pytest.mark.parametrize("head_trains", [False, True])
def test_logprobs_and_gradients_equal_the_reference(
    monkeypatch: pytest.MonkeyPatch, head_trains: bool
) -> None:
    monkeypatch.setattr(loss, "SLICE_BYTES", 4 * 13 * 3)
    torch.manual_seed(0)
    hidden = torch.randn(10, 6, dtype=torch.float64, requires_grad=True)
    head = torch.randn(13, 6, dtype=torch.float64, requires_grad=head_trains)
    targets = torch.randint(13, (10,))
    weights = torch.randn(10, dtype=torch.float64)
    inputs = [hidden, head] if head_trains else [hidden]
    grads = []
    for out in (
        loss.token_scores(hidden, head, targets).logprobs,
        loss.reference_logprobs(hidden, head, targets),
    ):
        grads.append((out, *torch.autograd.grad((out * weights).sum(), inputs)))
    for got, want in zip(*grads, strict=True):
        torch.testing.assert_close(got, want)
    assert torch.autograd.gradcheck(
        lambda h: loss.token_scores(h, head.detach(), targets).logprobs, (hidden,)
    )


@pytest.mark.parametrize("window", [None, 3])
def test_segment_attention_equals_sdpa_row_by_row(window: int | None) -> None:
    torch.manual_seed(0)
    query, key, value = torch.randn(1, 4, 9, 8), torch.randn(1, 2, 9, 8), torch.randn(1, 2, 9, 8)
    got = segment_attention(query, key, value, torch.tensor([0, 5, 6, 9]), window=window)
    for start, end in ((0, 5), (5, 6), (6, 9)):
        n = end - start
        mask = torch.ones(n, n, dtype=torch.bool).tril()
        if window:
            mask &= torch.ones(n, n, dtype=torch.bool).triu(1 - window)
        q, k, v = (tensor[:, :, start:end] for tensor in (query, key, value))
        want = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)
        torch.testing.assert_close(got[:, :, start:end], want)


SMALL = {"vocab_size": 97, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
CONFIGS = [
    LlamaConfig(**SMALL, intermediate_size=48, num_key_value_heads=2),
    Qwen3Config(**SMALL, intermediate_size=48, num_key_value_heads=2, head_dim=8),
    MistralConfig(**SMALL, intermediate_size=48, num_key_value_heads=2, sliding_window=4),
    GPT2Config(vocab_size=97, n_embd=32, n_layer=2, n_head=4, n_positions=64),
]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.model_type)
def test_packed_rows_give_the_logprobs_of_separate_rows(config: object) -> None:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    rows = [torch.randint(97, (n,)) for n in (6, 1, 9)]
    separate = [
        LogProbs(False, None, "")(
            model, {"input_ids": r[None], "attention_mask": torch.ones_like(r)[None], "labels": r[None]}
        )
        for r in rows
    ]
    way = choose(model)
    assert way.packed, way.reason
    labels = torch.cat(rows)
    starts = torch.tensor([0, 6, 7, 16], dtype=torch.int32)
    labels[starts[:-1].long()] = IGNORED
    batch = {
        "input_ids": torch.cat(rows)[None],
        "position_ids": torch.cat([torch.arange(len(row)) for row in rows])[None],
        "labels": labels[None],
        "cu_seqlens": starts,
    }
    torch.testing.assert_close(way(model, batch), torch.cat(separate), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("bend", [loss.PLAIN, loss.Logits(0.5, 3.0)], ids=["plain", "bent"])
@pytest.mark.parametrize("extra", [loss.Extra(smoothing=0.2), loss.Extra(top=5)], ids=str)
def test_what_an_objective_needs_beside_equals_plain_autograd(
    bias: bool, bend: loss.Logits, extra: loss.Extra, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loss, "LEAST_ROWS", 4)
    monkeypatch.setattr(loss, "SLICE_BYTES", 1)
    torch.manual_seed(0)
    hidden, head = torch.randn(11, 8), torch.randn(29, 8)
    offset = torch.randn(29) if bias else None
    targets = torch.randint(29, (11,))
    weights = torch.rand(11)
    results = []
    for fused in (True, False):
        leaves = [one.clone().requires_grad_(True) for one in (hidden, head)]
        if fused:
            scores = loss.token_scores(*leaves, targets, bias=offset, logits=bend, extra=extra)
        else:
            made = leaves[0] @ leaves[1].T + (0 if offset is None else offset)
            made = made * bend.scale
            made = bend.softcap * torch.tanh(made / bend.softcap) if bend.softcap else made
            scores = loss.plain_scores(made, targets, extra)
        learned = scores.logprobs if scores.smoothed is None else scores.smoothed
        (learned * weights).sum().backward()
        results.append((scores, [leaf.grad for leaf in leaves]))
    (ours, slopes), (plain, wanted) = results
    torch.testing.assert_close(ours.logprobs.detach(), plain.logprobs.detach())
    for one, other in ((ours.smoothed, plain.smoothed), (ours.top_entropy, plain.top_entropy)):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one.detach(), other.detach())
    for slope, want in zip(slopes, wanted, strict=True):
        torch.testing.assert_close(slope, want, atol=1e-5, rtol=1e-5)
