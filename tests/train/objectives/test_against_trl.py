"""Every objective gives TRL's loss and gradients on the same rows: the whole way, from rows to weights.

TRL's own loss code runs on its own layout (padded, all logits or its fused head) and ftkit's on ftkit's
(end to end, one slice of logits at a time). Where TRL has no such loss, the paper's formula stands here.
"""

from __future__ import annotations

import copy
import math
from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy, log_softmax
from transformers import LlamaConfig, LlamaForCausalLM

from ftkit.data.batches import PackedCollator, PaddedCollator
from ftkit.data.encoded import Encoded
from ftkit.fast.distributions import beside
from ftkit.fast.logprobs import choose as choose_way
from ftkit.fast.loss import NOTHING, Extra, Scores
from ftkit.recipe import Recipe
from ftkit.train.objectives import choose

pytest.importorskip("trl")
VOCABULARY = 97


def model(seed: int) -> LlamaForCausalLM:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=VOCABULARY,
                hidden_size=32,
                intermediate_size=48,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=2,
                max_position_embeddings=128,
                pad_token_id=0,
                initializer_range=0.2,  # far enough from uniform for the losses to differ
            )
        )
    return made.eval()


def rows(kind: str) -> list[Encoded]:
    """Prompts and replies of many lengths, the replies trained."""
    chance = np.random.default_rng(3)
    made = []
    for number in range(6):
        prompt = chance.integers(3, VOCABULARY, int(chance.integers(2, 9)))
        for label in (1, 0) if kind == "pairs" else (int(chance.integers(0, 2)),):
            reply = chance.integers(3, VOCABULARY, int(chance.integers(1, 12)))
            ids = np.concatenate([prompt, reply]).astype(np.int32)
            made.append(Encoded(ids, np.arange(len(ids)) >= len(prompt), number, label))
    return made


class TwoModels:
    """The passes of two models that are both at hand."""

    def __init__(self, policy: Any, reference: Any) -> None:
        self.models = policy, reference
        self.way = choose_way(policy)
        self.reference_way = choose_way(reference)
        assert self.way.packed
        assert self.way.logits is not None

    def policy(self, batch: dict[str, Any], extra: Extra = NOTHING) -> Scores:
        return self.way.scores(self.models[0], batch, extra)

    def policy_only_read(self, batch: dict[str, Any]) -> torch.Tensor:
        with torch.no_grad():
            return self.way(self.models[0], batch)

    def reference(self, batch: dict[str, Any]) -> torch.Tensor:
        with torch.no_grad():
            return self.reference_way(self.models[1], batch)

    def beside_teacher(self, batch: dict[str, Any], losses: Any) -> tuple[torch.Tensor, Any]:
        with torch.no_grad():
            teacher, _ = self.reference_way.outputs(self.models[1], batch)
        student, targets = self.way.outputs(self.models[0], batch)
        return beside(student, teacher, targets, losses)


Result = tuple[float, dict[str, torch.Tensor], dict[str, float]]


def by_ftkit(objective: dict[str, Any], data: list[Encoded], seeds: tuple[int, int] = (0, 1)) -> Result:
    policy, reference = map(model, seeds)
    made = choose(Recipe(objective=objective))
    items = made.items(data)
    batch = made.collate([items[place] for place in range(len(items))], PackedCollator())
    outcome = made.outcome(TwoModels(policy, reference), batch)
    loss = sum(term / count for term, count in zip(outcome.terms, made.counts(batch), strict=True))
    loss.backward()
    figures = {name: float(total) / count for name, (total, count) in outcome.figures.items()}
    return loss.item(), gradients(policy), figures


def gradients(policy: Any) -> dict[str, torch.Tensor]:
    return {name: weight.grad for name, weight in policy.named_parameters()}


def assert_same(ours: Result, loss: torch.Tensor, policy: Any) -> None:
    loss.backward()
    assert ours[0] == pytest.approx(loss.item(), abs=1e-5)
    for name, wanted in gradients(policy).items():
        torch.testing.assert_close(ours[1][name], wanted, atol=1e-5, rtol=1e-5, msg=name)
        assert wanted.abs().max() > 1e-4


def padded(data: list[Encoded]) -> dict[str, torch.Tensor]:
    batch = PaddedCollator(0)(data)
    trained = batch.pop("labels") != -100
    return batch | {"completion_mask": trained.long()}


class Alone:
    """What TRL asks of accelerate, in one process."""

    device = torch.device("cpu")

    def __getattr__(self, name: str) -> Any:
        return lambda value: value  # gather and unwrap


