"""What many tests share: the starter model, loaded once a session, and tiny local models that cost little."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from ftkit.models import LoadedModel

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# runs of the tests queue among themselves, not with what else trains on this machine
os.environ["FTKIT_QUEUE"] = tempfile.mkdtemp(prefix="ftkit-queue-")

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TINY_CORPUS = (
    "Extract the order as JSON.",
    "Anna from Lisbon needs four lamps by Monday.",
    '{"name": "Anna", "item": "lamp", "quantity": 4, "city": "Lisbon", "day": "Monday"}',
    "What is your name? I am Marlow, and I keep the light.",
    "The quick brown fox jumps over the lazy dog, twice, while it rains.",
    "system user assistant",
)

LONGEST = ("notebooks", "tests/runs", "tests/cli", "tests/train")
"""What takes longest goes first, so that two workers end together."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Where several workers share the tests, what takes longest goes first."""

    def place(item: pytest.Item) -> int:
        path = item.path.relative_to(config.rootpath).as_posix()
        return next((i for i, start in enumerate(LONGEST) if path.startswith(start)), len(LONGEST))

    if "PYTEST_XDIST_WORKER" in os.environ:
        items.sort(key=place)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With several workers (-n 2) a file's tests stay together, and so do all tests of the browser."""
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            return "browser" if file.startswith("tests/browser/") else file

    config.option.loadscopereorder = False  # they are in order already
    return Scheduling(config, log)


@pytest.fixture(scope="session")
def starter() -> LoadedModel:
    """The starter model, loaded once for the whole session: leave its weights as they are."""
    from ftkit.models import load_model
    from ftkit.recipe import Compute, Model

    return load_model(Model(), Compute())


@pytest.fixture(scope="session")
def starter_tokenizer() -> Any:
    """The starter model's own tokenizer, without its weights."""
    from transformers import AutoTokenizer

    from ftkit.models import resolve
    from ftkit.recipe import Model

    return AutoTokenizer.from_pretrained(resolve(Model()).path)


@pytest.fixture(scope="session")
def tiny_model_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A factory: `tiny_model_folder()` is a folder with a tiny random Llama and its own ChatML tokenizer.

    Keywords change the model's config (`hidden_size=64`) or the tokenizer's `chat_template` (None: no
    template). The same keywords give the same folder: copy it before you write into it.
    """
    made: dict[str, Path] = {}

    def make(*, chat_template: str | None = CHATML, **config: Any) -> Path:
        key = repr((chat_template, sorted(config.items())))
        if key not in made:
            folder = tmp_path_factory.mktemp("tiny")
            _save_tiny_model(folder, chat_template, config)
            made[key] = folder
        return made[key]

    return make


@pytest.fixture(scope="session")
def shared_data() -> Callable[[str], Path]:
    """A factory: the path of a file of ../shared/data; the test is skipped where that folder is absent."""

    def find(name: str) -> Path:
        path = SHARED_DATA / name
        if not path.exists():
            pytest.skip(f"{path} is not on this machine")
        return path

    return find


def _save_tiny_model(folder: Path, chat_template: str | None, config: dict[str, Any]) -> None:
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(TINY_CORPUS, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<|im_start|>", eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    tokenizer.chat_template = chat_template
    tokenizer.save_pretrained(folder)

    settings: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "tie_word_embeddings": True,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LlamaForCausalLM(LlamaConfig(**(settings | config)))
    model.save_pretrained(folder)
