"""Objectives: pure functions of per-token log-probabilities, and what each asks of rows and passes."""

from ftkit.recipe import CPO, DPO, KTO, ORPO, SFT, Distillation, Pretraining, Recipe, Reward, SimPO
from ftkit.train.objectives.base import Batch, Objective, Outcome, Passes
from ftkit.train.objectives.cpo import ContrastivePreference
from ftkit.train.objectives.distillation import Distilled
from ftkit.train.objectives.dpo import DirectPreference
from ftkit.train.objectives.kto import KahnemanTversky
from ftkit.train.objectives.likelihood import Likelihood
from ftkit.train.objectives.orpo import OddsRatio
from ftkit.train.objectives.reward import BradleyTerry
from ftkit.train.objectives.simpo import SimplePreference

__all__ = ["Batch", "Objective", "Outcome", "Passes", "choose"]


def choose(recipe: Recipe) -> Objective:
    """The objective that a Recipe asks for."""
    match recipe.objective:
        case SFT() | Pretraining() as settings:
            return Likelihood(settings)
        case Distillation() as settings:
            return Distilled(settings)
        case DPO() as settings:
            return DirectPreference(settings)
        case ORPO() as settings:
            return OddsRatio(settings)
        case SimPO() as settings:
            return SimplePreference(settings)
        case CPO() as settings:
            return ContrastivePreference(settings)
        case KTO() as settings:
            return KahnemanTversky(settings, recipe.data.max_length)
        case Reward() as settings:
            return BradleyTerry(settings)
        case settings:
            raise TypeError(f"objective {settings.type!r} is trained by ftkit.train.rollouts")