def trl(kind: str, **settings: Any) -> Any:
    """A trainer of TRL with its own loss code, without a dataset and a loop around it."""
    import trl as library
    from trl.experimental import cpo, orpo

    classes = {"cpo": cpo.CPOTrainer, "orpo": orpo.ORPOTrainer}
    kind = classes.get(kind) or getattr(library, kind)
    made = kind.__new__(kind)
    common = {
        "accelerator": Alone(),
        "args": SimpleNamespace(gradient_checkpointing_kwargs=None, center_rewards_coefficient=None),
        "aux_loss_enabled": False,
        "is_encoder_decoder": False,
        "pad_token_id": 0,
        "padding_value": 0,
        "_metrics": {"train": defaultdict(list), "eval": defaultdict(list)},
        "_total_train_tokens": 0,
        "_tp_size": 1,
    }
    for name, value in (common | settings).items():
        setattr(made, name, value)
    return made


HEAD = ("log_probs", "entropy", "mean_logits", "is_top1")


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"loss": "hinge", "beta": 0.3},
        {"loss": "ipo"},
        {"loss": "robust", "label_smoothing": 0.2},
        {"sft_weight": 0.7},
        {"ld_alpha": 0.3},
        {"loss": "hinge", "ld_alpha": 0.0, "sft_weight": 0.5},
    ],
    ids=str,
)
def test_dpo(settings: dict[str, Any]) -> None:
    from trl.trainer.utils import add_fused_lm_head

    data = rows("pairs")
    ours = by_ftkit({"type": "dpo", **settings}, data)
    policy, reference = model(0), model(1)
    add_fused_lm_head(policy, outputs=HEAD)
    add_fused_lm_head(reference)
    weight = settings.get("sft_weight", 0.0)
    oracle = trl(
        "DPOTrainer",
        model=policy,
        ref_model=reference,
        beta=settings.get("beta", 0.1),
        ld_alpha=settings.get("ld_alpha"),
        label_smoothing=settings.get("label_smoothing", 0.0),
        loss_types=[settings.get("loss", "sigmoid")] + ["sft"] * bool(weight),
        loss_weights=[1.0] + [weight] * bool(weight),
        precompute_ref_logps=False,
        f_divergence_type="reverse_kl",
        use_weighting=False,
    )
    assert_same(ours, oracle._compute_loss(policy, padded(data[::2] + data[1::2]), False), policy)
    told = {name: values[-1] for name, values in oracle._metrics["eval"].items()}
    assert ours[2] == pytest.approx(
        {
            "chosen_reward": told["rewards/chosen"],
            "rejected_reward": told["rewards/rejected"],
            "pair_accuracy": told["rewards/accuracies"],
            "chosen_logprob": told["logps/chosen"],
            "rejected_logprob": told["logps/rejected"],
        },
        abs=1e-4,
    )


def test_conservative_dpo() -> None:
    """TRL has dropped label smoothing of its sigmoid loss: by the authors' formula."""
    data = rows("pairs")
    ours = by_ftkit({"type": "dpo", "label_smoothing": 0.2, "beta": 0.5}, data)
    policy, reference = model(0), model(1)
    with torch.no_grad():
        known = replies(reference, data)
    gain = replies(policy, data) - known
    margin = 0.5 * (gain[::2] - gain[1::2])
    assert_same(ours, (-0.8 * margin.sigmoid().log() - 0.2 * (1 - margin.sigmoid()).log()).mean(), policy)


def replies(policy: Any, data: list[Encoded], mean: bool = False) -> torch.Tensor:
    """(rows,) log-probabilities of the replies, row by row through the model's own logits."""
    made = []
    for row in data:
        ids = torch.tensor(row.ids, dtype=torch.long)
        said = log_softmax(policy(ids[None]).logits[0, :-1], -1).gather(1, ids[1:, None])[:, 0]
        said = said[torch.from_numpy(row.mask[1:])]
        made.append(said.mean() if mean else said.sum())
    return torch.stack(made)


def concatenated(data: list[Encoded]) -> dict[str, torch.Tensor]:
    made = {}
    for side, part in (("chosen", data[::2]), ("rejected", data[1::2])):
        batch = PaddedCollator(0)(part)
        made |= {f"{side}_{name}": value for name, value in batch.items()}
    return made


