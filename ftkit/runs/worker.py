"""What `ftkit.runs.process` starts: the process that carries out one run, and ends with it."""

from __future__ import annotations

import argparse
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

from ftkit.runs.folder import RunFolder
from ftkit.runs.launch import Carrying
from ftkit.runs.ranks import CarryingByTorchrun
from ftkit.runs.wishes import Wish

_CARRYING: dict[str, type[Carrying]] = {"torchrun": CarryingByTorchrun}
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

    def asked_to_end(*_: Any) -> None:
        # not from inside the handler: it may have interrupted whoever holds the log's lock
        threading.Thread(target=carrying.wish, args=(Wish("stop"),)).start()

    signal.signal(signal.SIGTERM, asked_to_end)
    signal.signal(signal.SIGINT, asked_to_end)
    threading.Thread(target=_listen, args=(carrying,), name="ftkit-listen", daemon=True).start()
    carrying.carry_out()
    return 1 if carrying.error is not None else 0


def _listen(carrying: Carrying) -> None:
    """Say at once that a Stop was heard, though the step goes on."""
    while True:
        carrying.listen()
        time.sleep(0.2)


if __name__ == "__main__":
    sys.exit(main())
