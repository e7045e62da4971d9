"""RoI pooling of every kind through ``torch.onnx.export`` and onnxruntime, with any number of RoIs and any map."""

from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from dcn import ops
from dcn.nn import DeformRoIPool, ModulatedDeformRoIPool
from tests.export.onnx_runs import Function, check

GOLDEN = Path(__file__).parents[1] / "golden"
SCALE = 0.25


def _boxes(count: int, images: int, height: int, width: int) -> Tensor:
    """RoIs in and around the map; the first has no size."""
    corners = torch.rand(count, 2, 2) * torch.tensor([width, height]) / SCALE * 1.4 - 0.2 * min(height, width) / SCALE
    boxes = torch.cat((corners.amin(1), corners.amax(1)), 1)
    boxes[:1, 2:] = boxes[:1, :2]
    boxes[1:2, 3] = torch.nan  # such a RoI gives zeros
    return torch.cat((torch.randint(0, images, (count, 1)).float(), boxes), 1)


class Case(NamedTuple):
    channels: int
    call: Callable[..., Tensor]
    offset: tuple[int, ...] | None = None
    mask: tuple[int, ...] | None = None

    def draw(self, images: int, height: int, width: int, rois: int) -> tuple[Tensor, ...]:
        tensors = [torch.randn(images, self.channels, height, width), _boxes(rois, images, height, width)]
        tensors += [torch.randn(rois, *self.offset) * 2] if self.offset else []
        tensors += [torch.rand(rois, *self.mask)] if self.mask else []
        return tuple(tensors)


CASES = {
    "align": Case(4, lambda x, b: ops.roi_align(x, b, (3, 2), SCALE)),
    "align, two samples, aligned": Case(4, lambda x, b: ops.roi_align(x, b, (3, 2), SCALE, 2, True)),
    "align, aligned": Case(4, lambda x, b: ops.roi_align(x, b, 3, SCALE, 0, True)),
    "max": Case(4, lambda x, b: ops.roi_pool(x, b, (3, 2), SCALE)),
    "position-sensitive align": Case(12, lambda x, b: ops.ps_roi_align(x, b, (3, 2), SCALE)),
    "position-sensitive": Case(18, lambda x, b: ops.ps_roi_pool(x, b, 3, SCALE)),
    "position-sensitive, two groups": Case(8, lambda x, b: ops.ps_roi_pool(x, b, (3, 4), SCALE, group_size=2)),
    "position-sensitive, torchvision": Case(18, lambda x, b: ops.ps_roi_pool(x, b, 3, SCALE, rounding="after_scale")),
    "parts without offsets": Case(4, lambda x, b: ops.deform_ps_roi_pool(x, b, None, 3, SCALE)),
    "parts": Case(4, lambda x, b, o: ops.deform_ps_roi_pool(x, b, o, 3, SCALE, sample_per_part=2), (2, 3, 3)),
    "parts, fewer than bins": Case(
        4, lambda x, b, o: ops.deform_ps_roi_pool(x, b, o, 3, SCALE, sample_per_part=2), (2, 2, 2)
    ),
    "parts, position-sensitive classes": Case(
        36, lambda x, b, o: ops.deform_ps_roi_pool(x, b, o, 3, SCALE, group_size=3), (4, 3, 3)
    ),
    "parts, classes and mask": Case(
        4,
        lambda x, b, o, m: ops.deform_ps_roi_pool(x, b, o, 3, SCALE, m, sample_per_part=2),
        (4, 3, 3),
        (1, 3, 3),
    ),
    "deformable, two samples": Case(
        4, lambda x, b, o: ops.deform_roi_pool(x, b, o, 3, SCALE, sampling_ratio=2), (2, 3, 3)
    ),
    "deformable": Case(4, lambda x, b, o: ops.deform_roi_pool(x, b, o, 3, SCALE), (2, 3, 3)),
    "deformable, large RoIs and mask": Case(
        4, lambda x, b, o, m: ops.deform_roi_pool(x, b, o, (3, 2), 4.0, m), (2, 3, 2), (1, 3, 2)
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_any_map_and_any_number_of_rois(tmp_path: Path, name: str) -> None:
    torch.manual_seed(0)
    case = CASES[name]
    rois = [{0: "r"}] * (1 + (case.offset is not None) + (case.mask is not None))
    first = case.draw(2, 11, 13, 9)
    others = [case.draw(1, 17, 9, 4), case.draw(3, 8, 21, 30), case.draw(1, 6, 7, 0)]
    check(Function(case.call), tmp_path / "m.onnx", first, [{0: "n", 2: "h", 3: "w"}, *rois], others)


def test_half_precision(tmp_path: Path) -> None:
    """Sums of any number of samples are made in float32, because onnxruntime adds no halves by index."""
    torch.manual_seed(0)
    x, boxes, offset = CASES["deformable"].draw(2, 11, 13, 9)
    boxes[1] = boxes[2]
    check(Function(CASES["deformable"].call), tmp_path / "m.onnx", (x.half(), boxes, offset.half()), tolerance=1e-2)


@pytest.mark.parametrize("form", ["align", "parts"])
@pytest.mark.parametrize("layer", [DeformRoIPool, ModulatedDeformRoIPool], ids=lambda c: c.__name__)
def test_layers(tmp_path: Path, layer: type[DeformRoIPool], form: str) -> None:
    model = layer(3, 4, 8, SCALE, form=form)  # type: ignore[arg-type]
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    x, boxes = torch.randn(2, 4, 11, 13), _boxes(6, 2, 11, 13)
    check(model, tmp_path / "m.onnx", (x, boxes), [{}, {0: "r"}], [(x, boxes[:3])])


@pytest.mark.parametrize("aligned", [False, True], ids=["false", "true"])
def test_cases_of_the_standard(tmp_path: Path, aligned: bool) -> None:
    with np.load(GOLDEN / "foreign" / f"onnx_test_roialign_aligned_{str(aligned).lower()}.npz") as file:
        data = {key: file[key] for key in file.files}
    options = ast.literal_eval(str(data["attrs"]))
    boxes = torch.cat((torch.from_numpy(data["in_2"]).float()[:, None], torch.from_numpy(data["in_1"])), 1)
    size, ratio = (options["output_height"], options["output_width"]), options["sampling_ratio"]
    model = Function(lambda x, b: ops.roi_align(x, b, size, options["spatial_scale"], ratio, aligned))
    inputs = (torch.from_numpy(data["in_0"]), boxes)
    check(model, tmp_path / "m.onnx", inputs)
    torch.testing.assert_close(model(*inputs), torch.from_numpy(data["out"]), rtol=1e-4, atol=1e-4)


def _golden(name: str) -> dict[str, Tensor]:
    with np.load(GOLDEN / f"{name}.npz") as file:
        return {key: torch.from_numpy(np.asarray(file[key])) for key in file.files}


def test_golden_max_pooling(tmp_path: Path) -> None:
    data = _golden("roipool_p7")
    x, rois = data["x"], data["rois"]
    check(Function(lambda x, b: ops.roi_pool(x, b, 7, 1 / 16)), tmp_path / "m.onnx", (x, rois))
