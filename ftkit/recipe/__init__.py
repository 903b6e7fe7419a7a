"""What to do: the Recipe, its YAML and its Python. Knows nothing of torch."""

from ftkit.recipe._base import Section
from ftkit.recipe.objectives import CPO, DPO, KTO, ORPO, SFT, Head, Objective, Pretraining, Reward, SimPO
from ftkit.recipe.schema import (
    Compute,
    Data,
    Fast,
    FullFineTuning,
    LoRA,
    Method,
    Mix,
    Model,
    Output,
    Recipe,
    Source,
    Training,
    why_not_unsloth,
)

__all__ = [
    "CPO",
    "DPO",
    "KTO",
    "ORPO",
    "SFT",
    "Compute",
    "Data",
    "Fast",
    "FullFineTuning",
    "Head",
    "LoRA",
    "Method",
    "Mix",
    "Model",
    "Objective",
    "Output",
    "Pretraining",
    "Recipe",
    "Reward",
    "Section",
    "SimPO",
    "Source",
    "Training",
    "why_not_unsloth",
]
