from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dcn.models.inference.cuda_graphs import (
    RECORDINGS,
    Recorded,
    Recording,
    accelerate,
    map_tensors,
    record_cuda_graph,
    tensors_of,
)


@dataclass(frozen=True)
class Pair:
    first: Tensor
    second: Tensor
    name: str = "pair"


class Recorder:
    """Stands in for a CUDA graph: replays by calling the function on the held inputs, into the held output."""

    def __init__(self) -> None:
        self.made, self.replays = 0, 0

    def __call__(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Recording:
        self.made += 1
        inputs = map_tensors(arguments, Tensor.clone)
        output = map_tensors(function(*inputs), torch.zeros_like)

        def replay() -> None:
            self.replays += 1
            for held, result in zip(tensors_of(output), tensors_of(function(*inputs)), strict=True):
                held.copy_(result)

        return Recording(inputs, replay, output)


def _mix(pair: Pair, factor: float) -> Pair:
    return Pair(pair.first * factor + pair.second, pair.second, "mixed")


def _pair(rows: int, value: float) -> Pair:
    return Pair(torch.full((rows, 2), value), torch.ones(rows, 2))


def test_a_call_gives_the_function_of_its_own_arguments() -> None:
    recorder = Recorder()
    recorded = Recorded(_mix, recorder)
    first, second = recorded(_pair(3, 2.0), 10.0), recorded(_pair(3, 5.0), 10.0)
    assert first.first.unique().tolist() == [21.0]  # not overwritten by the second replay
    assert second.first.unique().tolist() == [51.0]
    assert (first.name, recorder.made, recorder.replays) == ("mixed", 1, 2)


@pytest.mark.parametrize(
    "other",
    [
        (_pair(4, 2.0), 10.0),
        (_pair(3, 2.0), 9.0),
        (Pair(torch.ones(3, 2).t().reshape(3, 2), torch.ones(3, 2).double()), 10.0),
    ],
    ids=["shape", "constant", "dtype"],
)
def test_another_kind_of_call_is_recorded_anew(other: tuple[Pair, float]) -> None:
    recorder = Recorder()
    recorded = Recorded(_mix, recorder)
    recorded(_pair(3, 2.0), 10.0)
    result = recorded(*other)
    assert recorder.made == 2
    torch.testing.assert_close(result.first, other[0].first * other[1] + other[0].second)


def test_old_recordings_are_let_go() -> None:
    recorder = Recorder()
    recorded = Recorded(_mix, recorder)
    for rows in [*range(1, RECORDINGS + 2), RECORDINGS + 1, 1]:
        recorded(_pair(rows, 1.0), 1.0)
    assert recorder.made == RECORDINGS + 2  # the first was let go and is recorded again; the last was kept
    assert len(recorded._recordings) == RECORDINGS


def test_a_graph_needs_a_gpu() -> None:
    with pytest.raises(ValueError, match="cuda_graph: expected images on a GPU, got them on cpu"):
        record_cuda_graph(_mix, (_pair(1, 1.0), 1.0))


class Scorer(nn.Module):
    """The smallest network with a fixed-size part."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)

    def scores(self, pixels: Tensor) -> Tensor:
        return self.layer(pixels).relu()


def test_a_network_keeps_its_function(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda function, **_: lambda *a: function(*a) + 0)
    model = Scorer()
    reference = model.scores(torch.ones(3, 2))
    assert "scores" not in accelerate(model).__dict__
    torch.testing.assert_close(accelerate(model, compiled=True).scores(torch.ones(3, 2)), reference)  # type: ignore[operator]  # nn.Module attributes are untyped
    with pytest.raises(ValueError, match="expected a model with `detect` or `scores`, got Linear"):
        accelerate(nn.Linear(1, 1), cuda_graph=True)
