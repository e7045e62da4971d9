from __future__ import annotations

import time

import pytest
import torch
from torch import Tensor, nn

from dcn.analysis.clock import PartTimer, Times, interleaved, now
from dcn.models.parts import ModelPart

CPU = torch.device("cpu")


class Sleeper(nn.Module):
    """Takes the time it is told."""

    def forward(self, x: Tensor) -> Tensor:
        time.sleep(0.02)
        return x

    def other(self) -> None:
        time.sleep(0.01)


def test_median_and_percentiles() -> None:
    times = Times((5.0, 1.0, 3.0, 2.0, 4.0, 6.0))
    assert times.median == 3.5
    assert times.spread == (2.0, 5.0)
    assert Times((2.0,)).spread == (2.0, 2.0)


def test_calls_take_turns() -> None:
    order: list[str] = []
    times = interleaved([lambda: order.append("a"), lambda: order.append("b")], CPU, repetitions=2, warm_up=1)
    assert order == ["a", "b", "a", "b", "a", "b"]
    assert [len(one.seconds) for one in times] == [2, 2]


def test_parts_are_added_up_by_label_and_released() -> None:
    model, timer = nn.Sequential(Sleeper(), Sleeper()), PartTimer(CPU)
    first = model[0]
    assert isinstance(first, Sleeper)
    with timer.watching([ModelPart("a", model[0]), ModelPart("a", model[1]), ModelPart("b", model[0], "other")]):
        model(torch.ones(1))
        first.other()
    start = now(CPU)
    model(torch.ones(1))
    assert now(CPU) - start >= 0.04
    # Sleeping never takes less than asked for; the two were called once each inside.
    assert 0.04 <= timer.seconds["a"] < 1
    assert timer.seconds["b"] == pytest.approx(0.01, abs=0.2)
    assert "forward" not in first.__dict__
