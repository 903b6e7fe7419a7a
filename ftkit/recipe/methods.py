"""Which weights are trained, and how: each method is a class with the fields that it has.

A method either leaves the model alone and trains an adapter beside it (`saves = "adapter"`), or changes
weights of the model itself (`saves = "model"`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from ftkit.recipe._base import Fraction, Kind, NonNegativeInt, PositiveInt, Presets

Dropout = Annotated[float, Field(ge=0.0, lt=1.0)]
Saves = Literal["adapter", "model"]
SAVES: Mapping[Saves, str] = {
    "adapter": "An adapter beside the model, whose own weights stay",
    "model": "The model's own weights",
}
"""What is trained and saved, in the words of a heading."""


def _sizes(**fields: tuple[Any, Any, Any]) -> Presets:
    """What the three presets, from the quickest to the most thorough, change of a method's fields."""
    names = ("quick look", "balanced", "thorough")
    return {
        name: {f"method.{field}": values[place] for field, values in fields.items()}
        for place, name in enumerate(names)
    }


class Adapter(Kind):
    """What is trained lies beside the model, whose own weights stay as they are."""

    type: str
    saves: ClassVar[Saves] = "adapter"

    start_from: str | None = None
    """Go on training this adapter: the `adapter` folder of a run. Its own rank and layers are kept."""


class OnLayers(Adapter):
    """An adapter that sits on the linear layers of the model."""

    target_modules: Literal["all-linear"] | tuple[str, ...] = "all-linear"
    """Which linear layers get an adapter: `all-linear`, or names such as q_proj, v_proj."""
    layers_to_transform: tuple[NonNegativeInt, ...] | None = None
    """Only these decoder layers get one, by number from 0. Empty: all."""
    modules_to_save: tuple[str, ...] = ()
    """Modules to train whole beside the adapter and to save with it, such as embed_tokens, lm_head."""


class LoRA(OnLayers):
    """Train small low-rank matrices beside the frozen weights (Hu et al. 2021, arXiv:2106.09685)."""

    title: ClassVar[str] = "LoRA"
    main: ClassVar[tuple[str, ...]] = ("rank", "alpha", "dropout", "target_modules")
    presets: ClassVar[Presets] = _sizes(rank=(8, 16, 32), alpha=(16.0, 32.0, 64.0))

    type: Literal["lora"] = "lora"
    rank: PositiveInt = 16
    """Rank r of the update: higher learns more and costs more memory."""
    alpha: Annotated[float, Field(gt=0)] = 32.0
    """Scale: the update is multiplied by alpha / rank."""
    dropout: Dropout = 0.0
    """Share of the matrices' inputs left out at random in each step, against learning rows by heart."""
    use_rslora: bool = False
    """Scale by alpha / sqrt(rank) instead (rsLoRA, arXiv:2312.03732): for high ranks."""
    use_dora: bool = False
    """Learn magnitude and direction apart (DoRA, arXiv:2402.09353): slower, sometimes better."""
    init: Literal["default", "gaussian", "pissa", "olora", "eva", "loftq"] = "default"
    """First values: random and zero (`default`, `gaussian`), the weights' main directions (`pissa`,
    arXiv:2404.02948; `olora`, arXiv:2406.01775), those of the data's activations (`eva`, arXiv:2410.07170),
    or what quantization has lost of the weights (`loftq`, arXiv:2310.08659). PiSSA and OLoRA save an adapter
    of twice the rank; the model itself stays as it was."""
    stack_on: str | None = None
    """Put the new adapter above this one, which stays as it is: the `adapter` folder of a run with LoRA. What
    is saved holds both."""
    loraplus_ratio: Annotated[float, Field(ge=1.0)] | None = None
    """Learning rate of the B matrices, as a multiple of the A matrices' (LoRA+, arXiv:2402.12354). Empty: the
    same for both."""
    bias: Literal["none", "all", "lora_only"] = "none"
    """Train biases too: none, all, or those of adapted layers."""
    trainable_tokens: tuple[str, ...] = ()
    """Train the embeddings of these tokens too, such as <tool>. Tokens that are new to the model belong in
    model.new_tokens, and are trained without being named here."""

    @model_validator(mode="after")
    def _stacks_plainly(self) -> LoRA:
        if self.stack_on is None:
            return self
        others = {
            "start_from": self.start_from is not None,
            "use_rslora": self.use_rslora,
            "use_dora": self.use_dora,
            f"init {self.init!r}": self.init not in ("default", "gaussian"),
            "layers_to_transform": self.layers_to_transform is not None,
        }
        for name, given in others.items():
            if given:
                raise ValueError(f"stack_on does not go with {name}: leave one of them out")
        return self


