from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch

from dcn.models.detection.shared.fixed_shapes import fixed_shapes, shapes_are_fixed
from dcn.models.detection.shared.slots import in_order, joined, slots_of


def test_shapes_are_fixed_only_inside() -> None:
    value = torch.zeros(1)
    assert not shapes_are_fixed(value)
    with fixed_shapes():
        assert shapes_are_fixed(value)
    assert not shapes_are_fixed(value)


@pytest.mark.parametrize("forced", [False, True], ids=["trimmed", "fixed"])
def test_slots(forced: bool) -> None:
    chosen = torch.tensor([False, True, True, False, True])
    values = torch.arange(5.0)[:, None] * torch.tensor([1.0, 10.0])
    with fixed_shapes() if forced else nullcontext():
        slots = slots_of(chosen)
        first, twice = slots.first(2), joined(slots, slots).first(9)
        ordered = in_order(torch.tensor([4, 0, 2]), torch.tensor([True, False, True]))
    assert slots.valid.numel() == (5 if forced else 3)
    assert slots.indices[slots.valid].tolist() == [1, 2, 4]
    assert first.indices.tolist() == [1, 2]
    assert twice.indices[twice.valid].tolist() == [1, 2, 4, 1, 2, 4]
    assert twice.valid.tolist() == [True] * 6 + [False] * (3 if forced else 0)
    assert ordered.indices[ordered.valid].tolist() == [2, 4]
    assert slots.of(values, -1)[slots.valid].tolist() == [[1, 10], [2, 20], [4, 40]]
    assert bool((slots.of(values, -1)[~slots.valid] == -1).all())
    assert slots.spread(slots.of(values, 99), 5, 7).tolist() == [[7, 7], [1, 10], [2, 20], [7, 7], [4, 40]]


@pytest.mark.parametrize("forced", [False, True], ids=["trimmed", "fixed"])
def test_no_slots(forced: bool) -> None:
    with fixed_shapes() if forced else nullcontext():
        slots = slots_of(torch.zeros(0, dtype=torch.bool)).first(3)
    assert slots.of(torch.zeros(0, 4)).shape == (0, 4)
    assert slots.spread(torch.zeros(0, 4), 2, 1).tolist() == [[1] * 4] * 2
