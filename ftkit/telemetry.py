"""What the libraries below ftkit would send home, switched off before they are imported; yours come first.

`import ftkit` does it. A library that was imported before reads its settings once: the Hub's is told again.
"""

from __future__ import annotations

import os
import sys

OFF = {
    "HF_HUB_DISABLE_TELEMETRY": "1",  # huggingface_hub, and through it transformers, datasets, peft, TRL
    "DISABLE_TELEMETRY": "1",  # the older name of the same
    "DO_NOT_TRACK": "1",  # what many command lines agree on
    "RAY_USAGE_STATS_ENABLED": "0",
    "GRADIO_ANALYTICS_ENABLED": "False",
    "VLLM_NO_USAGE_STATS": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "ANONYMIZED_TELEMETRY": "False",
    "WANDB_ERROR_REPORTING": "false",
}


def switch_off() -> None:
    """Set what is not set."""
    for name, value in OFF.items():
        os.environ.setdefault(name, value)
    constants = sys.modules.get("huggingface_hub.constants")
    if constants is not None and os.environ["HF_HUB_DISABLE_TELEMETRY"] == "1":
        constants.HF_HUB_DISABLE_TELEMETRY = True  # type: ignore[attr-defined]
