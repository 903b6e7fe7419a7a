"""What to do: the Recipe, its YAML and its Python. Knows nothing of torch."""

from ftkit.recipe._base import Section
from ftkit.recipe.schema import (
    SFT,
    Compute,
    Data,
    Fast,
    FullFineTuning,
    LoRA,
    Method,
    Mix,
    Model,
    Objective,
    Output,
    Pretraining,
    Recipe,
    Source,
    Training,
    why_not_unsloth,
)

__all__ = [
    "SFT",
    "Compute",
    "Data",
    "Fast",
    "FullFineTuning",
    "LoRA",
    "Method",
    "Mix",
    "Model",
    "Objective",
    "Output",
    "Pretraining",
    "Recipe",
    "Section",
    "Source",
    "Training",
    "why_not_unsloth",
]
