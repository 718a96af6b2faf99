"""Validation errors, against counting them by hand."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from common.wire.slab import Replaced
from tests.support.oracle import Oracle, batches, fed
from trainer.evaluation.validation import evaluate


def errors(probabilities: Tensor, labels: Tensor, size: int = 4) -> tuple[float, float | None, float]:
    result = evaluate(Oracle(), batches(probabilities, labels, size))  # type: ignore[arg-type]
    assert result.images == len(labels)
    return result.top1_error, result.top5_error, result.loss


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 30), st.integers(2, 20), st.integers(1, 9))
def test_errors_are_those_counted_by_sorting(seed: int, count: int, classes: int, size: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    probabilities = torch.rand(count, classes, generator=generator).softmax(1)
    labels = torch.randint(0, classes, (count,), generator=generator)
    order = probabilities.argsort(1, descending=True)
    top1 = sum(int(label) != int(row[0]) for row, label in zip(order, labels, strict=True))
    top5 = sum(int(label) not in row[:5].tolist() for row, label in zip(order, labels, strict=True))
    loss = -sum(math.log(float(p[label])) for p, label in zip(probabilities, labels, strict=True)) / count
    top5_error = top5 / count if classes > 5 else None  # among five or fewer each is among the five likeliest
    top1_error, *others = errors(probabilities, labels, size)
    assert (top1_error, others[0]) == (top1 / count, top5_error)
    assert others[1] == pytest.approx(loss, rel=1e-6)


def test_a_network_that_knows_nothing_is_not_taken_for_one_that_is_right() -> None:
    labels = torch.arange(10)
    assert errors(torch.full((10, 10), 0.1), labels)[:2] == (1.0, 1.0)
    assert errors(torch.full((10, 10), float("nan")), labels)[:2] == (1.0, 1.0)


def test_a_place_where_another_record_stands_in_is_left_out() -> None:
    labels = torch.arange(10)
    right = torch.eye(10)
    wrong = right.roll(1, 0)
    first = fed(0, right[:6], labels[:6])
    stand_ins = (Replaced(7, 1, "cut off"), Replaced(9, 2, "cut off"))
    second = fed(6, torch.where(labels[:, None] % 2 == 1, wrong, right)[6:], labels[6:], stand_ins)
    result = evaluate(Oracle(), [first, second])  # type: ignore[arg-type]
    assert (result.images, result.top1_error, result.loss) == (8, 0.0, 0.0)


def test_a_probability_that_underflowed_costs_much_but_not_everything() -> None:
    _, _, loss = errors(torch.tensor([[1.0, 0.0]]), torch.tensor([1]))
    assert 80 < loss < 110


def test_no_pictures_are_no_success() -> None:
    with pytest.raises(ValueError, match="no image"):
        evaluate(Oracle(), iter([]))  # type: ignore[arg-type]
