"""The table that the matrix prints when it is done: what goes together, in one picture."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from . import architectures

_RESULTS: dict[tuple[str, str], str] = {}


@pytest.fixture
def note() -> Callable[[str, str, str], None]:
    """Write a cell of the table: row, column, what came out."""

    def write(row: str, column: str, text: str) -> None:
        _RESULTS[row, column] = text

    return write


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not _RESULTS:
        return
    rows = list(dict.fromkeys(row for row, _ in _RESULTS))
    columns = list(dict.fromkeys(column for _, column in _RESULTS))
    first = max(map(len, rows))
    widths = [max(len(column), *(len(_RESULTS.get((row, column), "")) for row in rows)) for column in columns]
    terminalreporter.section("what goes together")
    for title, cells in [
        ("", columns),
        *((row, [_RESULTS.get((row, c), "") for c in columns]) for row in rows),
    ]:
        line = "  ".join(cell.rjust(width) for cell, width in zip(cells, widths, strict=True))
        terminalreporter.write_line(f"{title.ljust(first)}  {line}")


@pytest.fixture(scope="session")
def tiny_architecture(
    tiny_model_folder: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, float], Path]:
    """A factory: the folder of a tiny random model of an architecture, with the tiny tokenizer.

    Its second parameter is how far the first weights lie from zero.
    """
    import torch
    import transformers

    made: dict[tuple[str, float], Path] = {}

    def make(name: str, spread: float) -> Path:
        if (name, spread) not in made:
            folder = tmp_path_factory.mktemp(name)
            tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_model_folder())
            tokenizer.save_pretrained(folder)
            kind, sizes = architectures.CONFIGS[name]
            config = getattr(transformers, kind)(
                **sizes,
                vocab_size=len(tokenizer),
                pad_token_id=tokenizer.pad_token_id,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                initializer_range=spread,
            )
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
            model.save_pretrained(folder)
            made[name, spread] = folder
        return made[name, spread]

    return make
