"""Every optimizer and schedule: the loss falls, and a resumed run is the run that was not interrupted."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerControl, TrainerState

from ftkit.errors import RecipeError, RunError
from ftkit.fast.logprobs import choose
from ftkit.models import apply_method, load_model
from ftkit.recipe import Recipe, extras
from ftkit.recipe.optimizers import OPTIMIZERS, SCHEDULES
from ftkit.train import optimizers
from ftkit.train.curvature import curvature
from ftkit.train.keeping import Best
from ftkit.train.noise import Noise
from ftkit.train.preparing import check_machine

from .conftest import Events, Learn

RATES = {"sgd": 0.3, "lion": 1e-3, "lion_8bit": 1e-3, "sophia": 1e-3, "schedule_free": 2e-2}
WHOLE = {name: kind for name, kind in OPTIMIZERS.items() if kind.whole_matrices}


def steps(events: list[dict[str, Any]], what: str) -> list[float]:
    return [event[what] for event in events if event["kind"] == "train"]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_loss_falls_and_a_resumed_run_goes_on_the_same(learn: Learn, name: str) -> None:
    if reason := optimizers.why_not(name):
        pytest.skip(reason)
    settings: dict[str, Any] = {
        "method": {"type": "freeze", "last_layers": 2} if name in WHOLE else {"rank": 4},
        "training": {
            "optimizer": name,
            "learning_rate": RATES.get(name, 1e-2),
            "lr_scheduler": "constant",
            "max_steps": 8,
            "batch_size": 8,
            "weight_decay": 0.01,
        },
    }
    if name in WHOLE:
        turns = {"switch_interval": 2, "switch_mode": "random"} if name == "badam" else None
        settings["training"]["optimizer_kwargs"] = turns or {"rank": 4, "update_interval": 3}
    whole, events = learn(**settings)
    losses = steps(events, "loss")
    assert losses[-1] < losses[0]
    saved = next(event["step"] for event in events if event["kind"] == "checkpoint")
    again, later = learn(**settings, resume=f"checkpoint-{saved}")
    assert steps(later, "step") == list(range(saved + 1, 9))
    assert steps(later, "loss") == pytest.approx(losses[saved:], rel=1e-6)
    other = dict(again.model.named_parameters())
    for key, value in whole.model.named_parameters():
        # GaLore's projection comes back laid out otherwise in memory: its sums round otherwise
        near = 1e-5 if name == "galore" else 0
        torch.testing.assert_close(other[key], value, atol=near, rtol=near)


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_runs_and_resumes(learn: Learn, name: str) -> None:
    training = {"lr_scheduler": name, "warmup": 0.25, "max_steps": 12, "learning_rate": 1e-3, "evals": 4}
    _, events = learn(training=training, method={"rank": 2})
    rates = steps(events, "learning_rate")
    assert max(rates) == pytest.approx(1e-3)
    if name not in ("constant", "reduce_lr_on_plateau"):
        assert rates[0] < 1e-3
    saved = next(event["step"] for event in events if event["kind"] == "checkpoint")
    _, later = learn(training=training, method={"rank": 2}, resume=f"checkpoint-{saved}")
    assert steps(later, "learning_rate") == rates[saved:]


def test_a_schedule_takes_its_settings(learn: Learn) -> None:
    training = {"max_steps": 10, "warmup": 0, "learning_rate": 1e-3}
    given = {"lr_scheduler": "cosine_with_min_lr", "lr_scheduler_kwargs": {"min_lr_rate": 0.5}}
    _, events = learn(training=training | given, method={"rank": 2})
    assert min(steps(events, "learning_rate")) >= 0.5e-3
    given = {"lr_scheduler": "warmup_stable_decay", "lr_scheduler_kwargs": {"num_decay_steps": 5}}
    _, events = learn(training=training | given, method={"rank": 2}, folder="other")
    rates = steps(events, "learning_rate")
    assert rates[:5] == [1e-3] * 5
    assert rates[-1] < 1e-3


def test_layers_and_embeddings_learn_at_rates_of_their_own(learn: Learn) -> None:
    training = {"max_steps": 1, "learning_rate": 1e-3, "layerwise_decay": 0.5}
    loaded, _ = learn(training={"max_steps": 1}, method="full")

    def rates(**more: Any) -> dict[str, float]:
        recipe = Recipe(method="full", training=training | more)
        names = {id(p): name for name, p in loaded.model.named_parameters()}
        groups = optimizers.parameter_groups(loaded.model, recipe)
        return {names[id(p)]: group["lr"] for group in groups for p in group["params"]}

    found = rates()
    assert found["model.norm.weight"] == found["model.layers.1.mlp.up_proj.weight"] == 1e-3
    assert found["model.layers.0.self_attn.q_proj.weight"] == 5e-4
    assert found["model.embed_tokens.weight"] == 2.5e-4
    assert rates(embedding_learning_rate=1e-5)["model.embed_tokens.weight"] == 1e-5


@pytest.mark.parametrize(
    ("mode", "turns"), [("ascending", [0, 0, 1, 1]), ("descending", [1, 1, 0, 0]), ("fixed", [0, 0, 0, 0])]
)
def test_badam_moves_one_layer_at_a_time(learn: Learn, mode: str, turns: list[int]) -> None:
    loaded, _ = learn(training={"max_steps": 1}, method="full")
    settings = {"optimizer": "badam", "optimizer_kwargs": {"switch_interval": 2, "switch_mode": mode}}
    optimizer = optimizers.create(loaded.model, Recipe(method="full", training=settings))
    layers = loaded.model.model.layers
    outside = [loaded.model.model.embed_tokens.weight, loaded.model.model.norm.weight]
    assert not any(p.requires_grad for p in outside)
    for turn in turns:
        before = [[p.detach().clone() for p in layer.parameters()] for layer in layers]
        loaded.model(torch.arange(5, 20)[None], labels=torch.arange(5, 20)[None]).loss.backward()
        with_gradient = [any(p.grad is not None for p in layer.parameters()) for layer in layers]
        assert with_gradient == [number == turn for number in range(2)]
        optimizer.step()
        optimizer.zero_grad()
        for number, layer in enumerate(layers):
            pairs = zip(layer.parameters(), before[number], strict=True)
            assert any(not torch.equal(p, old) for p, old in pairs) == (number == turn)


def test_adam_mini_keeps_one_second_moment_for_each_head(
    learn: Learn, tiny_model_folder: Callable[..., Path]
) -> None:
    if reason := optimizers.why_not("adam_mini"):
        pytest.skip(reason)
    folder = tiny_model_folder(head_dim=16)  # four heads of 16 in a width of 32
    loaded, _ = learn(training={"max_steps": 1}, method="full", model={"source": str(folder)})
    settings = {"optimizer": "adam_mini", "layerwise_decay": 0.5, "weight_decay": 0.1}
    optimizer = optimizers.create(loaded.model, Recipe(method="full", training=settings))
    loaded.model(torch.arange(5, 20)[None], labels=torch.arange(5, 20)[None]).loss.backward()
    optimizer.step()
    attention = loaded.model.model.layers[0].self_attn
    state = optimizer.state
    assert state[attention.q_proj.weight]["v_mean"].shape == (4,)
    assert state[attention.k_proj.weight]["v_mean"].shape == (2,)
    assert state[attention.v_proj.weight]["v_mean"].shape == ()
    groups = {id(group["params"][0]): group for group in optimizer.param_groups}
    assert groups[id(attention.q_proj.weight)]["lr"] == 0.5 * 2e-4
    assert groups[id(loaded.model.model.layers[1].input_layernorm.weight)]["weight_decay"] == 0
    assert optimizer.param_groups[0]["lr"] == 2e-4


def test_the_curvature_is_that_of_the_gauss_newton_matrix(learn: Learn) -> None:
    loaded, _ = learn(training={"max_steps": 1}, method="full")
    model, way = loaded.model.eval(), choose(loaded.model)
    ids = torch.arange(5, 9)[None]
    batch = {
        "input_ids": ids,
        "labels": ids,
        "position_ids": torch.arange(4)[None],
        "cu_seqlens": torch.tensor([0, 4], dtype=torch.int32),
    }
    norm = model.model.norm.weight
    with torch.no_grad():
        hidden = model.model(ids).last_hidden_state[0, :-1] / norm

    def logits(weight: torch.Tensor) -> torch.Tensor:
        return (hidden * weight) @ model.lm_head.weight.T

    slopes = torch.func.jacrev(logits)(norm.detach())  # (tokens, words, width)
    chances = logits(norm.detach()).softmax(-1)
    mean = torch.einsum("tv,tvw->tw", chances, slopes)
    exact = (torch.einsum("tv,tvw->tw", chances, slopes**2) - mean**2).mean(0)
    torch.manual_seed(0)
    norm.grad = torch.ones_like(norm)
    found = torch.stack([curvature(model, way, batch, [norm])[0] for _ in range(400)]).mean(0)
    assert torch.equal(norm.grad, torch.ones_like(norm))
    assert (found.sum() / exact.sum() - 1).abs() < 0.15


def test_galore_projects_the_modules_that_are_named(learn: Learn) -> None:
    if reason := optimizers.why_not("galore"):
        pytest.skip(reason)
    loaded, _ = learn(training={"max_steps": 1}, method="full")

    def projected(*names: str) -> set[str]:
        training = {"optimizer": "galore", "optimizer_kwargs": {"target_modules": names}}
        optimizer = optimizers.create(loaded.model, Recipe(method="full", training=training))
        known = {id(p): name for name, p in loaded.model.named_parameters()}
        return {known[id(p)] for group in optimizer.param_groups if "rank" in group for p in group["params"]}

    assert {name.split(".")[-2] for name in projected("q_proj", "mlp")} == {
        "q_proj",
        "gate_proj",
        "up_proj",
        "down_proj",
    }
    assert len(projected()) == 14
    with pytest.raises(RunError, match="qq_proj"):
        projected("qq_proj")


def test_noise_is_as_large_as_a_token_s_own_row_says(learn: Learn) -> None:
    loaded, _ = learn(training={"max_steps": 1}, method="full")
    model = loaded.model
    noise = Noise(model, alpha=5.0)
    seen: list[torch.Tensor] = []
    handle = model.get_input_embeddings().register_forward_hook(lambda *made: seen.append(made[2]))
    ids = torch.arange(20)[None]
    starts = torch.tensor([0, 4, 20], dtype=torch.int32)
    positions = torch.cat([torch.arange(4), torch.arange(16)])[None]
    model.train()
    model.get_decoder()(input_ids=ids, position_ids=positions, cu_seqlens=starts)
    moved = (seen[0] - model.get_input_embeddings().weight[ids]).abs()[0]
    for part, length in ((moved[:4], 4), (moved[4:], 16)):
        reach = 5 / math.sqrt(length * 32)
        assert 0.9 * reach < part.max() <= reach
    model.eval()
    model.get_decoder()(input_ids=ids, position_ids=positions, cu_seqlens=starts)
    assert torch.equal(seen[1], model.get_input_embeddings().weight[ids])
    noise.remove()
    handle.remove()


@pytest.mark.parametrize(
    "training",
    [{"ema_decay": 0.9}, {"keep_best": True, "evals": 4}, {"neftune_alpha": 5.0}],
    ids=lambda training: next(iter(training)),
)
def test_what_is_kept_beside_the_weights_is_resumed(learn: Learn, training: dict[str, Any]) -> None:
    settings = {"training": {"learning_rate": 0.05, "max_steps": 8, **training}, "method": {"rank": 4}}
    whole, events = learn(**settings)
    saved = next(event["step"] for event in events if event["kind"] == "checkpoint")
    again, _ = learn(**settings, resume=f"checkpoint-{saved}")
    plain, _ = learn(training={"learning_rate": 0.05, "max_steps": 8}, method={"rank": 4}, folder="plain")
    other, last = dict(again.model.named_parameters()), dict(plain.model.named_parameters())
    moving = {name: p for name, p in whole.model.named_parameters() if p.requires_grad}
    assert all(torch.equal(other[name], value) for name, value in moving.items())
    if "keep_best" not in training:
        assert not all(torch.equal(last[name], value) for name, value in moving.items())


def test_the_average_is_the_one_that_is_written_down(learn: Learn) -> None:
    settings = {"learning_rate": 0.05, "max_steps": 3, "lr_scheduler": "constant", "warmup": 0}
    points = []
    for count in (1, 2, 3):
        loaded, _ = learn(training={**settings, "max_steps": count}, method={"rank": 2}, folder=f"s{count}")
        points.append({n: p.detach() for n, p in loaded.model.named_parameters() if p.requires_grad})
    loaded, _ = learn(training={**settings, "ema_decay": 0.99}, method={"rank": 2}, folder="mean")
    start, _ = learn(
        training={**settings, "max_steps": 1, "learning_rate": 1e-30}, method={"rank": 2}, folder="0"
    )
    begin = dict(start.model.named_parameters())
    for name, parameter in loaded.model.named_parameters():
        if parameter.requires_grad:
            mean = begin[name].detach()
            for number, point in enumerate(points, 1):
                decay = min(0.99, (1 + number) / (10 + number))
                mean = decay * mean + (1 - decay) * point[name]
            torch.testing.assert_close(parameter.detach(), mean, atol=1e-6, rtol=1e-5)


def test_a_run_that_no_longer_gets_better_ends_early(learn: Learn) -> None:
    training = {"learning_rate": 1e-12, "max_steps": 20, "evals": 20, "early_stopping_patience": 3}
    _, events = learn(training=training, method={"rank": 2})
    assert [event["step"] for event in events if event["kind"] == "eval"][-1] == 3
    assert any("training ends here" in event["text"] for event in events if event["kind"] == "note")


def test_the_best_weights_come_back_at_the_end() -> None:
    model = torch.nn.Linear(2, 1)
    events = Events()
    best = Best(model, events, keep=True, patience=None)
    wanted = None
    for step, loss in enumerate((3.0, 1.0, 2.0)):
        with torch.no_grad():
            model.weight.fill_(step)
        wanted = model.weight.clone() if loss == 1.0 else wanted
        best.on_evaluate(None, TrainerState(global_step=step), TrainerControl(), metrics={"eval_loss": loss})
    best.on_train_end(None, TrainerState(global_step=2), TrainerControl())
    assert wanted is not None
    assert torch.equal(model.weight, wanted)
    assert "step 1 are kept" in events[0]["text"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"training": {"optimizer": "galore"}}, ("training.optimizer 'galore'", "method 'lora'")),
        ({"training": {"optimizer_kwargs": {"beta3": 1}}}, ("training.optimizer_kwargs.beta3", "beta2")),
        ({"training": {"optimizer_kwargs": {"beta1": "x"}}}, ("training.optimizer_kwargs.beta1", "0.9")),
        (
            {"method": "full", "training": {"optimizer": "badam", "optimizer_kwargs": {"switch_mode": "up"}}},
            ("training.optimizer_kwargs.switch_mode", "ascending"),
        ),
        (
            {"method": "full", "training": {"optimizer": "galore", "optimizer_kwargs": {"rank": 0}}},
            ("training.optimizer_kwargs.rank", "above 0"),
        ),
        (
            {
                "method": "full",
                "training": {"optimizer": "badam"},
                "compute": {"launch": "torchrun", "processes": 2},
            },
            ("training.optimizer 'badam'", "compute.processes"),
        ),
        (
            {"training": {"lr_scheduler_kwargs": {"power": 2}}},
            ("training.lr_scheduler_kwargs.power", "cosine"),
        ),
        ({"training": {"optimizer": "schedule_free"}}, ("'schedule_free'", "training.lr_scheduler")),
        ({"training": {"optimizer": "sophia"}, "objective": "dpo"}, ("'sophia'", "objective 'dpo'")),
        ({"training": {"keep_best": True, "evals": 0}}, ("training.keep_best", "training.evals")),
        ({"training": {"keep_best": True, "ema_decay": 0.9}}, ("training.keep_best", "training.ema_decay")),
        (
            {"training": {"lr_scheduler": "reduce_lr_on_plateau", "evals": 0}},
            ("training.lr_scheduler", "training.evals"),
        ),
        (
            {"method": "oft", "training": {"embedding_learning_rate": 1e-3}},
            ("training.embedding_learning_rate", "method 'oft'"),
        ),
    ],
)
def test_what_does_not_go_together_is_named(changes: dict[str, Any], words: tuple[str, str]) -> None:
    with pytest.raises(RecipeError) as caught:
        Recipe(**changes)
    for word in words:
        assert word in caught.value.message


def test_a_package_that_is_missing_is_named(learn: Learn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    with pytest.raises(RunError, match=r"training\.optimizer 'lion' needs the package pytorch-optimizer"):
        learn(training={"optimizer": "lion"}, method={"rank": 2})
    with pytest.raises(RunError, match="pytorch-optimizer"):  # before the data or a model is looked for
        check_machine(Recipe(training={"optimizer": "lion"}))


@pytest.mark.parametrize(("method", "alone"), [("full", True), ({"rank": 2}, None)], ids=["full", "lora"])
def test_adamw_is_one_kernel_where_nobody_asks_whether_weights_moved(
    tiny_model_folder: Callable[..., Path], method: Any, alone: bool | None
) -> None:
    recipe = Recipe(model=str(tiny_model_folder()), method=method, compute={"device": "cpu"})
    loaded = load_model(recipe.model, recipe.compute)
    apply_method(loaded, recipe.method)
    made = optimizers.create(loaded.model, recipe)
    assert {group["fused"] for group in made.param_groups} == {alone}
    trained = [p for p in loaded.model.parameters() if p.requires_grad]
    before = [p._version for p in trained]
    for parameter in trained:
        parameter.grad = torch.ones_like(parameter)
    made.step()
    if not alone:  # `ftkit.fast.lora` brings adapters into the weights' precision by it
        assert all(p._version > version for p, version in zip(trained, before, strict=True))
