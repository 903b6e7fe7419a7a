"""The processes that train one model together, called ranks: which one this is, and what they agree on.

Each holds the whole model and takes its share of the batches of every step; what is counted is counted over
all of them. Rank 0 alone hears the person and writes to the run folder. What it decides is told to the others
at places that all of them pass, so that all act on it at the same step.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from ftkit.errors import RunError
from ftkit.train.protocol import Control

if TYPE_CHECKING:
    import torch

PATIENCE = timedelta(days=365)
"""How long ranks wait for one another: one may be paused, or save. One that dies ends the waiting at once."""
MEETING = "FTKIT_MEETING"
"""Names the file through which ranks of one machine find one another."""
_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK")


@dataclass(frozen=True)
class Ranks:
    """One rank among those that train together.

    Attributes
    ----------
    number
        Of this one, from 0.
    count
        How many there are.
    """

    number: int = 0
    count: int = 1
    _talk: Any = None
    _own_group: bool = False

    @classmethod
    def join(cls, *, cuda: bool) -> Ranks:
        """Meet the others, as the environment says that torchrun or Ray made; alone where there are none.

        Raises
        ------
        RunError
            When there are fewer GPUs than ranks on this machine.
        """
        count = int(os.environ.get("WORLD_SIZE", "1"))
        if count == 1:
            for name in _VARIABLES:  # accelerate would take one process for many
                os.environ.pop(name, None)
            return cls()
        import torch
        from torch import distributed

        if cuda:
            place, there = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
            if place >= there:
                raise RunError(
                    f"compute.processes asks for a GPU each, and this machine has {there}.",
                    "Lower compute.processes, or set compute.device to cpu.",
                )
            torch.cuda.set_device(place)
        own_group = not distributed.is_initialized()
        if own_group:  # else Ray has made it
            backend = "cuda:nccl,cpu:gloo" if cuda else "gloo"
            number = int(os.environ["RANK"])
            at = f"file://{os.environ[MEETING]}" if MEETING in os.environ else None
            distributed.init_process_group(
                backend, init_method=at, rank=number, world_size=count, timeout=PATIENCE
            )
        talk = distributed.new_group(backend="gloo", timeout=PATIENCE)
        return cls(int(os.environ["RANK"]), count, talk, own_group)

    def leave(self) -> None:
        """Part from the others."""
        if self._own_group:
            from torch import distributed

            distributed.destroy_process_group()

    @contextlib.contextmanager
    def first(self) -> Iterator[None]:
        """Rank 0 goes through the block before the others: what it fetches or makes, they find there."""
        if self.number > 0:
            self.agreed(0.0)
        yield
        if self.number == 0:
            self.agreed(0.0)

    def agreed(self, value: float) -> float:
        """Rank 0's `value`, on all of them."""
        if self.count == 1:
            return value
        import torch
        from torch import distributed

        told = torch.tensor(value, dtype=torch.float64)
        distributed.broadcast(told, src=0, group=self._talk)
        return told.item()

    def total(self, values: Sequence[float]) -> list[float]:
        """The sums of `values` over all of them."""
        if self.count == 1:
            return list(values)
        import torch
        from torch import distributed

        sums = torch.tensor(values, dtype=torch.float64)
        distributed.all_reduce(sums, group=self._talk)
        return [float(one) for one in sums]

    def gathered(self, own: torch.Tensor) -> list[torch.Tensor]:
        """`own` of each of them, in order; it has the same shape on all."""
        if self.count == 1:
            return [own]
        import torch
        from torch import distributed

        found = [torch.empty_like(own) for _ in range(self.count)]
        distributed.all_gather(found, own, group=self._talk)
        return found

    def shared(self, value: Any) -> list[Any]:
        """`value` of each of them, in order; it is made of what JSON knows."""
        if self.count == 1:
            return [value]
        import torch

        said = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
        sizes = [int(size) for size in self.gathered(torch.tensor(len(said)))]
        padded = torch.zeros(max(sizes), dtype=torch.uint8)
        padded[: len(said)] = said
        found = zip(self.gathered(padded), sizes, strict=True)
        return [json.loads(bytes(one[:size].tolist())) for one, size in found]

    def must_agree(self, what: str, value: int) -> None:
        """Refuse to go on where `value` is not the same on all of them.

        Raises
        ------
        RunError
            Says `what` differs.
        """
        found = self.shared(value)
        if len(set(found)) > 1:
            raise RunError(
                f"The processes differ in {what}: {', '.join(map(str, found))}.",
                "They must see the same files and run the same versions.",
            )

    def obeying(self, control: Control) -> Control:
        """`control`, asked by rank 0 and obeyed by all: each asks it at the same places."""
        return control if self.count == 1 else _Agreed(self, control)


ALONE = Ranks()
"""One process."""


@dataclass(frozen=True)
class _Told:
    name: str
    value: float | None


class _Agreed:
    def __init__(self, ranks: Ranks, control: Control) -> None:
        self.ranks = ranks
        self.control = control

    def checkpoint(self) -> None:
        """Rank 0 waits while the run is paused, the others for its next word."""
        if self.ranks.number == 0:
            self.control.checkpoint()

    @property
    def stopping(self) -> bool:
        mine = self.ranks.number == 0 and self.control.stopping
        return bool(self.ranks.agreed(float(mine)))

    def out_of_time(self, needed: float) -> bool:
        mine = self.ranks.number == 0 and self.control.out_of_time(needed)
        return bool(self.ranks.agreed(float(mine)))

    def end(self, why: str) -> None:
        self.control.end(why)

    def asked(self) -> Sequence[_Told]:
        mine = self.control.asked() if self.ranks.number == 0 else ()
        return [_Told(*one) for one in self.ranks.shared([(one.name, one.value) for one in mine])[0]]

    def sample(self, step: int) -> None:
        if self.ranks.number == 0:
            self.control.sample(step)
