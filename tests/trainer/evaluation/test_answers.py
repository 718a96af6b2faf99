"""Counts of answers, against counting by hand."""

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.oracle import Oracle, batches
from trainer.evaluation.answers import Answers, Confusion, answer_rows
from trainer.evaluation.validation import evaluate


def answered(probabilities: torch.Tensor, labels: torch.Tensor, order: list[int], size: int) -> Answers:
    answers = Answers(len(labels) + 3, probabilities.shape[1])  # three records are never answered
    for first in range(0, len(labels), size):
        records = np.array(order[first : first + size])
        answers.take_in(records, labels[records].numpy(), answer_rows(probabilities[records], labels[records]))
    return answers


@settings(max_examples=40)
@given(st.integers(0, 10_000), st.integers(1, 30), st.integers(2, 12), st.integers(1, 9), st.randoms())
def test_errors_are_those_of_validation_in_whatever_order_and_batches(
    seed: int, count: int, classes: int, size: int, random: "np.random.RandomState"
) -> None:
    generator = torch.Generator().manual_seed(seed)
    probabilities = torch.rand(count, classes, generator=generator).softmax(1)
    labels = torch.randint(0, classes, (count,), generator=generator)
    order = list(range(count))
    random.shuffle(order)
    answers = answered(probabilities, labels, order, size)
    expected = evaluate(Oracle(), batches(probabilities, labels, 4))  # type: ignore[arg-type]
    evaluation = answers.evaluation()
    assert (evaluation.top1_error, evaluation.top5_error) == (expected.top1_error, expected.top5_error)
    assert evaluation.images == count
    assert evaluation.loss == pytest.approx(expected.loss, rel=1e-6)
    assert answers.answered.tolist() == list(range(count))
    for record, row in enumerate(probabilities):
        assert answers.classes[record].tolist() == row.argsort(descending=True)[:5].tolist()
        assert answers.probability[record] == row[labels[record]]
    pairs = Counter(
        (int(label), int(row.argmax()))
        for row, label in zip(probabilities, labels, strict=True)
        if int(label) != int(row.argmax())
    )
    wrong = [record for record, row in enumerate(probabilities) if int(row.argmax()) != int(labels[record])]
    falling = sorted(wrong, key=lambda record: -float(probabilities[record].max()))
    mistakes = answers.mistakes(4)
    assert [mistake.record for mistake in mistakes] == falling[:4]
    for mistake in mistakes:
        row = probabilities[mistake.record]
        assert (mistake.label, mistake.taken_for) == (int(labels[mistake.record]), int(row.argmax()))
        assert mistake.probability == float(row.max())
    confusions = answers.confusions(3)
    assert [pair.count for pair in confusions] == [count for _, count in pairs.most_common(3)]
    assert all(pairs[pair.label, pair.taken_for] == pair.count for pair in confusions)
    assert all(pair.of_label == int((labels == pair.label).sum()) for pair in confusions)


def test_confusions_that_are_as_frequent_come_in_the_order_of_classes() -> None:
    probabilities = torch.eye(3)[[1, 0, 2, 2]]
    answers = answered(probabilities, torch.tensor([0, 1, 2, 0]), [3, 2, 1, 0], 2)
    assert answers.confusions(2) == [Confusion(0, 1, 1, 2), Confusion(0, 2, 1, 2)]


def test_a_network_that_answers_no_number_has_answered_and_is_wrong() -> None:
    answers = answered(torch.full((4, 6), float("nan")), torch.arange(4), [0, 1, 2, 3], 2)
    evaluation = answers.evaluation()
    assert (evaluation.images, evaluation.top1_error, evaluation.top5_error) == (4, 1.0, 1.0)


def test_no_answers_are_no_success() -> None:
    with pytest.raises(ValueError, match="no image"):
        Answers(3, 2).evaluation()
