"""Runs: the folder that is their truth, their events, and the handle to watch and steer them."""

from ftkit.runs.run import Run, attach, list_runs, start
from ftkit.runs.summary import Progress, RunFailure

__all__ = ["Progress", "Run", "RunFailure", "attach", "list_runs", "start"]
