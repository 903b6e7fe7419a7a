"""A tiny model with an adapter that changes its answers, and a stand-in for a run that holds it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ftkit.models import LoadedModel, apply_method, load_model
from ftkit.recipe import Compute, FullFineTuning, LoRA, Method, Model, Recipe


@pytest.fixture
def tiny(tiny_model_folder: Callable[..., Path]) -> Callable[..., LoadedModel]:
    """A factory: a tiny float32 model, adapted as asked; `method=None` leaves it as it is."""
    import torch

    lora = LoRA(rank=4)

    def make(method: Method | None = lora, **config: Any) -> LoadedModel:
        # weights large enough that what a model says depends on all that it has read
        folder = tiny_model_folder(tie_word_embeddings=False, initializer_range=0.3, **config)
        loaded = load_model(Model(source=str(folder)), Compute(device="cpu", dtype="float32", threads=1))
        # and it talks until it is cut off, unless a test names a token that ends a reply
        loaded.model.config.eos_token_id = loaded.model.generation_config.eos_token_id = None
        loaded.tokenizer.eos_token = None
        if method is not None:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(1)
                apply_method(loaded, method)
                for name, parameter in loaded.model.named_parameters():
                    if "lora_B" in name:
                        torch.nn.init.normal_(parameter, std=0.5)
        return loaded

    return make


@pytest.fixture
def loaded(tiny: Callable[..., LoadedModel]) -> LoadedModel:
    """The tiny model with a LoRA adapter."""
    return tiny()


@pytest.fixture
def fully_trained(tiny: Callable[..., LoadedModel]) -> LoadedModel:
    """The tiny model set up for full fine-tuning."""
    return tiny(FullFineTuning())


@pytest.fixture
def run_of() -> Callable[..., Any]:
    """A factory: what a session needs of a run, around a loaded model."""

    def make(loaded: LoadedModel | None, recipe: Recipe | None = None, **changes: Any) -> Any:
        run = SimpleNamespace(
            name="demo",
            recipe=recipe or Recipe(),
            loaded=loaded,
            loaded_step=None,
            active=False,
            status="finished",
            progress=SimpleNamespace(step=3, stage="Training"),
        )
        run.open_model = lambda progress=None: run.loaded
        vars(run).update(changes)
        return run

    return make
