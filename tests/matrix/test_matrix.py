"""Every objective, method and architecture: it trains, saves, loads again, and gives the same logits.

A cell of the printed table is the share of the loss that is left; `no` where something cannot be had.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from ftkit.errors import ModelError, RecipeError
from ftkit.models import base_model, load_adapter, save_adapter
from ftkit.recipe import Adapter

from . import cells, table


@pytest.mark.parametrize("cell", cells.cells(), ids=str)
def test_it_trains_saves_and_loads_again(
    cell: cells.Cell,
    tiny_architecture: Callable[[str, float], Path],
    tiny_model_folder: Callable[..., Path],
    note: Callable[[str, str, str], None],
    tmp_path: Path,
) -> None:
    if cell.objective in ("grpo", "rloo"):
        pytest.importorskip("trl")
    folder = tiny_architecture(cell.architecture, cell.spread)
    row = f"{cell.objective} {cell.method}"
    teacher = tiny_model_folder(hidden_size=48, intermediate_size=80, initializer_range=0.1)
    if cell.obstacle:
        with pytest.raises((ModelError, RecipeError)):
            cells.prepared(cell.recipe(folder, teacher))
        note(row, cell.architecture, "no")
        return
    recipe = cell.recipe(folder, teacher)
    loaded, before = cells.prepared(recipe)
    losses = cells.train(loaded, recipe, tmp_path)
    note(row, cell.architecture, f"{losses[-1] / losses[0]:.2f}")
    assert losses[-1] <= cells.FALLEN * losses[0]
    after = cells.scores(loaded)
    assert (after - before).abs().max() > 0.01
    saved = save_adapter(loaded, tmp_path / "saved")
    if isinstance(recipe.method, Adapter):
        again = cells.load(recipe)
        load_adapter(again, saved)
        for one in (loaded, again):
            with base_model(one) as model:
                torch.testing.assert_close(cells.scores(one, model), before, atol=2e-5, rtol=1e-5)
    else:
        again = cells.load(recipe, saved)
    torch.testing.assert_close(cells.scores(again), after, atol=2e-5, rtol=1e-5)


def test_the_table_is_made_of_the_cells() -> None:
    assert table.PATH.read_text(encoding="utf-8") == table.text(), "python -m tests.matrix.table"
