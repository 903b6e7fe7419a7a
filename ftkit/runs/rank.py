"""One of the processes that carry out a run together: `python -m ftkit.runs.rank FOLDER`, by torchrun.

Rank 0 writes the events and hears the wishes; the others are silent and do as rank 0 does.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

from ftkit.runs.folder import RunFolder
from ftkit.runs.launch import Carrying, End, keep_listening, stop_on
from ftkit.runs.ranks import Part, leave_end

_OF_ANOTHER = ("gloo", "nccl", "connection reset", "connection closed", "broken pipe", "socket")
"""Words of errors that say that another rank cannot be reached."""


def main(arguments: list[str] | None = None) -> int:
    """Take part, as the environment says that torchrun made."""
    parser = argparse.ArgumentParser(prog="python -m ftkit.runs.rank", description=main.__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--wishes-from", type=int, default=0)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--deadline", type=float, default=None)
    parser.add_argument("--parent", type=int, required=True)
    given = parser.parse_args(arguments)
    threading.Thread(target=_end_with, args=(given.parent,), name="ftkit-parent", daemon=True).start()
    together = take_part(Part(given.folder, given.resume, given.wishes_from, given.deadline))
    return 0 if together else 1


def take_part(part: Part) -> bool:
    """Do one rank's part of a run and leave its end in the folder.

    Returns
    -------
    bool
        Whether it ended where all ranks end. If not, the others are to be ended.
    """
    number = int(os.environ.get("RANK", "0"))
    carrying = _Rank(part) if number == 0 else _Silent(part)
    if number == 0:
        if threading.current_thread() is threading.main_thread():
            stop_on(carrying, signal.SIGTERM)
        keep_listening(carrying)
    end = carrying.to_the_end(carrying.train)
    leave_end(carrying.folder, number, end, of_another=_of_another(carrying.error))
    return carrying.trained


class _Rank(Carrying):
    """Rank 0's part."""

    def __init__(self, part: Part) -> None:
        super().__init__(RunFolder.open(part.folder), resume=part.resume, wishes_from=part.wishes_from)
        self._deadline = part.deadline
        self.trained = False

    def train(self) -> End | None:
        """Train with the others."""
        from ftkit.models.device import probe
        from ftkit.models.load import pick_device
        from ftkit.train.fit import fit
        from ftkit.train.job import Job
        from ftkit.train.ranks import Ranks

        recipe = self.folder.recipe()
        here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        threads = max(1, (recipe.compute.threads or probe("cpu").cores) // here)
        ranks = Ranks.join(cuda=pick_device(recipe.compute).kind == "cuda")
        if ranks.count > 1:
            os.environ.setdefault("OMP_NUM_THREADS", str(threads))
        recipe = recipe.replace({"compute.threads": threads})
        job = Job(recipe, self.folder.path, sink=self, control=self, ranks=ranks)
        fit(job, self._publish, resume=self.resume)
        self.trained = True
        ranks.leave()
        return None


class _Silent(_Rank):
    """The part of any other rank: it says nothing, and hears of wishes through rank 0."""

    def train(self) -> End | None:
        """Train with the others; the libraries are read while rank 0 reads the data."""
        import ftkit.models.adapters
        import ftkit.models.load
        import ftkit.train.trainer  # noqa: F401

        return super().train()

    def emit(self, kind: str, **fields: Any) -> None:
        """Nothing: rank 0 says it."""

    def listen(self) -> None:
        """Nothing: rank 0 does."""

    def checkpoint(self) -> None:
        """Nothing to wait for before rank 0 says so."""

    def out_of_time(self, needed: float) -> bool:
        """Rank 0 knows."""
        return False


def _of_another(error: BaseException | None) -> bool:
    said = str(error).lower()
    return isinstance(error, RuntimeError) and any(words in said for words in _OF_ANOTHER)


def _end_with(parent: int) -> None:
    """End when the process that started this one is gone, however it went: nobody would know of this one."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # all is on disk: taking torch apart would hold up the others, and the person
