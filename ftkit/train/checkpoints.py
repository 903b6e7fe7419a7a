"""A run's checkpoints: written whole, recognised when damaged, and never all deleted.

A checkpoint is a folder `checkpoint-STEP` sealed by a manifest (`ftkit.manifest`) that also keeps the step
and the evaluation loss. Neither torch nor transformers is needed to look at them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ftkit import manifest

_NAME = re.compile(r"checkpoint-(\d+)")


def step_of(path: Path) -> int | None:
    """The step of a checkpoint, by its folder's name; None for any other folder."""
    match = _NAME.fullmatch(path.name)
    return int(match[1]) if match else None


@dataclass(frozen=True)
class Checkpoint:
    """One checkpoint that is there, sound or not."""

    path: Path
    step: int

    def fault(self, *, thorough: bool = False) -> str | None:
        """What is wrong with it, in a few words, or None; `thorough` compares every byte."""
        found = manifest.fault(self.path, thorough=thorough)
        if found is None and self.about.get("step") != self.step:
            return "its manifest is another checkpoint's"
        return found

    @property
    def about(self) -> Mapping[str, Any]:
        """What its manifest keeps: `step`, `eval_loss` (None where it was not evaluated)."""
        return manifest.read_manifest(self.path) or {}


class Checkpoints:
    """The checkpoints in one folder.

    Parameters
    ----------
    keep_last
        How many of the newest are kept.
    keep_best
        Whether the one with the lowest evaluation loss is kept, too.
    keep_every
        Those at multiples of so many steps are kept, too; None: none for that reason.
    """

    def __init__(
        self, folder: Path, keep_last: int = 2, keep_best: bool = False, keep_every: int | None = None
    ) -> None:
        self.folder = folder
        self.keep_last = keep_last
        self.keep_best = keep_best
        self.keep_every = keep_every

    def all(self) -> list[Checkpoint]:
        """Those that are there, sound or not, oldest step first."""
        found = ((path, step_of(path)) for path in self.folder.glob("checkpoint-*") if path.is_dir())
        made = [Checkpoint(path, step) for path, step in found if step is not None]
        return sorted(made, key=lambda one: one.step)

    def at(self, step: int) -> Checkpoint:
        """The one of a step, there or not."""
        return Checkpoint(self.folder / f"checkpoint-{step}", step)

    @contextmanager
    def writing(self, step: int, eval_loss: float | None = None) -> Iterator[Path]:
        """A folder to write a checkpoint into; on leaving without an error it is there, and old ones go."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with manifest.building(self.at(step).path, {"step": step, "eval_loss": eval_loss}) as work:
            yield work
        self.prune()

    def newest(self, *, at_most: int | None = None) -> tuple[Checkpoint | None, list[str]]:
        """The newest sound checkpoint, every byte of it compared, and what is wrong with newer ones.

        Parameters
        ----------
        at_most
            Take none of a later step.
        """
        faults: list[str] = []
        for one in reversed(self.all()):
            if at_most is not None and one.step > at_most:
                continue
            found = one.fault(thorough=True)
            if found is None:
                return one, faults
            faults.append(f"{one.path.name}: {found}")
        return None, faults

    def drop_after(self, step: int) -> None:
        """Delete the checkpoints of later steps: a run that was taken back goes another way from here."""
        for one in self.all():
            if one.step > step:
                manifest.remove(one.path)

    def prune(self) -> None:
        """Delete what need not be kept. The newest sound one stays, and damaged ones do not count."""
        there = self.all()
        sound = [one for one in there if one.fault() is None]
        kept = set(sound[-max(1, self.keep_last) :])
        if self.keep_best:
            judged = [one for one in sound if one.about.get("eval_loss") is not None]
            kept |= {min(judged, key=lambda one: one.about["eval_loss"])} if judged else set()
        if self.keep_every:
            kept |= {one for one in sound if one.step % self.keep_every == 0}
        if not kept:
            return
        newest = max(one.step for one in kept)
        for one in there:
            # a damaged one newer than any sound one may be all that somebody can rescue by hand
            if one not in kept and one.step <= newest:
                manifest.remove(one.path)
        for leftover in self.folder.glob(".checkpoint-*"):
            manifest.remove(leftover)
