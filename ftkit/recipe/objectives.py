"""What is learned of the rows: the objectives, each with the settings that are its own and its paper named.

`reads` says what an objective needs of a row: `texts` to imitate, `pairs` of a better and a worse reply,
`rated` replies, or `prompts` that the model answers itself. `head` says what the model puts out: `words`,
or one `score` for a whole text. What else a person reads before they choose is in `Kind`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from ftkit.recipe._base import Fraction, Kind, Lines, PositiveInt, Presets

Reads = Literal["texts", "pairs", "rated", "prompts"]
Head = Literal["words", "score"]
READS: Mapping[Reads, str] = {
    "texts": "From texts to imitate",
    "pairs": "From pairs of a better and a worse reply",
    "rated": "From replies rated good or bad",
    "prompts": "From rewards for the model's own replies",
}
"""What an objective reads, in the words of a heading."""
Beta = Annotated[float, Field(gt=0)]
Weight = Annotated[float, Field(ge=0)]
Doubt = Annotated[float, Field(ge=0.0, lt=0.5)]
_PAIRS: Presets = {
    "balanced": {"training.epochs": 1.0},
    "thorough": {"training.epochs": 3.0},
}
"""Preferences are learned in fewer passes than texts: soon the model is only surer of the rows it knows."""


class SFT(Kind):
    """Supervised fine-tuning: learn the assistant's replies (Ouyang et al. 2022, arXiv:2203.02155)."""

    title: ClassVar[str] = "Chat (supervised)"
    main: ClassVar[tuple[str, ...]] = ("train_on",)
    reads: ClassVar[Reads] = "texts"
    head: ClassVar[Head] = "words"
    type: Literal["sft"] = "sft"
    train_on: Literal["assistant", "last", "all"] = "assistant"
    """Which tokens the loss is taken over: every assistant turn, the last one only, or everything."""
    loss: Literal["likelihood", "dft", "eaft"] = "likelihood"
    """How much each token weighs: all the same; by its own probability, so that what the model finds absurd
    teaches less (DFT, arXiv:2508.05629); or by the model's uncertainty there (EAFT, arXiv:2601.02151)."""
    label_smoothing: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Share of the target spread over the whole vocabulary (Szegedy et al. 2015, arXiv:1512.00567)."""

    @model_validator(mode="after")
    def _smoothing_goes_with_the_likelihood(self) -> SFT:
        if self.label_smoothing and self.loss != "likelihood":
            raise ValueError(
                f"label_smoothing ({self.label_smoothing:g}) goes with loss 'likelihood', not with "
                f"{self.loss!r}: set one of them back"
            )
        return self


class Pretraining(Kind):
    """Continued pre-training: learn every token of plain text (Gururangan et al. 2020, arXiv:2004.10964)."""

    title: ClassVar[str] = "Plain text"
    reads: ClassVar[Reads] = "texts"
    head: ClassVar[Head] = "words"
    type: Literal["pretraining"] = "pretraining"


class Distillation(Kind):
    """Learn what a larger model thinks of every word of the rows (Hinton et al. 2015, arXiv:1503.02531)."""

    title: ClassVar[str] = "A teacher's words (distillation)"
    main: ClassVar[tuple[str, ...]] = ("teacher", "train_on")
    needs: ClassVar[Mapping[str, str]] = {
        "teacher": "Name the model to learn from, mostly a larger one of the same family."
    }
    reads: ClassVar[Reads] = "texts"
    head: ClassVar[Head] = "words"
    type: Literal["distillation"] = "distillation"
    teacher: str = ""
    """The model to learn from, with the same vocabulary: a Hub id, a local folder, or `starter`. It is loaded
    beside the model, in the same precision, and never changes."""
    teacher_revision: str | None = None
    """Branch, tag or commit of a teacher from the Hub. Empty: its main branch."""
    train_on: Literal["assistant", "last", "all"] = "assistant"
    """Which tokens are compared: every assistant turn, the last one only, or everything."""
    beta: Fraction = 0.0
    """How the two are compared (GKD, arXiv:2306.13649). 0: the student covers all that the teacher might say.
    1: it keeps to the teacher's likeliest words. Between: both with their mixture."""
    temperature: Annotated[float, Field(gt=0, le=20)] = 1.0
    """Flattens both distributions, such as 2: what the teacher thinks of unlikely words counts more."""
    label_weight: Weight = 0.0
    """Weight of learning the rows' own tokens beside the teacher's distribution, such as 0.5."""