class AdaLoRA(OnLayers):
    """LoRA whose ranks move, while it trains, to the layers that need them (Zhang et al. 2023,
    arXiv:2303.10512)."""

    title: ClassVar[str] = "AdaLoRA"
    main: ClassVar[tuple[str, ...]] = ("rank", "first_rank", "alpha", "target_modules")
    presets: ClassVar[Presets] = _sizes(rank=(4, 8, 16), first_rank=(6, 12, 24))
    rate: ClassVar[float] = 5.0

    type: Literal["adalora"] = "adalora"
    rank: PositiveInt = 8
    """Mean rank at the end."""
    first_rank: PositiveInt = 12
    """Rank of every layer at the start."""
    alpha: Annotated[float, Field(gt=0)] = 32.0
    """Scale of the update."""
    dropout: Dropout = 0.0
    """Dropout before the low-rank matrices."""
    warmup: Fraction = 0.1
    """Share of the steps before ranks are taken away."""
    settled: Fraction = 0.3
    """Share of the steps at the end over which ranks stay as they are."""
    interval: PositiveInt = 1
    """Steps between two changes of the ranks."""
    orthogonality: Annotated[float, Field(ge=0)] = 0.5
    """Weight of the term that keeps the matrices orthogonal."""

    @model_validator(mode="after")
    def _ranks_fall(self) -> AdaLoRA:
        if self.first_rank < self.rank:
            raise ValueError(f"first_rank {self.first_rank} is below rank {self.rank}: ranks only fall")
        if self.warmup + self.settled >= 1:
            raise ValueError("warmup and settled leave no steps in which ranks could move")
        return self


class OFT(OnLayers):
    """Turn each layer's inputs by a learned rotation, in blocks (Qiu et al. 2023, arXiv:2306.07280; OFTv2,
    arXiv:2506.19847)."""

    title: ClassVar[str] = "OFT"
    main: ClassVar[tuple[str, ...]] = ("block_size", "dropout", "target_modules")

    type: Literal["oft"] = "oft"
    block_size: PositiveInt = 32
    """Size of the rotated blocks: it must divide the layers' widths. Larger learns more and costs more."""
    dropout: Dropout = 0.0
    """Share of blocks left unrotated in a step."""


class BOFT(OnLayers):
    """Turn each layer's outputs by a learned rotation in small blocks, and scale them (Liu et al. 2023,
    arXiv:2311.06243)."""

    title: ClassVar[str] = "BOFT"
    main: ClassVar[tuple[str, ...]] = ("block_size", "dropout", "target_modules")

    type: Literal["boft"] = "boft"
    block_size: PositiveInt = 4
    """Size of the rotated blocks: it must divide the layers' widths."""
    dropout: Dropout = 0.0
    """Share of blocks left unrotated in a step."""


class IA3(Adapter):
    """Scale keys, values and the feed-forward by learned vectors: very few parameters (Liu et al. 2022,
    arXiv:2205.05638)."""

    title: ClassVar[str] = "IA3"
    rate: ClassVar[float] = 25.0

    type: Literal["ia3"] = "ia3"
    target_modules: Literal["auto"] | tuple[str, ...] = "auto"
    """Which linear layers are scaled: `auto` (keys, values and the feed-forward's last), or names."""
    feedforward_modules: tuple[str, ...] = ()
    """Those of the named layers whose inputs are scaled rather than their outputs, such as down_proj."""
    modules_to_save: tuple[str, ...] = ()
    """Modules to train whole beside the adapter and to save with it, such as embed_tokens, lm_head."""

    @model_validator(mode="after")
    def _feedforward_is_targeted(self) -> IA3:
        if not set(self.feedforward_modules) <= set(self.target_modules):
            raise ValueError("feedforward_modules must be among target_modules, by the same names")
        return self


