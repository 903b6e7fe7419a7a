"""A run carried out by Ray Train's workers: on the cluster that `RAY_ADDRESS` names, else on this machine.

The workers of a cluster must see the run folder, the data and the model under the same paths. On this machine
Ray is started for the run alone, without its dashboard and its telemetry, and ends with it.
"""

from __future__ import annotations

import os
import shutil
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

from ftkit.errors import RunError
from ftkit.runs.rank import take_part
from ftkit.runs.ranks import CarryingByRanks, Part, stay_on_this_machine

OBJECT_STORE_BYTES = 100_000_000
"""Ray's shared memory on this machine: nothing of the run goes through it."""

_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_raylet_start_wait_time_s": "180",  # a machine that is busy needs more than the 30 s that it has
}


class CarryingByRay(CarryingByRanks):
    """By workers of Ray Train."""

    def run_ranks(self, count: int, part: Part) -> Mapping[int, str]:
        """Start them and wait."""
        if find_spec("ray") is None:
            raise RunError(
                "compute.launch is 'ray', and Ray is not installed.",
                'Install it with: pip install "ftkit[ray]"',
            )
        _settle()
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchConfig, TorchTrainer

        from ftkit.models.load import pick_device

        cuda = pick_device(self.folder.recipe().compute).kind == "cuda"
        leftovers = self.folder.path / ".ray"
        with _ray(count):
            trainer = TorchTrainer(
                _work,
                train_loop_config={"part": part},
                torch_config=TorchConfig(backend="nccl" if cuda else "gloo"),
                scaling_config=ScalingConfig(num_workers=count, use_gpu=cuda),
                run_config=RunConfig(
                    name=self.folder.path.name,
                    storage_path=str(leftovers),
                    failure_config=FailureConfig(max_failures=0),
                ),
            )
            try:
                trainer.fit()
            except Exception as error:  # noqa: BLE001  the ranks' own ends say more, where they left one
                failures: Mapping[int, Any] = getattr(error, "worker_failures", {})
                return {rank: f"ended ({type(why).__name__})" for rank, why in failures.items()}
            finally:
                shutil.rmtree(leftovers, ignore_errors=True)
        return {}


def _settle() -> None:
    """What Ray reads while it is imported."""
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    if "RAY_ADDRESS" not in os.environ:  # by its name for other systems; here, too, it means 127.0.0.1 only
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"


def _work(config: dict[str, Any]) -> None:
    """What a worker does."""
    if not take_part(config["part"]):
        raise RuntimeError("this worker ended before the last step: the others end, too")


@contextmanager
def _ray(count: int) -> Iterator[None]:
    """Ray, connected to its cluster or started here; SIGTERM goes on to mean Stop."""
    import ray

    in_main = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGTERM)
    if "RAY_ADDRESS" in os.environ:
        ray.init(log_to_driver=False)
    else:
        stay_on_this_machine()
        ray.init(
            address="local",
            num_cpus=count + 1,
            include_dashboard=False,
            log_to_driver=False,
            object_store_memory=OBJECT_STORE_BYTES,
        )
    try:
        if in_main:
            signal.signal(signal.SIGTERM, handler)
        yield
    finally:
        ray.shutdown()