class DPO(Kind):
    """Prefer the chosen reply to the rejected, near a reference (Rafailov et al. 2023, arXiv:2305.18290)."""

    title: ClassVar[str] = "DPO"
    main: ClassVar[tuple[str, ...]] = ("beta", "loss")
    rate: ClassVar[float] = 0.1
    presets: ClassVar[Presets] = _PAIRS
    reads: ClassVar[Reads] = "pairs"
    head: ClassVar[Head] = "words"
    type: Literal["dpo"] = "dpo"
    beta: Beta = 0.1
    """How strongly the model is held to the reference: higher stays closer. IPO's tau."""
    loss: Literal["sigmoid", "hinge", "ipo", "robust"] = "sigmoid"
    """Shape of the loss: DPO's own; hinge (SLiC, arXiv:2305.10425); squared, per token (IPO,
    arXiv:2310.12036); or corrected for wrong labels (robust DPO, arXiv:2403.00409)."""
    label_smoothing: Doubt = 0.0
    """Share of the pairs that are taken to be labelled the wrong way round: for `sigmoid` and `robust`."""
    sft_weight: Weight = 0.0
    """Weight of learning the chosen reply as such beside the preference (RPO, arXiv:2404.19733)."""
    ld_alpha: Annotated[float | None, Field(ge=0.0, le=1.0)] = None
    """How much the tokens count by which one reply is longer than the other (LD-DPO, arXiv:2409.06411).
    Empty: as much as the others."""

    @model_validator(mode="after")
    def _doubt_goes_with_the_loss(self) -> DPO:
        if self.label_smoothing and self.loss not in {"sigmoid", "robust"}:
            raise ValueError(
                f"label_smoothing ({self.label_smoothing:g}) has no effect with loss {self.loss!r}: "
                "take 'sigmoid' or 'robust', or set it to 0"
            )
        return self


class ORPO(Kind):
    """Learn the chosen reply and prefer it by its odds (Hong et al. 2024, arXiv:2403.07691). No reference."""

    title: ClassVar[str] = "ORPO"
    rate: ClassVar[float] = 0.25
    presets: ClassVar[Presets] = _PAIRS
    reads: ClassVar[Reads] = "pairs"
    head: ClassVar[Head] = "words"
    type: Literal["orpo"] = "orpo"
    beta: Beta = 0.1
    """Weight of the preference beside learning the chosen reply; the paper's lambda."""


class SimPO(Kind):
    """Make the chosen reply likelier per token, by a margin (Meng et al. 2024, arXiv:2405.14734)."""

    title: ClassVar[str] = "SimPO"
    rate: ClassVar[float] = 0.1
    presets: ClassVar[Presets] = _PAIRS
    reads: ClassVar[Reads] = "pairs"
    head: ClassVar[Head] = "words"
    type: Literal["simpo"] = "simpo"
    beta: Beta = 2.0
    """Scale of the reward: the mean log-probability of a reply's tokens times this."""
    gamma: Weight = 1.0
    """By how much the chosen reply's reward should lead."""
    sft_weight: Weight = 0.0
    """Weight of learning the chosen reply as such beside the preference."""


class CPO(Kind):
    """Learn the chosen reply and prefer it (Xu et al. 2024, arXiv:2401.08417). No reference."""

    title: ClassVar[str] = "CPO"
    main: ClassVar[tuple[str, ...]] = ("beta", "loss")
    rate: ClassVar[float] = 0.1
    presets: ClassVar[Presets] = _PAIRS
    reads: ClassVar[Reads] = "pairs"
    head: ClassVar[Head] = "words"
    type: Literal["cpo"] = "cpo"
    beta: Beta = 0.1
    """Scale of the difference of the replies' log-probabilities."""
    loss: Literal["sigmoid", "hinge", "ipo"] = "sigmoid"
    """Shape of the loss: see DPO."""
    sft_weight: Weight = 1.0
    """Weight of learning the chosen reply as such beside the preference."""
    label_smoothing: Doubt = 0.0
    """Share of the pairs that are taken to be labelled the wrong way round: for `sigmoid`."""

    @model_validator(mode="after")
    def _doubt_goes_with_the_loss(self) -> CPO:
        if self.label_smoothing and self.loss != "sigmoid":
            raise ValueError(
                f"label_smoothing ({self.label_smoothing:g}) has no effect with loss {self.loss!r}: "
                "take 'sigmoid', or set it to 0"
            )
        return self


