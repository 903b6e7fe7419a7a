"""Two models' distributions side by side: the gradient, whatever the head, and never more than a slice."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ftkit.fast import distributions
from ftkit.fast.distributions import Outputs, beside
from ftkit.fast.loss import Logits

ROWS, HIDDEN, WORDS = 7, 4, 11
SEEN: list[tuple[int, ...]] = []


def losses(
    student: torch.Tensor, teacher: torch.Tensor, targets: torch.Tensor
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    SEEN.append(tuple(student.shape))
    own, known = student.log_softmax(-1), teacher.log_softmax(-1)
    label = own.gather(1, targets[:, None])[:, 0]
    found = (known.exp() * (known - own)).sum(-1) - 0.3 * label
    return found, {"label": label}


def numbers(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


TARGETS = torch.arange(ROWS) % WORDS
TEACHER = Outputs(numbers(ROWS, 6, seed=4), numbers(WORDS, 6, seed=5), numbers(WORDS, seed=6))


@pytest.fixture(autouse=True)
def small_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributions, "SLICE_BYTES", 1)
    monkeypatch.setattr(distributions, "LEAST_ROWS", 3)
    SEEN.clear()


@pytest.mark.parametrize("logits", [Logits(), Logits(scale=0.7), Logits(scale=1.3, softcap=2.0)], ids=str)
@pytest.mark.parametrize("biased", [False, True])
def test_the_gradient_is_that_of_finite_differences(biased: bool, logits: Logits) -> None:
    given = [numbers(ROWS, HIDDEN, seed=1), numbers(WORDS, HIDDEN, seed=2)]
    given += [numbers(WORDS, seed=3)] if biased else []

    def total(*tensors: torch.Tensor) -> torch.Tensor:
        return beside(Outputs(*tensors, logits=logits), TEACHER, TARGETS, losses)[0]

    assert torch.autograd.gradcheck(total, [one.requires_grad_() for one in given])


def test_the_models_own_logits_will_do() -> None:
    made = numbers(ROWS, WORDS, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda one: beside(Outputs(one), TEACHER, TARGETS, losses)[0], [made])


def test_it_is_plain_autograd_over_all_rows_at_once() -> None:
    states, head = numbers(ROWS, HIDDEN, seed=1).requires_grad_(), numbers(WORDS, HIDDEN, seed=2)
    found, told = beside(Outputs(states, head), TEACHER, TARGETS, losses)
    (gradient,) = torch.autograd.grad(3 * found, states)
    known = TEACHER.states @ TEACHER.head.T + TEACHER.bias  # type: ignore[union-attr]
    wanted, figures = losses(states @ head.T, known, TARGETS)
    (expected,) = torch.autograd.grad(3 * wanted.sum(), states)
    torch.testing.assert_close(found, wanted.sum())
    torch.testing.assert_close(gradient, expected)
    torch.testing.assert_close(told["label"], figures["label"].detach())


def test_no_more_than_a_slice_of_logits_is_there_at_once() -> None:
    beside(Outputs(numbers(ROWS, HIDDEN, seed=1), numbers(WORDS, HIDDEN, seed=2)), TEACHER, TARGETS, losses)
    assert SEEN == [(3, WORDS), (3, WORDS), (1, WORDS)]


@pytest.mark.parametrize("words", [WORDS - 2, WORDS + 3])
def test_vocabularies_of_other_sizes_are_compared_over_what_both_have(words: int) -> None:
    states, head = numbers(ROWS, HIDDEN, seed=1), numbers(words, HIDDEN, seed=2).requires_grad_()
    targets, shared = torch.arange(ROWS), min(words, WORDS)
    found, _ = beside(Outputs(states, head), TEACHER, targets, losses)
    known = (TEACHER.states @ TEACHER.head.T + TEACHER.bias)[:, :shared]  # type: ignore[union-attr]
    wanted, _ = losses((states @ head.T)[:, :shared], known, targets)
    torch.testing.assert_close(found, wanted.sum())
    (gradient,) = torch.autograd.grad(found, head)
    assert gradient[:shared].abs().min() > 0
    assert not gradient[shared:].any()


def test_without_gradients_none_are_made() -> None:
    head = numbers(WORDS, HIDDEN, seed=2).requires_grad_()

    def counted(*rows: Any) -> Any:
        found, told = losses(*rows)
        assert not found.requires_grad
        return found, told

    with torch.no_grad():
        found, _ = beside(Outputs(numbers(ROWS, HIDDEN, seed=1), head), TEACHER, TARGETS, counted)
    assert not found.requires_grad
