"""Packages that some choices of a Recipe need and that do not come with ftkit: whether they are here, and how
to get them. Nothing is imported to find out.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

FIELDS = (
    "model.quantization",
    "compute.device",
    "compute.backend",
    "compute.dtype",
    "compute.launch",
    "training.optimizer",
)
"""Fields some of whose values not every machine can do: `ftkit.models.capabilities` says which."""
_MODULES = {"pytorch-optimizer": "pytorch_optimizer", "apollo-torch": "apollo_torch"}
"""What a distribution is imported as, where that is another name."""


def missing(package: str, extra: str) -> str:
    """Why a choice that needs `package` cannot be had here, and what to install; empty where it can."""
    if not package or find_spec(_MODULES.get(package, package)) is not None:
        return ""
    return f"needs the package {package}: pip install 'ftkit[{extra}]'"


def older(package: str, least: tuple[int, ...]) -> str:
    """Why a choice that needs a newer `package` cannot be had here; empty where it can."""
    try:
        here = version(package)
    except PackageNotFoundError:
        here = "0"
    numbers = tuple(int(part) for part in here.split("+")[0].split(".")[: len(least)] if part.isdigit())
    return "" if numbers >= least else f"needs {package} {'.'.join(map(str, least))} or newer"
