"""Multi-scale deformable attention exported to ONNX and run by onnxruntime."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from dcn.nn import MultiScaleDeformableAttention
from dcn.ops import ms_deform_attn
from tests.export.onnx_runs import check
from tests.ops.attn_cases import CASES, Arguments, Attn, make


class _Net(nn.Module):
    def forward(self, value: Tensor, shapes: Tensor, starts: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
        return ms_deform_attn(value, shapes, starts, locations, weights)


class _FixedLevels(nn.Module):
    """Levels known when the model is exported, as in most detectors."""

    def __init__(self, levels: tuple[tuple[int, int], ...]) -> None:
        super().__init__()
        self.levels = levels

    def forward(self, value: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
        return ms_deform_attn(value, self.levels, None, locations, weights)


def _float(args: Arguments) -> Arguments:
    return args.to(torch.float32)


@pytest.mark.parametrize("name", ["awkward", "one-of-each", "one-level", "usual"])
def test_values(name: str, tmp_path: Path) -> None:
    check(_Net(), tmp_path / "model.onnx", _float(make(CASES[name])))


def test_levels_as_constants(tmp_path: Path) -> None:
    args = _float(make(CASES["awkward"]))
    check(_FixedLevels(CASES["awkward"].levels), tmp_path / "model.onnx", [args.value, args.locations, args.weights])


def test_other_batches_queries_and_sizes_of_levels(tmp_path: Path) -> None:
    dynamic = [{0: "n", 1: "s"}, {}, {}, {0: "n", 1: "q"}, {0: "n", 1: "q"}]
    case = CASES["awkward"]
    others = [
        replace(case, batch=3, queries=9),
        replace(case, levels=((6, 5), (2, 9), (4, 4))),
        replace(case, levels=((1, 1), (2, 1), (1, 9)), batch=1, queries=1),
    ]
    check(_Net(), tmp_path / "model.onnx", _float(make(case)), dynamic, [_float(make(other)) for other in others])


def test_wild_locations_and_unused_weights(tmp_path: Path) -> None:
    case = Attn(((4, 4),), batch=1, queries=4, heads=1, channels=3, points=2)
    args = _float(make(case))
    locations, weights = torch.full_like(args.locations, 0.3), args.weights.clone()
    for query, wild in enumerate((float("nan"), float("inf"), -1e30)):
        locations[0, query, 0, 0, 0, query % 2] = wild
        weights[0, query, 0, 0, 0] = float("nan")
    wild_args = Arguments(*args[:3], locations, weights)
    assert ms_deform_attn(*wild_args).isfinite().all()
    check(_Net(), tmp_path / "model.onnx", wild_args)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64], ids=str)
def test_other_types(dtype: torch.dtype, tmp_path: Path) -> None:
    args = make(CASES["awkward"], dtype=torch.float32).to(dtype)
    tolerance = 2e-2 if dtype == torch.float16 else 1e-5
    check(_Net(), tmp_path / "model.onnx", args, tolerance=tolerance)


@pytest.mark.parametrize("numbers", [2, 4])
def test_the_layer_with_a_mask(numbers: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    layer = MultiScaleDeformableAttention(16, 2, 4, 3)
    nn.init.normal_(layer.attention_weights.weight)
    nn.init.normal_(layer.sampling_offsets.weight, std=0.3)
    shapes, starts = torch.tensor([[4, 6], [2, 3]]), torch.tensor([0, 24])
    inputs = (torch.randn(2, 5, 16), torch.rand(2, 5, 2, numbers), torch.randn(2, 30, 16), shapes, starts)
    mask = torch.zeros(2, 30, dtype=torch.bool)
    mask[1, 9:] = True
    check(layer, tmp_path / "model.onnx", [*inputs, mask])
