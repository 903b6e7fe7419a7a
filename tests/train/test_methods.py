"""Methods in training: what each learns at, and that a resumed run is the run that was not interrupted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from ftkit.models import LoadedModel, precision, probe, save_adapter
from ftkit.recipe import Recipe
from ftkit.train.optimizers import parameter_groups
from ftkit.train.rank_budget import penalty

from .conftest import Learn


def trained(loaded: LoadedModel) -> dict[str, torch.Tensor]:
    return {n: p.detach().clone() for n, p in loaded.model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize(
    "method",
    [
        {"rank": 4, "init": "pissa"},
        {"rank": 4, "init": "eva"},
        {"rank": 4, "stack_on": "below"},
        {"rank": 4, "trainable_tokens": ["<|im_end|>"], "bias": "lora_only"},
        {"rank": 4, "modules_to_save": ["lm_head", "norm"]},
        {"rank": 4, "dropout": 0.1, "use_dora": True, "loraplus_ratio": 4},
        {"type": "adalora", "rank": 2, "first_rank": 4, "warmup": 0.2, "settled": 0.2},
        {"type": "oft", "block_size": 8},
        {"type": "boft"},
        {"type": "ia3"},
        {"type": "vera", "rank": 16},
        {"type": "prompt_tuning", "tokens": 3},
        {"type": "prefix_tuning", "tokens": 3},
        {"type": "freeze", "last_layers": 1},
        {"type": "freeze", "expand_layers": 1},
    ],
    ids=lambda method: "-".join(str(v) for v in method.values() if isinstance(v, str)) or "lora",
)
def test_a_resumed_run_is_the_run_that_was_not_interrupted(
    learn: Learn, method: dict[str, Any], tmp_path: Path
) -> None:
    if "stack_on" in method:
        below, _ = learn(method={"rank": 2, "target_modules": ["q_proj"]}, folder="below")
        method = {**method, "stack_on": str(save_adapter(below, tmp_path / "adapter"))}
    whole, events = learn(method=method)
    saved = next(event["step"] for event in events if event["kind"] == "checkpoint")
    assert saved == 3
    expected = trained(whole)
    again, later = learn(method=method, resume=f"checkpoint-{saved}")
    assert [event["step"] for event in later if event["kind"] == "train"] == [4, 5, 6]
    found = trained(again)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(
            found[name], value, rtol=0, atol=0, msg=lambda text, n=name: f"{n}: {text}"
        )


@pytest.mark.parametrize("kind", ["8bit", "4bit", "int8", "hqq4"])
def test_a_run_on_few_bits_resumes_as_it_was(learn: Learn, kind: str) -> None:
    if reason := precision.available(probe("cpu"))[kind]:
        pytest.skip(reason)
    settings: dict[str, Any] = {"model": {"quantization": kind}, "method": {"rank": 4}}
    whole, events = learn(**settings, training={"evals": 2})
    saved = next(event["step"] for event in events if event["kind"] == "checkpoint")
    again, _ = learn(**settings, training={"evals": 2}, resume=f"checkpoint-{saved}")
    expected, found = trained(whole), trained(again)
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_ranks_are_taken_away_and_the_loss_falls_all_the_same(learn: Learn) -> None:
    method = {"type": "adalora", "rank": 2, "first_rank": 6, "warmup": 0.1, "settled": 0.2}
    loaded, events = learn(method=method, training={"max_steps": 20})
    losses = [event["loss"] for event in events if event["kind"] == "train"]
    assert losses[-1] < losses[0]
    values = [p for name, p in loaded.model.named_parameters() if "lora_E" in name]
    left = sum(int((value != 0).sum()) for value in values)
    assert left == 2 * len(values)


def test_the_term_for_orthogonality_is_peft_s_own(learn: Learn) -> None:
    loaded, _ = learn(method={"type": "adalora"}, training={"max_steps": 1})
    ids = torch.arange(5, 25)[None]
    with torch.no_grad():
        whole = loaded.model.base_model(input_ids=ids, labels=ids).loss
        plain = loaded.model.get_base_model()(input_ids=ids, labels=ids).loss
        more = penalty(loaded.model)
    assert more is not None
    torch.testing.assert_close(plain + more, whole)
    assert penalty(torch.nn.Linear(2, 2)) is None


def test_lora_plus_lets_b_learn_faster_than_a(learn: Learn) -> None:
    loaded, _ = learn(method={"rank": 2}, training={"max_steps": 1})
    recipe = Recipe(method={"rank": 2, "loraplus_ratio": 16}, training={"learning_rate": 1e-3})
    first, second = parameter_groups(loaded.model, recipe)
    assert (first["lr"], second["lr"]) == (1e-3, 16e-3)
    names = {id(p): name for name, p in loaded.model.named_parameters()}
    assert all("lora_A" in names[id(p)] for p in first["params"])
    assert all("lora_B" in names[id(p)] for p in second["params"])