@pytest.mark.parametrize(
    "settings",
    [
        {"type": "cpo"},
        {"type": "cpo", "loss": "hinge", "sft_weight": 0.0},
        {"type": "cpo", "loss": "ipo", "beta": 0.4},
        {"type": "cpo", "label_smoothing": 0.1, "sft_weight": 0.3},
        {"type": "simpo", "beta": 2.0, "gamma": 1.0},
        {"type": "simpo", "beta": 2.5, "gamma": 0.5, "sft_weight": 0.2},
    ],
    ids=str,
)
def test_cpo_and_simpo(settings: dict[str, Any]) -> None:
    data = rows("pairs")
    ours = by_ftkit(settings, data)
    policy = model(0)
    simple = settings["type"] == "simpo"
    oracle = trl(
        "cpo",
        loss_type="simpo" if simple else settings.get("loss", "sigmoid"),
        beta=settings.get("beta", 0.1),
        simpo_gamma=settings.get("gamma", 0.0),
        cpo_alpha=settings.get("sft_weight", 0.0 if simple else 1.0),
        label_smoothing=settings.get("label_smoothing", 0.0),
        alpha=0.0,
    )
    loss, _ = oracle.get_batch_loss_metrics(policy, concatenated(data))
    assert_same(ours, loss, policy)


@pytest.mark.parametrize("beta", [0.1, 1.0])
def test_orpo(beta: float) -> None:
    """TRL's odds ratio; its supervised part takes in the prompt, the paper's and ours the reply alone."""
    data = rows("pairs")
    ours = by_ftkit({"type": "orpo", "beta": beta}, data)
    policy = model(0)
    oracle = trl("orpo", beta=beta)
    chosen, rejected, logits, _, _ = oracle.concatenated_forward(policy, concatenated(data))
    labels = concatenated(data)["chosen_labels"][:, 1:]
    logits = logits[:, : labels.shape[1]]
    supervised = cross_entropy(logits.reshape(-1, VOCABULARY), labels.reshape(-1))
    preferred, *_ = oracle.odds_ratio_loss(chosen, rejected)
    assert_same(ours, supervised - preferred.mean(), policy)


@pytest.mark.parametrize(
    "settings",
    [{}, {"beta": 0.5, "desirable_weight": 1.5, "undesirable_weight": 0.7}, {"sft_weight": 0.4}],
    ids=str,
)
def test_kto(settings: dict[str, Any]) -> None:
    from trl.trainer.utils import add_fused_lm_head

    data = rows("rated")
    assert {row.label for row in data} == {0, 1}
    ours = by_ftkit({"type": "kto", **settings}, data, seeds=(1, 0))  # the other way round kl is 0
    policy, reference = model(1), model(0)
    for one in (policy, reference):
        add_fused_lm_head(one, outputs=HEAD)
    oracle = trl(
        "KTOTrainer",
        model=policy,
        ref_model=reference,
        beta=settings.get("beta", 0.1),
        desirable_weight=settings.get("desirable_weight", 1.0),
        undesirable_weight=settings.get("undesirable_weight", 1.0),
        loss_type="kto",
        calculate_KL=True,
        precompute_ref_logps=False,
    )
    unrelated = choose(Recipe(objective="kto")).read_by_reference(data)["unrelated"]
    batch = padded(data) | {f"KL_{name}": value for name, value in padded(list(unrelated)).items()}
    batch["label"] = torch.tensor([row.label for row in data])
    loss = oracle._compute_loss(policy, batch, False)
    if weight := settings.get("sft_weight"):
        good = PaddedCollator(0)([row for row in data if row.label])
        logits = policy(good["input_ids"], attention_mask=good["attention_mask"]).logits[:, :-1]
        loss = loss + weight * cross_entropy(
            logits.reshape(-1, VOCABULARY), good["labels"][:, 1:].reshape(-1)
        )
    assert_same(ours, loss, policy)
    told = {name: values[-1] for name, values in oracle._metrics["eval"].items()}
    assert ours[2]["kl"] == pytest.approx(told["kl"], abs=1e-4)
    assert told["kl"] > 0
    assert ours[2]["chosen_reward"] - ours[2]["rejected_reward"] == pytest.approx(
        told["rewards/margins"], abs=1e-4
    )


