"""Checkpoints are whole, damaged ones are passed over, and the only sound one is never deleted."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ftkit.train import training_state
from ftkit.train.checkpoints import Checkpoints
from ftkit.train.watch import LossWatch


def write(checkpoints: Checkpoints, step: int, eval_loss: float | None = None) -> Path:
    with checkpoints.writing(step, eval_loss) as work:
        (work / "weights").write_bytes(bytes(100) + str(step).encode())
        (work / "state").write_text("x" * step)
    return checkpoints.folder / f"checkpoint-{step}"


def steps(checkpoints: Checkpoints) -> list[int]:
    return [one.step for one in checkpoints.all()]


def test_the_newest_are_kept(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep_last=2)
    for step in (5, 10, 15, 20):
        write(checkpoints, step)
    assert steps(checkpoints) == [15, 20]
    assert not list(tmp_path.glob(".*")), "nothing hidden is left"


def test_the_best_and_every_so_many_are_kept_too(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep_last=1, keep_best=True, keep_every=20)
    for step, loss in ((5, 3.0), (10, 1.0), (15, 2.0), (20, 2.5), (25, None), (30, 1.5)):
        write(checkpoints, step, loss)
    assert steps(checkpoints) == [10, 20, 30]


@pytest.mark.parametrize("file", ["weights", "state", "manifest.json"])
@pytest.mark.parametrize("damage", ["cut", "flip", "gone", "empty"])
def test_a_damaged_checkpoint_is_passed_over_and_named(tmp_path: Path, file: str, damage: str) -> None:
    checkpoints = Checkpoints(tmp_path)
    write(checkpoints, 5)
    newest = write(checkpoints, 10) / file
    content = bytearray(newest.read_bytes())
    if damage == "gone":
        newest.unlink()
    elif damage == "empty":
        newest.write_bytes(b"")
    elif damage == "cut":
        newest.write_bytes(content[: len(content) // 2])
    else:
        content[len(content) // 3] ^= 0xFF
        newest.write_bytes(content)
    found, faults = checkpoints.newest()
    assert found is not None
    assert found.step == 5
    assert faults[0].startswith("checkpoint-10: ")
    write(checkpoints, 15)
    assert 15 in steps(checkpoints)


def test_the_only_sound_one_survives_damaged_newer_ones(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep_last=1)
    write(checkpoints, 5)
    for step in (10, 15):
        (tmp_path / f"checkpoint-{step}").mkdir()
    checkpoints.prune()
    assert 5 in steps(checkpoints)
    found, faults = checkpoints.newest()
    assert found is not None
    assert (found.step, len(faults)) == (5, 2)


def test_a_copied_checkpoint_under_another_name_is_not_taken_for_it(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    write(checkpoints, 5).rename(tmp_path / "checkpoint-50")
    assert checkpoints.newest() == (None, ["checkpoint-50: its manifest is another checkpoint's"])


def test_an_error_while_writing_leaves_the_old_ones_alone(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep_last=1)
    write(checkpoints, 5)

    def fail() -> None:
        with checkpoints.writing(10) as work:
            (work / "weights").write_text("half")
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        fail()
    assert steps(checkpoints) == [5]
    assert checkpoints.newest()[1] == []


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.integers() | st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=12,
)


@settings(max_examples=50, deadline=None)
@given(plain)
def test_state_comes_back_as_it_was(tmp_path_factory: pytest.TempPathFactory, value: object) -> None:
    folder = tmp_path_factory.mktemp("state")
    training_state.save({"value": value}, folder)
    again = training_state.load(folder)["value"]
    assert again == value
    assert repr(again) == repr(value), "types too"


def test_tensors_come_back_bit_by_bit_shared_or_not(tmp_path: Path) -> None:
    shared = torch.randn(4, 6)
    state = {
        "state": {0: {"step": torch.tensor(3.0), "m": shared, "v": shared.t()}, 1: {"m": shared.bfloat16()}}
    }
    training_state.save(state, tmp_path)
    again = training_state.load(tmp_path)["state"]
    assert torch.equal(again[0]["v"], shared.t())
    assert again[1]["m"].dtype == torch.bfloat16
    assert again[0]["step"] == 3


def test_a_state_is_written_from_where_it_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: dict[str, torch.Tensor] = {}
    monkeypatch.setattr(training_state, "save_file", lambda tensors, *_, **__: written.update(tensors))
    one, other = torch.randn(3, 4), torch.randn(5)
    training_state.save({"state": [one, other, one]}, tmp_path)
    places = [tensor.data_ptr() for tensor in written.values()]
    assert places[:2] == [one.data_ptr(), other.data_ptr()]
    assert places[2] != places[0]
    assert torch.equal(written["2"], one)


def test_what_is_not_plain_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="object cannot be kept"):
        training_state.save({"x": object()}, tmp_path)


def test_random_generators_go_on_where_they_were(tmp_path: Path) -> None:
    import random

    def draw() -> tuple[float, float, float]:
        return random.random(), float(np.random.rand()), float(torch.rand(()))

    draw()
    training_state.save(training_state.random_state(), tmp_path)
    wanted = draw()
    draw()
    training_state.restore_random_state(training_state.load(tmp_path))
    assert draw() == wanted


@pytest.mark.parametrize(
    ("losses", "norm", "said"),
    [
        ([2.0, float("nan")], 1.0, "became nan at step 2"),
        ([2.0, 1.5], float("inf"), "norm became inf at step 1"),
        ([2.0] * 5 + [1.0] * 5 + [9.0] * 5, 1.0, "runs away"),
    ],
)
def test_a_bad_loss_is_named(losses: list[float], norm: float, said: str) -> None:
    watch = LossWatch()
    found = [text for step, loss in enumerate(losses, 1) if (text := watch.look(step, loss, norm))]
    assert said in found[0]


def test_a_scale_that_is_too_large_is_lowered_before_a_gradient_is_called_bad() -> None:
    watch = LossWatch()
    assert not any(watch.look(step, 2.0, math.inf, scaled=True) for step in range(1, 20))
    assert not watch.look(20, 2.0, 1.0, scaled=True)
    said = [text for step in range(21, 60) if (text := watch.look(step, 2.0, math.nan, scaled=True))]
    assert "at step 50" in said[0]


def test_a_noisy_loss_is_none_of_that() -> None:
    watch, chance = LossWatch(), np.random.default_rng(0)
    for step in range(1, 2000):
        assert not watch.look(step, 6.0 * 0.998**step + chance.normal(0, 0.4), 1.0)


def test_only_what_is_good_counts_as_good() -> None:
    watch = LossWatch()
    for step, loss in enumerate([3.0, 2.0, 1.0, 4.0, 8.0, 9.0], 1):
        watch.look(step, loss, None)
    assert watch.last_good == 3
