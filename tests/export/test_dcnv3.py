"""DCNv3 and DCNv4 in ONNX files, run by onnxruntime."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from dcn.nn import DCNv3, DCNv4, deformify

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

from tests.export.onnx_runs import Function, check
from tests.ops.dcnv3_cases import CASES, OPERATORS, in_batch


def _function(name: str, operator: str) -> nn.Module:
    case, run = CASES[name], OPERATORS[operator]
    return Function(lambda input, offset, mask: run(case, [input, offset, mask], None))


FEW = [("dcnv3", name) for name in ("awkward", "even-kernel", "remove-center", "softmax", "many-groups")]
FEW += [("dcnv4", name) for name in ("3x3", "softmax")]


@pytest.mark.parametrize(("operator", "name"), FEW, ids=["-".join(pair) for pair in FEW])
def test_values_are_those_of_the_operator(name: str, operator: str, tmp_path: Path) -> None:
    # Offsets of this size keep float32 positions apart from the edges, where one rounding would decide.
    proto = check(_function(name, operator), tmp_path / "m.onnx", CASES[name].tensors(torch.float32), tolerance=2e-5)
    assert "GridSample" in {node.op_type for node in proto.graph.node}


@pytest.mark.parametrize("operator", OPERATORS)
def test_any_batch_and_size(operator: str, tmp_path: Path) -> None:
    case = CASES["softmax"]

    def tensors(batch: int) -> list[Tensor]:
        return in_batch(case, batch).tensors(torch.float32)

    dynamic = [{0: "n"}, {0: "n"}, {0: "n"}]
    check(_function("softmax", operator), tmp_path / "m.onnx", tensors(2), dynamic, [tensors(1), tensors(5)])


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e30], ids=str)
def test_positions_that_are_none_contribute_nothing(value: float, tmp_path: Path) -> None:
    tensors = CASES["3x3"].tensors(torch.float32)
    tensors[1][:, 2, 3, :6] = value
    check(_function("3x3", "dcnv3"), tmp_path / "m.onnx", tensors)


def test_modules_with_maps_of_any_size(tmp_path: Path) -> None:
    layer = DCNv3(8, group=2, center_feature_scale=True)
    nn.init.normal_(layer.offset.weight, std=0.3)
    dynamic = [{0: "n", 1: "h", 2: "w"}]
    check(layer, tmp_path / "m.onnx", [torch.randn(2, 6, 5, 8)], dynamic, [[torch.randn(1, 9, 7, 8)]], 1e-4)


def test_dcnv4_module(tmp_path: Path) -> None:
    layer = DCNv4(8, group=2, dw_kernel_size=3)
    nn.init.normal_(layer.offset_mask.weight, std=0.3)
    check(layer, tmp_path / "m.onnx", [torch.randn(2, 16, 8)], tolerance=1e-4)


def test_depthwise_convolutions_with_their_branches(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1, groups=4))
    deformify(model, "0", style="dcnv3", offset_groups=2)
    nn.init.normal_(model[0].get_submodule("conv_offset.3").weight, std=0.3)  # type: ignore[arg-type]
    check(model, tmp_path / "m.onnx", [torch.randn(1, 4, 6, 7)], tolerance=1e-4)
