from __future__ import annotations

import pytest
import torch

from dcn.models.detection.matcher import IGNORED, NEGATIVE
from dcn.models.detection.sampler import choose, sample


def _matched(positive: int, negative: int, ignored: int) -> torch.Tensor:
    values = [3] * positive + [NEGATIVE] * negative + [IGNORED] * ignored
    order = torch.randperm(len(values), generator=torch.Generator().manual_seed(0))
    return torch.tensor(values, dtype=torch.int64)[order]


@pytest.mark.parametrize(
    ("have", "expected"),
    [((100, 100, 9), (16, 48)), ((3, 100, 9), (3, 61)), ((100, 5, 9), (16, 5)), ((0, 0, 9), (0, 0))],
    ids=["many", "few-positives", "few-negatives", "all-ignored"],
)
def test_counts_and_kinds(have: tuple[int, int, int], expected: tuple[int, int]) -> None:
    matched = _matched(*have)
    positive, negative = sample(matched, 64, 0.25)
    assert (positive.numel(), negative.numel()) == expected
    assert bool((matched[positive] >= 0).all())
    assert bool((matched[negative] == NEGATIVE).all())
    assert positive.unique().numel() == positive.numel()
    assert negative.unique().numel() == negative.numel()


def test_a_generator_decides() -> None:
    matched = _matched(50, 500, 0)
    first, second = (sample(matched, 64, 0.25, torch.Generator().manual_seed(5)) for _ in range(2))
    other = sample(matched, 64, 0.25, torch.Generator().manual_seed(6))
    torch.testing.assert_close(first, second)
    assert first[1].tolist() != other[1].tolist()


def test_without_generator_the_global_seed_decides() -> None:
    torch.manual_seed(1)
    first = choose(torch.arange(100), 10)
    torch.manual_seed(1)
    assert choose(torch.arange(100), 10).tolist() == first.tolist()


def test_choice_is_uniform() -> None:
    generator = torch.Generator().manual_seed(0)
    counts = torch.zeros(10)
    for _ in range(2000):
        counts[choose(torch.arange(10), 3, generator)] += 1
    # 600 expected each; the standard deviation is sqrt(2000 * 0.3 * 0.7) = 20.5.
    assert counts.sub(600).abs().max() < 5 * 20.5
