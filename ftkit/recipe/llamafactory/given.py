"""The values of a LLaMA-Factory file as they were read, and what they say about the file as a whole."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ftkit.recipe.llamafactory.table import table

_OBJECTIVES = {"pt": "pretraining", "sft": "sft", "rm": "reward", "ppo": "rloo", "dpo": "dpo", "kto": "kto"}
_WITHOUT_REFERENCE = ("orpo", "simpo")
_TRAINS = ("dataset", "output_dir", "learning_rate", "num_train_epochs", "per_device_train_batch_size")


@dataclass(frozen=True)
class Given:
    """Values by key; empty ones are left out.

    Attributes
    ----------
    values
        As `values.read` has them.
    folder
        Where the file lies, to find what it names; None for pasted text.
    """

    values: Mapping[str, Any]
    folder: Path | None = None

    def get(self, key: str) -> Any:
        """The value of a key, or LLaMA-Factory's own where it is absent."""
        value = self.values.get(key)
        return table()[key].default if value is None else value

    @property
    def kind(self) -> str:
        """train, predict, export or chat."""
        values = self.values
        if values.get("export_dir") or values.get("export_hub_model_id"):
            return "export"
        if values.get("do_train"):
            return "train"
        if any(values.get(key) for key in ("do_predict", "do_eval", "predict_with_generate", "task")):
            return "predict"
        return "train" if any(key in values for key in _TRAINS) else "chat"

    @property
    def objective(self) -> str:
        """The Recipe's objective."""
        loss = self.get("pref_loss")
        if self.get("stage") == "dpo" and loss in _WITHOUT_REFERENCE:
            return str(loss)
        return _OBJECTIVES.get(self.get("stage"), "sft")

    @property
    def method(self) -> str:
        """The Recipe's method."""
        return str(self.get("finetuning_type"))

    @property
    def kinds(self) -> dict[str, str]:
        """The type of each section that has several."""
        return {"objective": self.objective, "method": self.method}

    @property
    def own_optimizer(self) -> tuple[str, str] | None:
        """The first `use_...` key that chooses an optimizer, and which."""
        for key in ("use_galore", "use_apollo", "use_badam", "use_adam_mini", "use_muon", "adafactor"):
            if self.values.get(key):
                return key, table()[key].values[True]
        return None

    @property
    def optimizer(self) -> str:
        """The Recipe's optimizer."""
        own = self.own_optimizer
        return own[1] if own else str(table()["optim"].values.get(self.get("optim"), ""))
