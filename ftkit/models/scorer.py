"""Reward models in use: conversations to scores."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftkit.errors import ModelError
from ftkit.models.cache import Progress
from ftkit.models.load import LoadedModel, load_model
from ftkit.recipe import Compute, Model

if TYPE_CHECKING:
    from ftkit.data import Conversation
    from ftkit.data.template import Template

BATCH = 8
"""Conversations in one pass."""


class Scorer:
    """Scores conversations: the higher, the more their last reply would be preferred.

    Parameters
    ----------
    loaded
        A model with a head for one number.

    Examples
    --------
    >>> scorer = ftkit.models.load_scorer("runs/reward")                              # doctest: +SKIP
    >>> scorer.score(ftkit.data.load("chats.jsonl").train)                             # doctest: +SKIP
    """

    def __init__(self, loaded: LoadedModel) -> None:
        self.loaded = loaded
        self._template: Template | None = None

    def score(self, conversations: Sequence[Conversation]) -> list[float]:
        """One score for each conversation.

        Raises
        ------
        TemplateError
            When the model's chat template cannot render one.
        """
        import torch

        from ftkit.data import Template
        from ftkit.data.batches import PaddedCollator
        from ftkit.fast.logprobs import rewards

        self._template = self._template or Template(self.loaded.tokenizer)
        rows = [self._template.encode(one) for one in conversations]
        lay = PaddedCollator(self.loaded.tokenizer.pad_token_id)
        device = next(self.loaded.model.parameters()).device
        found: list[float] = []
        for start in range(0, len(rows), BATCH):
            batch = {name: value.to(device) for name, value in lay(rows[start : start + BATCH]).items()}
            with self.loaded.gate.turn("scoring"), torch.no_grad():
                found += rewards(self.loaded.model, batch).tolist()
        return found


def load_scorer(
    source: str | Path, compute: Compute | None = None, *, progress: Progress | None = None
) -> Scorer:
    """Load a reward model: the folder of a run that trained one, what such a run saved, or a Hub id.

    Raises
    ------
    ModelError
        Where it cannot be had, or is no reward model.
    """
    compute = compute or Compute()
    folder = Path(source).expanduser()
    for inside in (folder / "adapter", folder / "model"):
        folder = inside if inside.is_dir() else folder
    about = folder / "adapter_config.json"
    if not about.is_file():
        loaded = load_model(
            Model(source=str(folder if folder.exists() else source)), compute, head="score", progress=progress
        )
        if not any("SequenceClassification" in name for name in loaded.model.config.architectures or ()):
            raise _no_reward_model(source)
        return Scorer(loaded)
    settings: dict[str, Any] = json.loads(about.read_text(encoding="utf-8"))
    if settings.get("task_type") != "SEQ_CLS":
        raise _no_reward_model(source)
    base = _base(folder, settings)
    return Scorer(load_model(base, compute, adapter=folder, head="score", progress=progress))


def _base(adapter: Path, settings: dict[str, Any]) -> Model:
    """The model under an adapter: as its run's Recipe names it, else as the adapter does."""
    from ftkit.recipe import Recipe

    recipe = adapter.parent / "recipe.yaml"
    if recipe.is_file():
        return Recipe.from_yaml(recipe).model
    return Model(source=settings["base_model_name_or_path"], revision=settings.get("revision"))


def _no_reward_model(source: str | Path) -> ModelError:
    return ModelError(
        f"{source} is no reward model: it has no head for a score.",
        "Train one with objective 'reward', or name a sequence classification model with one label.",
    )
