"""What `ftkit.runs.process` starts: the process that carries out one run, and ends with it."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path

from ftkit.runs.folder import RunFolder
from ftkit.runs.launch import Carrying, keep_listening, stop_on
from ftkit.runs.on_ray import CarryingByRay
from ftkit.runs.ranks import CarryingByTorchrun

_CARRYING: dict[str, type[Carrying]] = {"torchrun": CarryingByTorchrun, "ray": CarryingByRay}
"""How to carry a run out, by `compute.launch`; in this very process where it is not here."""


def main(arguments: list[str] | None = None) -> int:
    """Carry out the run in a folder; its end is in its log, the exit status only says whether it failed."""
    parser = argparse.ArgumentParser(prog="python -m ftkit.runs.worker", description=main.__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--wishes-from", type=int, default=None)
    parser.add_argument("--resume", action="store_true")
    given = parser.parse_args(arguments)

    folder = RunFolder.open(given.folder)
    kind = _CARRYING.get(folder.recipe().compute.launch, Carrying)
    carrying = kind(folder, resume=given.resume, wishes_from=given.wishes_from)

    stop_on(carrying, signal.SIGTERM, signal.SIGINT)
    keep_listening(carrying)
    carrying.carry_out()
    return 1 if carrying.error is not None else 0


if __name__ == "__main__":
    sys.exit(main())
