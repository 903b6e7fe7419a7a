"""What goes together: objectives, methods and architectures, and how a cell of the matrix is tried.

Tiny random models learn a few rows by heart. `CANNOT` names what cannot be had, which must then be said in
words before anything is trained; everything else must train.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ftkit.data import Conversation, Message, Template
from ftkit.data.batches import PaddedCollator
from ftkit.data.encoded import Encoded
from ftkit.fast.logprobs import LogProbs, choose, rewards
from ftkit.models import LoadedModel, apply_method, load_model
from ftkit.models.teacher import load_teacher
from ftkit.recipe import Adapter, Compute, Fast, Model, Recipe
from ftkit.train import objectives
from ftkit.train.job import Job
from ftkit.train.reference import ModelPasses, is_the_base, remember
from ftkit.train.rollouts import make_trainer, rows_of
from ftkit.train.teacher import Teacher
from ftkit.train.trainer import layout, run_trainer

from . import architectures

METHODS: dict[str, dict[str, Any]] = {
    "full": {"type": "full"},
    "freeze": {"type": "freeze", "last_layers": 1},
    "expand": {"type": "freeze", "expand_layers": 1},
    "lora": {"rank": 4},
    "rslora": {"rank": 4, "use_rslora": True, "init": "gaussian"},
    "dora": {"rank": 4, "use_dora": True},
    "pissa": {"rank": 4, "init": "pissa"},
    "olora": {"rank": 4, "init": "olora"},
    "eva": {"rank": 4, "init": "eva"},
    "tokens": {"rank": 4, "trainable_tokens": ("<|im_end|>",), "bias": "all"},
    "adalora": {"type": "adalora", "rank": 2, "first_rank": 4},
    "oft": {"type": "oft", "block_size": 8},
    "boft": {"type": "boft"},
    "ia3": {"type": "ia3"},
    "vera": {"type": "vera", "rank": 32},
    "prompt": {"type": "prompt_tuning", "tokens": 4},
    "prefix": {"type": "prefix_tuning", "tokens": 4},
}
OBJECTIVES: dict[str, dict[str, Any]] = {
    "sft": {},
    "pretraining": {},
    "distillation": {"beta": 0.5},
    "dpo": {"beta": 0.5},
    "orpo": {},
    "simpo": {},
    "cpo": {},
    "kto": {"beta": 0.5},
    "reward": {},
    "grpo": {"num_generations": 16, "max_new_tokens": 2, "rewards": ["regex:^[a-zA-Z]"]},
    "rloo": {"num_generations": 16, "max_new_tokens": 2, "rewards": ["regex:^[a-zA-Z]"], "beta": 0.0},
}
CANNOT: dict[str, tuple[str, Callable[[str, str, str], bool]]] = {
    "a rotation does not go on GPT-2's Conv1D layers": (
        "OFT and BOFT on gpt2",
        lambda objective, method, model: method in ("oft", "boft") and model == "gpt2",
    ),
    "experts lie in one block, which PEFT cannot take apart": (
        "DoRA and EVA on a mixture of experts",
        lambda objective, method, model: method in ("dora", "eva") and model == "qwen3_moe",
    ),
    "a score needs weights of its own": (
        "a reward model by prompt or prefix tuning",
        lambda objective, method, model: method in ("prompt", "prefix") and objective == "reward",
    ),
}
"""Why something cannot be had: what that is, and whether a cell is one of them."""
ALWAYS_METHODS = ("lora", "full")
ALWAYS_ARCHITECTURES = ("llama", "gpt2", "qwen3_moe")
"""With these every objective is tried in every run of the tests; with the others by `make grid`."""
WHOLE = "FTKIT_GRID"
"""Set in the environment, it asks for all cells."""
RATE = 3e-3
STEPS, MOST_STEPS = 6, 90
FALLEN = 0.95
"""The share of the first loss at which a cell has learned: it takes six steps, and more until then."""
_ROLLED_OUT = {
    ("full", "freeze", "expand"): (12, 0.03),
    ("adalora", "boft"): (30, 0.02),  # change little at a time
    ("ia3", "vera", "prompt"): (30, 0.05),  # have few numbers to change
    ("prefix",): (100, 0.05),
}
"""Steps and learning rate of the objectives that draw replies, by method."""


@dataclass(frozen=True)
class Cell:
    """An objective, a method and an architecture, by the names above."""

    objective: str
    method: str
    architecture: str

    def __str__(self) -> str:
        return f"{self.objective}-{self.method}-{self.architecture}"

    @property
    def obstacle(self) -> str:
        """Why it cannot be had; empty where it can."""
        names = self.objective, self.method, self.architecture
        return next((why for why, (_, cannot) in CANNOT.items() if cannot(*names)), "")

    @property
    def spread(self) -> float:
        """How far the model's first weights lie from zero: far enough for an adapter to make words likely."""
        return 0.3 if OBJECTIVES[self.objective].get("rewards") else 0.1

    @property
    def always(self) -> bool:
        """Whether every run of the tests tries it."""
        if self.objective == "sft":
            return True
        return self.method in ALWAYS_METHODS and self.architecture in ALWAYS_ARCHITECTURES

    @property
    def rolled_out(self) -> tuple[int, float]:
        """Steps and learning rate where replies are drawn."""
        return next((how for names, how in _ROLLED_OUT.items() if self.method in names), (12, 0.01))

    def recipe(self, folder: Path, teacher: Path) -> Recipe:
        """What it is as a Recipe."""
        own = {"teacher": str(teacher)} if self.objective == "distillation" else {}
        steps, rate = self.rolled_out
        return Recipe(
            model=str(folder),
            method=METHODS[self.method],
            objective={"type": self.objective, **OBJECTIVES[self.objective], **own},
            compute={"device": "cpu", "dtype": "float32"},
            training={
                "max_steps": steps, "batch_size": 2, "learning_rate": rate, "warmup": 0,
                "lr_scheduler": "constant", "evals": 0, "checkpoints": 0,
            },
        )  # fmt: skip


