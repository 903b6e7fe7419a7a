"""A run carried out by several processes that train together (ranks).

This process takes the run's turn, starts them, waits, and says how they ended. Rank 0 writes the events and
hears the wishes meanwhile; each rank leaves its end in the run folder (`rank-0.json` and so on) for this
process, which takes these files away. When one of them dies the others end, too, and the run's state says
which one it was and why.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from ftkit.recipe import engine
from ftkit.runs.folder import RunFolder
from ftkit.runs.launch import Carrying, End
from ftkit.runs.process import signal_name
from ftkit.runs.wishes import Wish
from ftkit.train.protocol import Stopped
from ftkit.train.ranks import MEETING


@dataclass(frozen=True)
class Part:
    """What every rank of a run is told.

    Attributes
    ----------
    folder
        The run folder.
    resume
        Go on from the newest sound checkpoint.
    wishes_from
        Where in the file of wishes rank 0 begins.
    deadline
        When the Recipe's time limit is over, in unix seconds.
    """

    folder: Path
    resume: bool = False
    wishes_from: int = 0
    deadline: float | None = None

    def arguments(self) -> list[str]:
        """For the command line of `ftkit.runs.rank`."""
        given = [str(self.folder), "--wishes-from", str(self.wishes_from), "--parent", str(os.getpid())]
        given += ["--resume"] if self.resume else []
        return given + (["--deadline", str(self.deadline)] if self.deadline is not None else [])


class CarryingByRanks(Carrying):
    """Carries a run out by `compute.processes` processes."""

    def __init__(self, folder: RunFolder, *, resume: bool = False, wishes_from: int | None = None) -> None:
        super().__init__(folder, resume=resume, wishes_from=wishes_from)
        self._from = self._wishes.position
        self._handed_over = False

    def run_ranks(self, count: int, part: Part) -> Mapping[int, str]:
        """Start `count` ranks, wait for them all; which ones ended without a word, and how."""
        raise NotImplementedError

    def wish(self, wish: Wish) -> None:
        """Take in a wish; rank 0 hears it once there is one."""
        if self._handed_over:
            self.folder.wishes().ask(wish)
        else:
            super().wish(wish)

    def listen(self) -> None:
        """Take in what was asked through the folder, until rank 0 does."""
        with self._saying:
            if not self._handed_over:
                super().listen()

    def train(self) -> End:
        """Have the ranks train; how that ended."""
        recipe = self.folder.recipe()
        count = recipe.compute.processes
        engine.check(recipe)  # what is wrong with it is said once, not by every rank
        self._start_clock()
        with self._saying:
            if self.stopping:
                raise Stopped
            self._handed_over = True
        self.say("running")
        for number in range(count):
            file_of(self.folder, number).unlink(missing_ok=True)
        lost = self.run_ranks(count, Part(self.folder.path, self.resume, self._from, self._deadline))
        try:
            return _end(self.folder, count, lost)
        finally:
            for number in range(count):
                file_of(self.folder, number).unlink(missing_ok=True)


class CarryingByTorchrun(CarryingByRanks):
    """By processes of this machine that torchrun's own agent starts and ends together."""

    def run_ranks(self, count: int, part: Part) -> Mapping[int, str]:
        """Start them and wait."""
        from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
        from torch.distributed.launcher.api import LaunchConfig, elastic_launch

        stay_on_this_machine()
        # they meet through files of their own: torch's store would listen on every interface, without a key
        meeting = Path(tempfile.mkdtemp(prefix="ftkit-ranks-"))
        os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
        os.environ[MEETING] = str(meeting / "ranks")
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=count,
            run_id=self.folder.path.name,
            rdzv_backend="c10d",
            rdzv_endpoint=str(meeting / "agent"),
            rdzv_configs={"store_type": "file"},
            local_addr="127.0.0.1",
            max_restarts=0,
            signals_to_handle="SIGQUIT",  # SIGTERM and Ctrl-C mean Stop here: see `ftkit.runs.worker`
        )
        command = ["-P", "-m", "ftkit.runs.rank", *part.arguments()]
        try:
            elastic_launch(config, sys.executable)(*command)
        except ChildFailedError as failed:
            return {rank: how_it_ended(failure.exitcode) for rank, failure in failed.failures.items()}
        finally:
            shutil.rmtree(meeting, ignore_errors=True)
        return {}


def stay_on_this_machine() -> None:
    """Have gloo talk over the loopback interface: it would look for one by the machine's name."""
    for name, addresses in psutil.net_if_addrs().items():
        if any(one.address == "127.0.0.1" for one in addresses):
            os.environ.setdefault("GLOO_SOCKET_IFNAME", name)


def how_it_ended(code: int) -> str:
    """An exit status in words."""
    if code >= 0:
        return f"ended with status {code}"
    memory = "; often that is the system, out of memory" if code == -9 else ""
    return f"was ended from outside ({signal_name(-code)}{memory})"


def file_of(folder: RunFolder, number: int) -> Path:
    """Where a rank leaves its end."""
    return folder.path / f"rank-{number}.json"


def leave_end(folder: RunFolder, number: int, end: End, *, of_another: bool) -> None:
    """Leave a rank's end; `of_another`: it failed because it could no longer reach another one."""
    found = {"state": end.state, "detail": end.detail, "error": end.error, "of_another": of_another}
    folder.write_json(file_of(folder, number).name, found)


def _left(folder: RunFolder, number: int) -> dict[str, Any] | None:
    try:
        found = json.loads(file_of(folder, number).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and "state" in found else None


def _end(folder: RunFolder, count: int, lost: Mapping[int, str]) -> End:
    """The run's end: rank 0's, or the failure that made the others fail."""
    ends = {number: found for number in range(count) if (found := _left(folder, number)) is not None}
    first = ends.get(0)
    if first is not None and first["state"] != "failed":
        return End(first["state"], first["detail"])
    failed = {number: found for number, found in ends.items() if found["state"] == "failed"}
    own = [number for number, found in failed.items() if not found["of_another"]]
    if own:
        number = own[0]
        error = dict(failed[number]["error"])
        if count > 1:
            error["message"] = f"Process {number} of {count}: {error['message']}"
        return End("failed", None, error)
    silent = [number for number in lost if number not in ends]
    if silent:
        how = "; ".join(f"process {number} of {count} {lost[number]}" for number in silent)
        message = f"A process of the run is gone, and the others ended with it: {how}."
    else:
        message = "The processes of the run ended without saying why."
    trace = next((found["error"]["traceback"] for found in failed.values()), "")
    advice = "Resume goes on from its last checkpoint. process.log in the run folder has what they printed."
    return End("failed", None, {"message": message, "advice": advice, "traceback": trace})
