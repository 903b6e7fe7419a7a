"""Models: find, fetch, load, adapt; what they need of memory and what the machine has.

Importing this package loads neither torch nor transformers; its functions do when they need them.
"""

from ftkit.models.adapters import (
    ParameterCount,
    apply_method,
    base_model,
    count_parameters,
    load_adapter,
    save_adapter,
)
from ftkit.models.catalog import CatalogEntry
from ftkit.models.device import Device, probe
from ftkit.models.estimate import MemoryEstimate, estimate
from ftkit.models.fitting import Fit, fit_to_memory
from ftkit.models.gate import Gate
from ftkit.models.load import LoadedModel, load_model, load_tokenizer, on_this_machine
from ftkit.models.pickled import convert_weights
from ftkit.models.scorer import Scorer, load_scorer
from ftkit.models.source import ModelSource, resolve

__all__ = [
    "CatalogEntry",
    "Device",
    "Fit",
    "Gate",
    "LoadedModel",
    "MemoryEstimate",
    "ModelSource",
    "ParameterCount",
    "Scorer",
    "apply_method",
    "base_model",
    "convert_weights",
    "count_parameters",
    "estimate",
    "fit_to_memory",
    "load_adapter",
    "load_model",
    "load_scorer",
    "load_tokenizer",
    "on_this_machine",
    "probe",
    "resolve",
    "save_adapter",
]