def cells() -> Iterator[Cell]:
    """Those that every run of the tests tries; or all, where the environment asks for them."""
    for objective in OBJECTIVES:
        for method in METHODS:
            for architecture in architectures.CONFIGS:
                cell = Cell(objective, method, architecture)
                if cell.always or os.environ.get(WHOLE):
                    yield cell


def load(recipe: Recipe, source: Path | None = None) -> LoadedModel:
    """The Recipe's model, or one that was saved; a new head has the same random values each time."""
    torch.manual_seed(0)
    model = recipe.model if source is None else Model(source=str(source))
    return load_model(model, Compute(device="cpu", dtype="float32"), head=recipe.objective.head)


def prepared(recipe: Recipe) -> tuple[LoadedModel, torch.Tensor]:
    """The model, made trainable as the Recipe says; and what it said of `texts` before."""
    loaded = load(recipe)
    before = scores(loaded)
    torch.manual_seed(0)
    padded = PaddedCollator(0)(texts())
    batches = [{key: padded[key] for key in ("input_ids", "attention_mask")}] * 3
    apply_method(loaded, recipe.method, batches)
    return loaded, before


def texts() -> list[Encoded]:
    """Two rows, all of them trained."""
    chance = np.random.default_rng(3)
    return [
        Encoded(chance.integers(10, 300, length).astype(np.int32), np.ones(length, dtype=bool), number)
        for number, length in enumerate((14, 9))
    ]


def replies() -> list[Encoded]:
    """Two prompts with two replies each, the first one rated good."""
    chance = np.random.default_rng(4)
    made = []
    for number, length in enumerate((5, 3)):
        prompt = chance.integers(10, 300, length)
        for label, own in ((1, 6), (0, 4)):
            ids = np.concatenate([prompt, chance.integers(10, 300, own)]).astype(np.int32)
            made.append(Encoded(ids, np.arange(len(ids)) >= length, number, label))
    return made


