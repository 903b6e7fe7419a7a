"""How the ranks hold one model between them: here, each the whole of it (DistributedDataParallel).

Other ways are in modules of their own (`sharding`, `zero`). The trainer and the checkpoints know only what a
`Holding` is asked for: the pass that all ranks make together, the weights whole, the optimizer's state whole.
What is saved is the same whatever the way, so that a run may go on in another one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.parallel import DistributedDataParallel

from ftkit.recipe import Fast, Recipe
from ftkit.recipe import engine as engines

if TYPE_CHECKING:
    from ftkit.train.ranks import Ranks


class Whole(torch.nn.Module):
    """A model whose forward pass is all that somebody asks of it: what wraps a model wraps one."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, ask: Callable[..., Any], *given: Any) -> Any:
        """`ask(*given)`, which makes passes through the model."""
        return ask(*given)


class Holding:
    """Every rank holds the whole model.

    Attributes
    ----------
    answers
        Whether one rank alone can ask the model something between steps.
    notes
        What is to be said of it.
    """

    answers = True

    def __init__(self, notes: tuple[str, ...] = ()) -> None:
        self.notes = notes

    def describe(self) -> str:
        """What it is, in a few words; empty where there is nothing to say."""
        return ""

    def fast(self, wanted: Fast) -> Fast:
        """Of the fast pieces those that fit."""
        return wanted

    def take(self, model: torch.nn.Module) -> None:
        """Take the model's weights over, once, before the first trainer is made."""

    def wrapped(self, trainer: Any) -> torch.nn.Module:
        """The module through which the ranks train together; gradients are averaged over them."""
        device = trainer.accelerator.device
        return DistributedDataParallel(
            Whole(trainer.model),
            device_ids=None if device.type == "cpu" else [device.index],
            find_unused_parameters=True,  # experts of a mixture may get no token on one rank
        )

    def through(self, model: torch.nn.Module) -> torch.nn.Module | None:
        """What a pass has to go through, `model` being the trainer's; None: it may be made directly."""
        return model if isinstance(model, DistributedDataParallel) else None

    def all_finite(self, found: bool) -> bool:
        """Whether `found` holds on all ranks: here it is the same on each."""
        return found

    def grad_norm(self) -> float | None:
        """The norm of a step's gradients where they have been clipped already; None: the trainer clips."""
        return None

    def weights(
        self, model: torch.nn.Module, *, all_of_them: bool = False, change: bool = False
    ) -> contextlib.AbstractContextManager[Any]:
        """Inside, the trained weights (or all of them) are whole on rank 0; all ranks enter together.

        Parameters
        ----------
        change
            They are whole on every rank, and what is changed inside stays.
        """
        return contextlib.nullcontext()

    def optimizer_state(self, optimizer: Any) -> dict[str, Any]:
        """The optimizer's state, whole on rank 0; all ranks ask together."""
        state: dict[str, Any] = optimizer.state_dict()
        return state

    def load_optimizer_state(self, optimizer: Any, state: dict[str, Any]) -> None:
        """Give the optimizer a whole state; every rank has it."""
        optimizer.load_state_dict(state)


def choose(recipe: Recipe, ranks: Ranks) -> Holding:
    """The way that the Recipe's file names; its errors are those of `ftkit.recipe.engine.read`."""
    engine = engines.read(recipe)
    if isinstance(engine, engines.Shards):
        from ftkit.train.sharding import Sharded

        return Sharded(engine, ranks)
    if isinstance(engine, engines.Zero):
        from ftkit.train.zero import Zeroed

        return Zeroed(engine, ranks)
    return Holding(engine.notes)
