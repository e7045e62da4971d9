"""The field of toy networks is exactly what their taps read; the statistics over made images."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dcn.analysis import field_size, field_statistics, receptive_field
from dcn.analysis.receptive_field import RADIUS, default_layer, respond, without_offsets
from dcn.models import build
from dcn.nn import DeformConv2d
from dcn.structures import Sample, SegmentationMap, Target
from dcn.vis import record_offsets, sampling_points
from tests.vis.networks import Photo, plain

SIZE = (40, 48)
TAPS = torch.cartesian_prod(torch.arange(-1.0, 2.0), torch.arange(-1.0, 2.0))  # y, x
TRANSFORMS = {
    "none": (torch.eye(2), torch.zeros(2)),
    "shift": (torch.eye(2), torch.tensor([2.0, -1.0])),
    "scale": (2 * torch.eye(2), torch.zeros(2)),
    "quarter-turn": (torch.tensor([[0.0, 1.0], [-1.0, 0.0]]), torch.zeros(2)),
    "turn": (
        torch.tensor([[math.cos(0.6), math.sin(0.6)], [-math.sin(0.6), math.cos(0.6)]]),
        torch.tensor([0.3, 0.7]),
    ),
}
WHOLE = [name for name in TRANSFORMS if name != "turn"]


def stack(name: str, strides: tuple[int, ...], dilation: int) -> nn.Sequential:
    """Deformable 3x3 layers of weight one whose taps lie at ``matrix @ tap + shift`` (times the dilation)."""
    matrix, shift = TRANSFORMS[name]
    layers = []
    for stride in strides:
        layer = plain(DeformConv2d(1, 1, 3, stride=stride, padding=dilation, dilation=dilation, bias=False))
        assert isinstance(layer, DeformConv2d)
        with torch.no_grad():
            layer.conv_offset.weight.zero_()
            assert layer.conv_offset.bias is not None
            layer.conv_offset.bias.copy_((dilation * (TAPS @ matrix.T + shift - TAPS)).flatten())
        layers.append(layer)
    return nn.Sequential(*layers)


def read_by(name: str, strides: tuple[int, ...], dilation: int, unit: tuple[int, int]) -> set[tuple[int, int]]:
    """Pixels that a unit of the last layer reads: from the transform alone, map by map."""
    matrix, shift = TRANSFORMS[name]
    steps = ((TAPS.double() @ matrix.T.double() + shift.double()) * dilation).tolist()
    sizes = [SIZE]
    for stride in strides[:-1]:
        sizes.append((-(-sizes[-1][0] // stride), -(-sizes[-1][1] // stride)))
    units = {unit}
    for stride, size in zip(reversed(strides), reversed(sizes), strict=True):
        below: set[tuple[int, int]] = set()
        for (row, column), (dy, dx) in itertools.product(units, steps):
            y, x = row * stride + dy, column * stride + dx
            # Bilinear: a neighbour counts where its weight is not zero; 1e-6 is above the rounding of float32.
            rows, columns = ((math.floor(v + 1e-6), math.ceil(v - 1e-6)) for v in (y, x))
            corners = itertools.product(rows, columns)
            below |= {(a, b) for a, b in corners if 0 <= a < size[0] and 0 <= b < size[1]}
        units = below
    return units


def covered(field: Tensor) -> set[tuple[int, int]]:
    return {(row, column) for row, column in (field > 0).nonzero().tolist()}


@pytest.mark.parametrize("dilation", [1, 2], ids=["dilation1", "dilation2"])
@pytest.mark.parametrize("strides", [(1,), (1, 1, 1), (2, 1, 2)], ids=["one-layer", "stride1", "strides212"])
@pytest.mark.parametrize("name", TRANSFORMS)
def test_the_field_is_exactly_what_the_taps_read(name: str, strides: tuple[int, ...], dilation: int) -> None:
    factor = math.prod(strides)
    unit = (SIZE[0] // factor // 2, SIZE[1] // factor // 2)
    position = (unit[1] * factor + 0.5, unit[0] * factor + 0.5)
    field = receptive_field(stack(name, strides, dilation), torch.rand(1, 1, *SIZE), position)
    assert covered(field) == read_by(name, strides, dilation, unit)


@pytest.mark.parametrize("corner", [(0, 0), (SIZE[0] - 1, SIZE[1] - 1)], ids=["first", "last"])
@pytest.mark.parametrize("name", TRANSFORMS)
def test_what_lies_outside_is_not_read(name: str, corner: tuple[int, int]) -> None:
    position = (corner[1] + 0.5, corner[0] + 0.5)
    field = receptive_field(stack(name, (1, 1, 1), 1), torch.rand(1, 1, *SIZE), position)
    assert covered(field) == read_by(name, (1, 1, 1), 1, corner)


@pytest.mark.parametrize("strides", [(1, 1, 1), (2, 1, 2)], ids=["stride1", "strides212"])
@pytest.mark.parametrize("name", WHOLE)
def test_the_field_is_the_points_that_are_drawn(name: str, strides: tuple[int, ...]) -> None:
    """Whole-number offsets: the points of three layers inside of the maps are the pixels with a gradient."""
    net, image = stack(name, strides, 1), torch.rand(1, 1, *SIZE)
    for position in ((20.0, 21.0), (3.0, 2.0)):
        points = sampling_points(record_offsets(net, image), position).levels[2]
        drawn = {(int(y), int(x)) for x, y in points.points[points.inside].floor().tolist()}
        assert covered(receptive_field(net, image, position)) == drawn


def test_the_size_is_the_side_of_a_square() -> None:
    field = torch.zeros(20, 30)
    field[3:8, 4:9] = 1.0
    field[10, 10] = 0.04  # below 4.55 % of the largest
    assert field_size(field) == 5.0


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("faster_rcnn_r18_fpn_mdconv_c3-c5", "backbone.layer4.1.conv2"),
        ("faster_rcnn_r18_fpn", "backbone.layer4.1.conv2"),
        ("deeplab_r18_dcn", "backbone.layer4.1.conv2"),
    ],
)
def test_models_of_both_tasks_have_a_field(name: str, layer: str) -> None:
    torch.manual_seed(0)
    small: dict[str, Any] = {"width": 0.125, "stem_channels": 8, "norm": "train", "frozen_stages": 0}
    small |= {"fpn_channels": 16, "fc_channels": 16} if "fpn" in name else {"head_channels": 16}
    model = build(name, ("cat", "dog"), **small).train()
    assert default_layer(model) == layer
    image = torch.randint(0, 256, (3, 64, 96), dtype=torch.uint8)
    field = receptive_field(model, image, (50.0, 30.0))
    assert field.shape == (64, 96)
    assert float(field.max()) > 0
    assert model.training
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_offsets_can_be_switched_off() -> None:
    net, image = stack("scale", (1,), 1), torch.rand(1, 1, *SIZE)
    with without_offsets(net):
        assert covered(receptive_field(net, image, (20.5, 20.5))) == read_by("none", (1,), 1, (20, 20))
    assert covered(receptive_field(net, image, (20.5, 20.5))) == read_by("scale", (1,), 1, (20, 20))


def test_units_are_sorted_by_what_lies_there() -> None:
    box = torch.tensor([[4.0, 4.0, 20.0, 20.0]])
    image = torch.zeros(3, *SIZE, dtype=torch.uint8)
    boxes = Sample(image, Target(box, torch.tensor([0]), SIZE))
    labels = torch.zeros(SIZE, dtype=torch.int64)
    labels[4:20, 4:20] = 1
    net = Photo(stack("scale", (1, 1), 1), pad=0)
    for sample in (boxes, Sample(image, SegmentationMap(labels))):
        fields = field_statistics(net, [sample, sample], sides=(8, 32), units=3, background=0)
        assert {kind: one.count for kind, one in fields.sizes.items()} == {
            **{"small": 0, "medium": 6, "large": 0, "background": 6}
        }
        # Two layers with taps two pixels apart read 5 x 5 pixels; without offsets 5 x 5 that touch.
        assert fields.sizes["medium"].mean == pytest.approx(5.0)
        middle = fields.means["medium"][RADIUS - 4 : RADIUS + 5, RADIUS - 4 : RADIUS + 5]
        assert float(middle.sum()) == pytest.approx(6.0, abs=1e-4)
        assert (middle > 0).sum() == 25
        still = fields.plain_mean[RADIUS - 2 : RADIUS + 3, RADIUS - 2 : RADIUS + 3]
        assert (still > 0).all()


def test_a_layer_that_does_not_run_is_refused() -> None:
    message = r"layer: expected a layer of the model that runs, such as 1, got '1\.nothing'"
    with pytest.raises(ValueError, match=message):
        respond(stack("none", (1, 1), 1), torch.rand(1, 1, *SIZE), "1.nothing")


def test_no_images_are_refused() -> None:
    with pytest.raises(ValueError, match="samples: expected one image or more, got none"):
        field_statistics(stack("none", (1, 1), 1), [])


def test_a_network_of_ones_own_takes_what_is_prepared() -> None:
    net = stack("scale", (1,), 1)
    image = torch.full((3, *SIZE), 255, dtype=torch.uint8)
    sample = Sample(image, Target(torch.tensor([[10.0, 10, 30, 30]]), torch.tensor([0]), SIZE))
    result = field_statistics(net, [sample], prepare=lambda images: torch.stack(images)[:, :1] / 255)
    assert result.sizes["small"].mean == pytest.approx(3)  # nine pixels
    with pytest.raises(ValueError, match=r"got Sequential, which says: .*prepare=lambda"):
        field_statistics(net, [sample])
