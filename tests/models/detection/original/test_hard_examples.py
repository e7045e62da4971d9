from __future__ import annotations

import numpy as np
import pytest
import torch

from dcn.models.detection.original.hard_examples import hard_examples


def _losses(logits: np.ndarray, deltas: np.ndarray, labels: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Region by region, by definition."""
    result = []
    for scores, moves, label, target in zip(logits, deltas, labels, expected, strict=True):
        probability = np.exp(scores[label]) / np.exp(scores).sum()
        loss = -np.log(probability + 1e-14)
        if label > 0:
            distance = np.abs(moves - target)
            loss += np.where(distance < 1, 0.5 * distance**2, distance - 0.5).sum()
        result.append(loss)
    return np.array(result)


@pytest.mark.parametrize("count", [1, 5, 19])
def test_the_regions_with_the_largest_losses_stay(count: int) -> None:
    random = np.random.default_rng(3)
    logits, deltas, expected = random.normal(0, 2, (20, 4)), random.normal(0, 1, (20, 4)), random.normal(0, 1, (20, 4))
    labels = random.integers(0, 4, 20)
    scores, moves, classes, targets = map(torch.from_numpy, (logits, deltas, labels, expected))
    kept = hard_examples(scores, moves, classes, targets, count)
    hardest = set(np.argsort(-_losses(logits, deltas, labels, expected))[:count].tolist())
    assert kept.tolist() == [int(label) if index in hardest else -1 for index, label in enumerate(labels)]


@pytest.mark.parametrize("count", [2, 3])
def test_few_regions_all_stay(count: int) -> None:
    labels = torch.tensor([0, 1])
    assert hard_examples(torch.zeros(2, 3), torch.zeros(2, 4), labels, torch.zeros(2, 4), count).tolist() == [0, 1]


def test_impossible_and_endless_values() -> None:
    """A probability of 0 costs 32.2 (the guard 1e-14); the deltas of background, here infinite, cost nothing."""
    logits = torch.tensor([[0.0, 200.0], [0.0, 20.0], [0.0, -200.0]])
    deltas = torch.zeros(3, 4)
    deltas[1] = float("inf")
    expected = torch.zeros(3, 4)
    expected[2, 0] = 1.0
    kept = hard_examples(logits, deltas, torch.tensor([0, 0, 1]), expected, 2)
    assert kept.tolist() == [0, -1, 1]


def test_what_is_left_out_already_stays_out() -> None:
    logits = torch.tensor([[0.0, 9.0], [0.0, 0.0], [0.0, 1.0], [torch.nan, torch.nan]])
    labels = torch.tensor([-1, 0, 0, -1])
    assert hard_examples(logits, torch.zeros(4, 4), labels, torch.zeros(4, 4), 1).tolist() == [-1, -1, 0, -1]
    assert hard_examples(logits, torch.zeros(4, 4), labels, torch.zeros(4, 4), 3).tolist() == [-1, 0, 0, -1]
