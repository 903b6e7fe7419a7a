"""The starter sets: small, seeded datasets that come with ftkit, each with a measurable task."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

_FOLDER = Path(__file__).with_name("starter")


@dataclass(frozen=True)
class StarterSet:
    """A starter set: its files and what is measured on its held-out rows."""

    name: str
    title: str
    description: str
    measured: str

    @property
    def train_path(self) -> Path:
        """JSONL file with the training rows."""
        return _FOLDER / f"{self.name}-train.jsonl"

    @property
    def held_out_path(self) -> Path:
        """JSONL file with the held-out rows."""
        return _FOLDER / f"{self.name}-held_out.jsonl"


STARTER_SETS = {
    one.name: one
    for one in (
        StarterSet(
            "extract",
            "Extract",
            "Turn a short order sentence into a JSON object.",
            "Exact match on rows whose names, items and cities, and half of whose sentence forms, are new.",
        ),
        StarterSet(
            "persona",
            "Persona",
            "The assistant becomes Marlow, an old lighthouse keeper with a way of speaking.",
            "Whether replies to new questions carry the name or the signature.",
        ),
    )
}
