"""Import transformers and call it without its progress bars and advice reaching the notebook.

Bars that a worker thread prints land in whatever cell ran last. Reasons to stop are raised as errors; what is
left is silenced for the length of the call, and the person's own settings come back after it.
"""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterator
from logging import ERROR, getLogger

from ftkit.telemetry import switch_off

_ENVIRONMENT = {
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
}

_LOUD = ("torchao", "torch.utils._pytree")
"""Loggers that tell of kernels for other GPUs when PEFT imports torchao, where that is installed."""


def prepare_environment() -> None:
    """Settings that the Hugging Face libraries read once, when they are first imported; yours come first."""
    switch_off()
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Call transformers without bars, warnings and advice."""
    prepare_environment()
    from transformers.utils import logging

    loud = [(log, log.level) for log in map(getLogger, _LOUD)]
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    for log, _ in loud:
        log.setLevel(ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for log, level in loud:
            log.setLevel(level)
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