@pytest.mark.parametrize("pull", [None, 0.05])
def test_reward(pull: float | None) -> None:
    from transformers import LlamaForSequenceClassification

    from ftkit.fast.logprobs import rewards

    data = rows("pairs")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = model(0).config
        config.num_labels = 1
        ours = LlamaForSequenceClassification(config)
    policy = copy.deepcopy(ours)
    made = choose(Recipe(objective={"type": "reward", "center_coefficient": pull}))
    items = made.items(data)
    batch = made.collate([items[place] for place in range(6)], PaddedCollator(0))
    passes: Any = SimpleNamespace(rewards=lambda batch: rewards(ours, batch))
    outcome = made.outcome(passes, batch)
    loss = outcome.terms[0] / made.counts(batch)[0]
    loss.backward()
    oracle = trl("RewardTrainer", model=policy)
    oracle.args.center_rewards_coefficient = pull
    inputs = PaddedCollator(0)(data[::2] + data[1::2])
    del inputs["labels"]
    assert_same((loss.item(), gradients(ours), {}), oracle.compute_loss(policy, inputs), policy)
    told = oracle._metrics["train"]
    hits, pairs = outcome.figures["pair_accuracy"]
    assert float(hits) / pairs == pytest.approx(told["accuracy"][-1])


def test_label_smoothing_is_that_of_transformers() -> None:
    from transformers.trainer_pt_utils import LabelSmoother

    data = rows("pairs")
    ours = by_ftkit({"type": "sft", "label_smoothing": 0.1}, data)
    policy = model(0)
    batch = PaddedCollator(0)(data)
    out = policy(batch["input_ids"], attention_mask=batch["attention_mask"])
    assert_same(ours, LabelSmoother(0.1)(out, batch["labels"], shift_labels=True), policy)


@pytest.mark.parametrize("kind", ["likelihood", "dft", "eaft"])
def test_supervised_losses(kind: str) -> None:
    """DFT and EAFT by their papers' formulas over all logits."""
    data = rows("pairs")
    ours = by_ftkit({"type": "sft", "loss": kind}, data)
    policy = model(0)
    batch = PaddedCollator(0)(data)
    made = policy(batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1]
    labels = batch["labels"][:, 1:]
    made, labels = made[labels != -100], labels[labels != -100]
    loss = cross_entropy(made, labels, reduction="none")
    with torch.no_grad():
        weight = torch.ones_like(loss)
        if kind == "dft":
            weight = made.softmax(-1)[torch.arange(len(labels)), labels]
        if kind == "eaft":
            likeliest = made.topk(20).values.softmax(-1)
            weight = -(likeliest * likeliest.log()).sum(-1) / math.log(20)
    assert_same(ours, (weight * loss).mean(), policy)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"beta": 1.0},
        {"beta": 0.3},
        {"beta": 0.5, "temperature": 2.0},
        {"beta": 0.7, "temperature": 0.9, "label_weight": 0.4},
    ],
    ids=str,
)
def test_distillation(settings: dict[str, Any]) -> None:
    from trl.experimental.gkd import GKDTrainer

    data = rows("rated")
    ours = by_ftkit({"type": "distillation", **settings}, data)
    policy, teacher = model(0), model(1)
    batch = PaddedCollator(0)(data)
    labels = batch.pop("labels")[:, 1:]
    made = policy(**batch).logits[:, :-1]
    with torch.no_grad():
        known = teacher(**batch).logits[:, :-1]
    loss = GKDTrainer.generalized_jsd_loss(
        made,
        known,
        labels,
        settings.get("beta", 0.0),
        settings.get("temperature", 1.0),
        num_items_in_batch=(labels != -100).sum(),
    )
    label_loss = cross_entropy(made.reshape(-1, VOCABULARY), labels.reshape(-1))
    assert ours[2]["label_loss"] == pytest.approx(label_loss.item(), abs=1e-5)
    assert ours[2]["divergence"] == pytest.approx(loss.item(), abs=1e-5)
    assert_same(ours, loss + settings.get("label_weight", 0.0) * label_loss, policy)


def test_padded_rows_give_the_same() -> None:
    data = rows("pairs")
    for settings in ({"type": "dpo", "ld_alpha": 0.3}, {"type": "orpo"}, {"type": "distillation"}):
        ours = by_ftkit(settings, data)
        policy, reference = model(0), model(1)
        passes = TwoModels(copy.deepcopy(policy), reference)
        passes.models = policy, reference
        passes.way = passes.reference_way = choose_way(policy, fast=False)
        made = choose(Recipe(objective=settings))
        items = made.items(data)
        batch = made.collate([items[place] for place in range(len(items))], PaddedCollator(0))
        terms = zip(made.outcome(passes, batch).terms, made.counts(batch), strict=True)
        assert_same(ours, sum(term / count for term, count in terms), policy)