class VeRA(OnLayers):
    """Scale random matrices that all layers share: fewer parameters than LoRA (Kopiczko et al. 2023,
    arXiv:2310.11454)."""

    title: ClassVar[str] = "VeRA"
    main: ClassVar[tuple[str, ...]] = ("rank", "first_scale", "dropout", "target_modules")
    presets: ClassVar[Presets] = _sizes(rank=(128, 256, 512))
    rate: ClassVar[float] = 20.0

    type: Literal["vera"] = "vera"
    rank: PositiveInt = 256
    """Rank of the shared matrices."""
    first_scale: Annotated[float, Field(gt=0)] = 0.1
    """First value of the learned scales."""
    dropout: Dropout = 0.0
    """Dropout before the shared matrices."""


class PromptTuning(Adapter):
    """Learn a few vectors that stand before every text in place of words (Lester et al. 2021,
    arXiv:2104.08691)."""

    title: ClassVar[str] = "Prompt tuning"
    presets: ClassVar[Presets] = _sizes(tokens=(10, 20, 40))
    rate: ClassVar[float] = 50.0

    type: Literal["prompt_tuning"] = "prompt_tuning"
    tokens: PositiveInt = 20
    """How many vectors."""
    text: str | None = None
    """Begin as this text, repeated or cut to `tokens`. Empty: random words."""


class PrefixTuning(Adapter):
    """Learn keys and values that every layer sees before the text (Li and Liang 2021, arXiv:2101.00190)."""

    title: ClassVar[str] = "Prefix tuning"
    presets: ClassVar[Presets] = _sizes(tokens=(10, 20, 40))
    rate: ClassVar[float] = 25.0

    type: Literal["prefix_tuning"] = "prefix_tuning"
    tokens: PositiveInt = 20
    """How many positions."""
    text: str | None = None
    """Begin as this text, repeated or cut to `tokens`. Empty: random words."""


class FullFineTuning(Kind):
    """Train every weight of the model. Needs several times the memory of LoRA."""

    title: ClassVar[str] = "Full fine-tuning"
    rate: ClassVar[float] = 0.1
    saves: ClassVar[Saves] = "model"

    type: Literal["full"] = "full"


class Freeze(Kind):
    """Train some of the model's layers and freeze the rest; or add layers (LLaMA Pro, Wu et al. 2024,
    arXiv:2401.02415)."""

    title: ClassVar[str] = "Some layers"
    main: ClassVar[tuple[str, ...]] = ("last_layers", "first_layers", "expand_layers")
    rate: ClassVar[float] = 0.1
    saves: ClassVar[Saves] = "model"

    type: Literal["freeze"] = "freeze"
    last_layers: PositiveInt | None = None
    """Train the last so many decoder layers. Empty, with nothing else chosen: 2."""
    first_layers: PositiveInt | None = None
    """Train the first so many decoder layers instead."""
    expand_layers: NonNegativeInt = 0
    """Add so many new layers, evenly spread, which begin by changing nothing, and train those alone."""
    modules: tuple[str, ...] = ()
    """Train only these modules of the layers chosen above (of all layers, where none are chosen), such as
    self_attn, mlp. Empty: all."""
    extra_modules: tuple[str, ...] = ()
    """Modules outside the decoder layers to train as well, such as embed_tokens, norm, lm_head."""

    @model_validator(mode="before")
    @classmethod
    def _one_way(cls, values: Any) -> Any:
        if isinstance(values, dict):
            asked = [n for n in ("last_layers", "first_layers", "expand_layers") if values.get(n)]
            if len(asked) > 1:
                raise ValueError(f"{' and '.join(asked)} exclude each other: choose one")
        return values


Method = Annotated[
    LoRA | FullFineTuning | Freeze | AdaLoRA | OFT | BOFT | IA3 | VeRA | PromptTuning | PrefixTuning,
    Field(discriminator="type"),
]