def scores(loaded: LoadedModel, model: Any = None) -> torch.Tensor:
    """What the model says of `texts`, by the plain way: log-probabilities, or scores."""
    return said_of(loaded.model if model is None else model, texts(), loaded.head)


def said_of(model: Any, rows: list[Encoded], head: str = "words") -> torch.Tensor:
    """Log-probabilities of the rows' trained tokens by the plain way; or one score a row."""
    was_training = model.training
    model.eval()
    batch = PaddedCollator(0)(rows)
    with torch.no_grad():
        found = rewards(model, batch) if head == "score" else LogProbs(False, None, "")(model, batch)
    model.train(was_training)
    return found


def train(loaded: LoadedModel, recipe: Recipe, folder: Path) -> list[float]:
    """The loss of every step, by the way that ftkit chooses; of rewards, the share that goes without."""
    if recipe.objective.reads == "prompts":
        return _rewarded(loaded, recipe, folder)
    objective = objectives.choose(recipe)
    scored = recipe.objective.head == "score"
    way = LogProbs(False, None, "") if scored else choose(loaded.model)
    lay, rows = layout(loaded, way), texts() if recipe.objective.reads == "texts" else replies()
    reference = None
    if objective.needs_reference and not is_the_base(loaded, way, rows[0], lay):
        asked = objective.read_by_reference(rows)
        reference = remember(
            loaded, way, asked, lay, batch_tokens=64, file=folder / "reference", progress=lambda *_: None
        )
    teacher = None
    if objective.needs_teacher:
        teacher = Teacher.of(load_teacher(recipe), Fast(), packed=way.packed)
    items = objective.items(rows, reference)
    batch = objective.collate([items[place] for place in range(len(items))], lay)
    counts, passes = objective.counts(batch), ModelPasses(loaded, way, teacher)
    rate = RATE * (min(recipe.method.rate, 5.0) if isinstance(recipe.method, Adapter) else 1.0)
    trained = [parameter for parameter in loaded.model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=rate, weight_decay=0)
    loaded.model.train()
    losses: list[float] = []
    while len(losses) < STEPS or (losses[-1] > FALLEN * losses[0] and len(losses) < MOST_STEPS):
        terms = objective.outcome(passes, batch).terms
        loss = sum(term / count for term, count in zip(terms, counts, strict=True))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    way.report.undo()
    return losses


class _Silence:
    """A sink for what nobody asks about."""

    def emit(self, kind: str, **fields: Any) -> None: ...


class _Always:
    """A control that lets everything go on."""

    stopping = False

    def checkpoint(self) -> None: ...

    def out_of_time(self, needed: float) -> bool:
        return False

    def asked(self) -> list[Any]:
        return []


def _rewarded(loaded: LoadedModel, recipe: Recipe, folder: Path) -> list[float]:
    """How likely a reply is that gets no reward, before and after: exactly, not by samples."""
    asked = [Conversation((Message("user", f"What is on table {n}?"),), n) for n in range(4)]
    before = _unrewarded(loaded, asked[0])
    sink: Any = _Silence()
    control: Any = _Always()
    run_trainer(make_trainer(Job(recipe, folder, sink, control), loaded, rows_of(asked), []), None)
    return [before, _unrewarded(loaded, asked[0])]


def _unrewarded(loaded: LoadedModel, asked: Conversation) -> float:
    tokenizer = loaded.tokenizer
    prompt = Template(tokenizer).prompt_ids(asked.messages)
    first = [token for token in range(len(tokenizer)) if re.match("[a-zA-Z]", tokenizer.decode([token]))]
    rows = [
        Encoded(np.array([*prompt, token], np.int32), np.arange(len(prompt) + 1) == len(prompt), 0)
        for token in first
    ]
    return 1 - float(said_of(loaded.model, rows).exp().sum())