class KTO(Kind):
    """Learn from replies rated good or bad, each by itself (Ethayarajh et al. 2024, arXiv:2402.01306)."""

    title: ClassVar[str] = "KTO"
    rate: ClassVar[float] = 0.1
    presets: ClassVar[Presets] = _PAIRS
    reads: ClassVar[Reads] = "rated"
    head: ClassVar[Head] = "words"
    type: Literal["kto"] = "kto"
    beta: Beta = 0.1
    """How strongly the model is held to the reference: higher stays closer."""
    desirable_weight: Weight = 1.0
    """Weight of the good replies: raise it where they are few."""
    undesirable_weight: Weight = 1.0
    """Weight of the bad replies: raise it where they are few."""
    sft_weight: Weight = 0.0
    """Weight of learning the good replies as such beside the preference."""


class Reward(Kind):
    """Learn to score replies as people prefer them, not to talk (Ouyang et al. 2022, arXiv:2203.02155)."""

    title: ClassVar[str] = "Reward model"
    rate: ClassVar[float] = 0.5
    presets: ClassVar[Presets] = _PAIRS
    reads: ClassVar[Reads] = "pairs"
    head: ClassVar[Head] = "score"
    type: Literal["reward"] = "reward"
    center_coefficient: Annotated[float | None, Field(gt=0)] = None
    """Pull of the mean score of a pair towards zero, such as 0.01 (arXiv:2312.09244). Empty: none."""


class _Rewarded(Kind):
    """What the objectives share by which a model learns from rewards for its own replies."""

    main: ClassVar[tuple[str, ...]] = ("rewards", "num_generations", "max_new_tokens")
    needs: ClassVar[Mapping[str, str]] = {
        "rewards": "Say what a reply is rewarded by, such as `json` where the replies should be JSON, or "
        "`exact_match` where they should be the rows' own."
    }
    rate: ClassVar[float] = 0.25
    presets: ClassVar[Presets] = {
        "quick look": {
            "objective.num_generations": 4,
            "objective.max_new_tokens": 64,
            "training.batch_size": 2,
        },
        "balanced": {
            "objective.num_generations": 4,
            "objective.max_new_tokens": 128,
            "training.batch_size": 4,
            "training.epochs": 1.0,
        },
        "thorough": {
            "objective.num_generations": 8,
            "objective.max_new_tokens": 128,
            "training.batch_size": 4,
            "training.epochs": 2.0,
        },
    }
    package: ClassVar[str] = "trl"
    extra: ClassVar[str] = "trl"
    reads: ClassVar[Reads] = "prompts"
    head: ClassVar[Head] = "words"
    rewards: Lines = ()
    """What replies are rewarded by, summed: `json`, `exact_match`, `length:200` (characters at most),
    `regex:PATTERN`, `model:FOLDER` (a reward model), or a function of yours by its name, once
    `ftkit.train.rewards.register` knows it."""
    num_generations: Annotated[int, Field(ge=2)] = 4
    """Replies to each prompt, compared with one another. `batch_size` counts prompts."""
    max_new_tokens: PositiveInt = 128
    """Longest reply, in tokens."""
    temperature: Annotated[float, Field(gt=0, le=5)] = 1.0
    """How varied the replies are."""


class GRPO(_Rewarded):
    """Make its replies likelier that are rewarded above their group (Shao et al. 2024, arXiv:2402.03300)."""

    title: ClassVar[str] = "GRPO"
    type: Literal["grpo"] = "grpo"
    beta: Weight = 0.0
    """How strongly the model is held to the reference. 0: not at all, and faster."""


class RLOO(_Rewarded):
    """Reinforce the replies that are rewarded above the others (Ahmadian et al. 2024, arXiv:2402.14740)."""

    title: ClassVar[str] = "RLOO"
    type: Literal["rloo"] = "rloo"
    beta: Weight = 0.05
    """How strongly the model is held to the reference. 0: not at all, and faster."""


Objective = Annotated[
    SFT | Pretraining | Distillation | DPO | ORPO | SimPO | CPO | KTO | Reward | GRPO | RLOO,
    Field(discriminator="type"),
]
