from __future__ import annotations

from collections import Counter
from contextlib import nullcontext
from itertools import combinations

import pytest
import torch

from dcn.models.detection.shared.fixed_shapes import fixed_shapes
from dcn.models.detection.shared.matcher import IGNORED, NEGATIVE
from dcn.models.detection.shared.sampler import choose, random_keys, sample


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
    positive, negative = (chosen.indices for chosen in sample(matched, 64, 0.25))
    assert (positive.numel(), negative.numel()) == expected
    assert bool((matched[positive] >= 0).all())
    assert bool((matched[negative] == NEGATIVE).all())
    assert positive.unique().numel() == positive.numel()
    assert negative.unique().numel() == negative.numel()


def test_a_generator_decides() -> None:
    matched = _matched(50, 500, 0)
    first, second = (sample(matched, 64, 0.25, torch.Generator().manual_seed(5))[1].indices for _ in range(2))
    other = sample(matched, 64, 0.25, torch.Generator().manual_seed(6))[1].indices
    assert first.tolist() == second.tolist()
    assert first.tolist() != other.tolist()


def test_without_generator_the_global_seed_decides() -> None:
    matched = _matched(50, 500, 0)
    torch.manual_seed(1)
    first = sample(matched, 64, 0.25)[1].indices
    torch.manual_seed(1)
    assert sample(matched, 64, 0.25)[1].indices.tolist() == first.tolist()


@pytest.mark.parametrize("fixed", [False, True], ids=["trimmed", "fixed"])
def test_choice_is_uniform(fixed: bool) -> None:
    """Every pair of the eligible is as likely as every other."""
    generator = torch.Generator().manual_seed(0)
    eligible = torch.tensor([True, False, True, True, True, False, True])
    counts: Counter[tuple[int, ...]] = Counter()
    with fixed_shapes() if fixed else nullcontext():
        for _ in range(2000):
            chosen = choose(eligible, random_keys(7, torch.device("cpu"), generator), 2)
            counts[tuple(chosen.indices.tolist())] += 1
    assert set(counts) == set(combinations((0, 2, 3, 4, 6), 2))
    # 200 expected each; the standard deviation is sqrt(2000 * 0.1 * 0.9) = 13.4.
    assert max(abs(count - 200) for count in counts.values()) < 5 * 13.4


def test_keys_at_the_end_change_nothing() -> None:
    few, many = (random_keys(n, torch.device("cpu"), torch.Generator().manual_seed(2)) for n in (100, 1003))
    assert torch.equal(few, many[:100])
    torch.manual_seed(0)
    random_keys(10, torch.device("cpu"))
    reference = torch.rand(1)
    torch.manual_seed(0)
    random_keys(1000, torch.device("cpu"))
    assert torch.equal(torch.rand(1), reference)


def test_only_the_device_knows_the_limit() -> None:
    keys = torch.tensor([0.3, 0.1, 0.4, 0.0, 0.2])
    chosen = choose(torch.ones(5, dtype=torch.bool), keys, 4, torch.tensor(2))
    assert chosen.indices.tolist() == [0, 2]


@pytest.mark.parametrize("have", [(100, 100, 9), (3, 100, 9), (100, 5, 9), (2, 3, 9), (0, 0, 9), (0, 0, 0)])
def test_fixed_shapes_choose_the_same(have: tuple[int, int, int]) -> None:
    matched = _matched(*have)
    trimmed = sample(matched, 64, 0.25, torch.Generator().manual_seed(5))
    with fixed_shapes():
        fixed = sample(matched, 64, 0.25, torch.Generator().manual_seed(5))
    slots = [min(most, sum(have)) for most in (16, 64)]
    for few, many, count in zip(trimmed, fixed, slots, strict=True):
        assert many.indices.shape == many.valid.shape == (count,)
        assert bool(few.valid.all())
        assert many.indices[many.valid].tolist() == few.indices.tolist()
        assert many.valid.tolist() == sorted(many.valid.tolist(), reverse=True)


def test_everything_is_taken_in_order_where_nothing_is_random() -> None:
    matched = _matched(10, 20, 9)
    positive, negative = sample(matched, 64, 0.25)
    assert positive.indices.tolist() == [i for i, value in enumerate(matched.tolist()) if value >= 0]
    assert negative.indices.tolist() == [i for i, value in enumerate(matched.tolist()) if value == NEGATIVE]
