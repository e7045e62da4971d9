from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dcn.analysis import Spread, categories_of, dilation_statistics, effective_dilation
from dcn.nn import DeformConv2d
from dcn.structures import Sample, Target
from tests.vis.networks import Photo, deformable, plain

SMALL, MEDIUM, LARGE, BACKGROUND, LEFT_OUT = 0, 1, 2, 3, -1

KERNELS = {
    "3x3": ((3, 3), (1, 1), 1),
    "dilated": ((3, 3), (2, 2), 4),
    "uneven": ((3, 2), (2, 1), 3),
    "row": ((1, 3), (1, 4), 1),
}


def _by_hand(
    offset: Tensor, group: int, slot: tuple[int, int], kernel: tuple[int, int], dilation: tuple[int, int]
) -> float:
    """The mean over adjacent pairs of one filter, from points written down one by one."""
    row, column = slot
    points = {}
    for i in range(kernel[0]):
        for j in range(kernel[1]):
            channel = 2 * (group * kernel[0] * kernel[1] + i * kernel[1] + j)
            dy, dx = offset[channel, row, column].item(), offset[channel + 1, row, column].item()
            points[i, j] = (row + i * dilation[0] + dy, column + j * dilation[1] + dx)
    pairs = [(a, b) for a in points for b in points if abs(a[0] - b[0]) + abs(a[1] - b[1]) == 1]
    assert len(pairs) == 2 * (kernel[0] * (kernel[1] - 1) + kernel[1] * (kernel[0] - 1))  # both ways round
    return sum(math.dist(points[a], points[b]) for a, b in pairs) / len(pairs)


@pytest.mark.parametrize("name", KERNELS)
def test_it_is_the_mean_over_adjacent_pairs(name: str) -> None:
    kernel, dilation, groups = KERNELS[name]
    channels = 2 * groups * kernel[0] * kernel[1]
    offset = torch.randn(2, channels, 2, 3, generator=torch.Generator().manual_seed(0)).double() * 3
    got = effective_dilation(offset, kernel, dilation)
    assert got.shape == (2, groups, 2, 3)
    for n, g, row, column in np.ndindex(*got.shape):
        expected = _by_hand(offset[n], g, (row, column), kernel, dilation)
        assert got[n, g, row, column].item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("dilation", [1, 2, 4])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64], ids=str)
def test_offsets_of_zero_give_the_dilation_exactly(dilation: int, dtype: torch.dtype) -> None:
    got = effective_dilation(torch.zeros(1, 36, 2, 2, dtype=dtype), (3, 3), (dilation, dilation))
    assert (got == dilation).all()


def _moved(matrix: Sequence[Sequence[float]], shift: Sequence[float] = (0.0, 0.0)) -> Tensor:
    """Offsets ``[1, 18, 1, 1]`` that map the taps of a 3x3 filter of dilation 2, seen from its centre."""
    taps = 2 * (torch.cartesian_prod(torch.arange(3), torch.arange(3)).double() - 1)
    moved = taps @ torch.tensor(matrix, dtype=torch.float64).T + torch.tensor(shift)
    return (moved - taps).reshape(1, 18, 1, 1)


QUARTER, COS, SIN = [[0.0, 1.0], [-1.0, 0.0]], math.cos(0.4), math.sin(0.4)


@pytest.mark.parametrize(
    ("offset", "expected"),
    [
        pytest.param(_moved([[2.5, 0], [0, 2.5]]), 5.0, id="scaled"),
        pytest.param(_moved([[0, 0], [0, 0]]), 0.0, id="all-on-one-point"),
        pytest.param(_moved(QUARTER), 2.0, id="quarter-turn"),
        pytest.param(_moved([[COS, SIN], [-SIN, COS]]), 2.0, id="turned"),
        pytest.param(_moved([[1, 0], [0, 1]], (7.0, -3.5)), 2.0, id="shifted"),
        pytest.param(_moved([[3, 0], [0, 1]]), 4.0, id="tall"),
    ],
)
def test_known_deformations(offset: Tensor, expected: float) -> None:
    assert effective_dilation(offset, (3, 3), (2, 2)).item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("shape", "kernel", "message"),
    [
        ((1, 2, 4, 4), (1, 1), "kernel_size: expected two taps or more"),
        ((1, 20, 4, 4), (3, 3), r"offset: expected \[N, 2\*G\*9, Ho, Wo\]"),
        ((18, 4, 4), (3, 3), "offset: expected"),
    ],
    ids=["one-tap", "channels", "axes"],
)
def test_what_has_no_effective_dilation_is_refused(
    shape: tuple[int, ...], kernel: tuple[int, int], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        effective_dilation(torch.zeros(shape), kernel)


@pytest.mark.parametrize(("mean", "std"), [(3.0, 1.5), (1e6, 1e-2), (0.0, 0.0)], ids=["usual", "narrow", "constant"])
def test_a_spread_of_parts_is_that_of_the_whole(mean: float, std: float) -> None:
    values = torch.randn(1000, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * std + mean
    spread = Spread()
    for part in values.split([1, 0, 499, 300, 200]):
        spread.add(part)
    assert spread.count == 1000
    assert spread.mean == pytest.approx(values.numpy().mean(), rel=1e-12)
    assert spread.std == pytest.approx(values.numpy().std(), rel=1e-6)


def test_an_empty_spread_is_not_a_number() -> None:
    assert math.isnan(Spread().mean)
    assert math.isnan(Spread().std)


def _target(*objects: tuple[Sequence[float], float | None, bool], size: tuple[int, int] = (200, 300)) -> Target:
    """Objects are a box, an area where it is not the box's, and whether it is a crowd."""
    boxes = torch.tensor([box for box, _, _ in objects]).reshape(-1, 4).float()
    own = (boxes[:, 2:] - boxes[:, :2]).prod(1).tolist()
    area = torch.tensor([mine if given is None else given for mine, (_, given, _) in zip(own, objects, strict=True)])
    crowd = torch.tensor([is_crowd for _, _, is_crowd in objects], dtype=torch.bool)
    return Target(boxes, torch.zeros(len(boxes), dtype=torch.int64), size, crowd=crowd, area=area.float())


BIG, TINY = ((0.0, 0.0, 200.0, 180.0), None, False), ((10.0, 10.0, 30.0, 20.0), None, False)


@pytest.mark.parametrize(
    ("target", "center", "expected"),
    [
        pytest.param(_target(), (5, 5), BACKGROUND, id="no-objects"),
        pytest.param(_target(BIG), (250, 100), BACKGROUND, id="beside"),
        pytest.param(_target(BIG), (100, 100), LARGE, id="large"),
        pytest.param(_target(((0, 0, 50, 50), None, False)), (9, 9), MEDIUM, id="medium"),
        pytest.param(_target(((0, 0, 32, 32), None, False)), (9, 9), MEDIUM, id="32-squared-is-medium"),
        pytest.param(_target(((0, 0, 96, 96), None, False)), (9, 9), LARGE, id="96-squared-is-large"),
        pytest.param(_target(BIG, TINY), (12, 12), SMALL, id="smallest-wins"),
        pytest.param(_target(TINY, BIG), (12, 12), SMALL, id="smallest-wins-in-any-order"),
        pytest.param(_target(TINY, BIG), (40, 12), LARGE, id="larger-around-it"),
        pytest.param(_target(TINY), (10, 10), SMALL, id="left-edge-belongs-to-it"),
        pytest.param(_target(TINY), (30, 12), BACKGROUND, id="right-edge-does-not"),
        pytest.param(_target(((0, 0, 50, 50), 900.0, False)), (9, 9), SMALL, id="annotated-area"),
        pytest.param(_target((BIG[0], None, True)), (9, 9), LEFT_OUT, id="crowd"),
        pytest.param(_target((BIG[0], None, True), TINY), (12, 12), SMALL, id="object-in-a-crowd"),
        pytest.param(_target((BIG[0], None, True)), (250, 100), BACKGROUND, id="beside-a-crowd"),
    ],
)
def test_what_lies_at_a_centre(target: Target, center: tuple[float, float], expected: int) -> None:
    assert categories_of(torch.tensor([[center]]).float(), target).tolist() == [[expected]]


def test_sizes_can_be_chosen() -> None:
    assert categories_of(torch.tensor([100.0, 100.0]), _target(BIG), (200, 300)).item() == SMALL


class Pair(nn.Module):
    """As a detector begins: images to one batch, a map of stride 4, then filters that are wider to the right."""

    def __init__(self, size: tuple[int, int], mask: Tensor | None = None) -> None:
        super().__init__()
        height, width = size
        # Scaled by 1 + column: the effective dilation tells the column.
        taps = torch.cartesian_prod(torch.arange(3), torch.arange(3)).float() - 1
        offset = taps.reshape(18, 1, 1) * torch.arange(width).float().expand(18, height, width)
        self.stem = plain(nn.Conv2d(1, 1, 4, 4, bias=False))
        self.layer = deformable(offset, mask=mask)

    def forward(self, images: list[Tensor]) -> Tensor:
        sides = [max(image.shape[axis] for image in images) for axis in (1, 2)]
        batch = torch.zeros(len(images), 1, *sides)
        for slot, image in zip(batch, images, strict=True):
            slot[0, : image.shape[1], : image.shape[2]] = image[0]
        result: Tensor = self.layer(self.stem(batch))
        return result


def _sample(size: tuple[int, int], target: Target) -> Sample:
    return Sample(torch.zeros(3, *size, dtype=torch.uint8), target)


# Shown at half the size of the file; the second is smaller than the batch, which is 16 x 12 units.
TALL = _sample((64, 40), _target(((20, 0, 60, 100), None, False), ((70, 0, 80, 90), 9e4, False), size=(128, 80)))
FLAT = _sample((40, 48), _target(((0, 0, 30, 30), None, False), size=(80, 96)))


def _expected(samples: Sequence[Sample]) -> dict[str, list[float]]:
    """Unit by unit: the centre of unit (r, c) lies at pixel 4 r + 2 of what is shown, 8 r + 4 of the file."""
    values: dict[str, list[float]] = {"small": [], "medium": [], "large": [], "background": []}
    for sample in samples:
        assert isinstance(sample.target, Target)
        for row in range(16):
            for column in range(12):
                y, x = 8 * row + 4, 8 * column + 4
                if y >= sample.target.size[0] or x >= sample.target.size[1]:
                    continue
                if sample is FLAT:
                    slot = "small" if x < 30 and y < 30 else "background"
                elif 20 <= x < 60 and y < 100:
                    slot = "medium"
                else:
                    slot = "large" if 70 <= x < 80 and y < 90 else "background"
                values[slot].append(1.0 + column)
    return values


@pytest.mark.parametrize("batches", [[[TALL, FLAT]], [[TALL, FLAT], [FLAT, TALL]]], ids=["one", "two"])
def test_filters_are_sorted_by_what_lies_at_their_centre(batches: list[list[Sample]]) -> None:
    model = Pair((16, 12)).train()
    (row,) = dilation_statistics(model, iter(batches))
    expected = _expected([sample for batch in batches for sample in batch])
    assert (row.layer, row.group, row.undeformed, row.modulation) == ("layer", None, 1.0, None)
    for slot, values in expected.items():
        spread = row.effective[slot]
        assert spread.count == len(values) > 0
        assert (spread.mean, spread.std) == pytest.approx((np.mean(values), np.std(values)), rel=1e-6)
    assert model.training


def test_modulation_is_the_mean_over_the_taps() -> None:
    mask = torch.linspace(0.1, 0.9, 9).reshape(9, 1, 1).expand(9, 16, 12)
    (row,) = dilation_statistics(Pair((16, 12), mask), [[TALL, FLAT]])
    assert row.modulation is not None
    assert {slot: spread.count for slot, spread in row.modulation.items()} == {
        slot: len(values) for slot, values in _expected([TALL, FLAT]).items()
    }
    for spread in row.modulation.values():
        assert (spread.mean, spread.std) == pytest.approx((0.5, 0.0), abs=1e-6)


@pytest.mark.parametrize(
    ("by_group", "expected"),
    [
        pytest.param(False, [(None, 60, 3.0, 1.0, 0.5, 0.25)], id="together"),
        pytest.param(True, [(0, 30, 2.0, 0.0, 0.25, 0.0), (1, 30, 4.0, 0.0, 0.75, 0.0)], id="by-group"),
    ],
)
def test_groups_are_filters_of_their_own(by_group: bool, expected: list[tuple[float | None, ...]]) -> None:
    layer = DeformConv2d(2, 2, 3, padding=1, offset_groups=2, modulated=True)
    taps = torch.cartesian_prod(torch.arange(3), torch.arange(3)).float().flatten() - 1
    masks = torch.logit(torch.tensor([0.25, 0.75])).repeat_interleave(9)
    with torch.no_grad():  # scaled by 2 and by 4
        layer.get_parameter("conv_offset.bias").copy_(torch.cat((taps, 3 * taps, masks)))
    model = Photo(nn.Sequential(nn.Conv2d(1, 2, 1), layer), pad=0)
    sample = _sample((5, 6), _target(size=(5, 6)))
    rows = dilation_statistics(model, [[sample]], by_group=by_group)
    got: list[tuple[float | None, ...]] = []
    for row in rows:
        assert row.modulation is not None
        spread, factor = row.effective["background"], row.modulation["background"]
        got.append((row.group, spread.count, spread.mean, spread.std, factor.mean, factor.std))
    assert [one[0] for one in got] == [one[0] for one in expected]
    assert [one[1:] for one in got] == [pytest.approx(one[1:]) for one in expected]


def test_by_group_changes_nothing_for_one_group() -> None:
    alone, by_group = (dilation_statistics(Pair((16, 12)), [[TALL, FLAT]], by_group=flag) for flag in (False, True))
    assert alone == by_group


class OnRegions(nn.Module):
    """A second deformable layer, called for three regions of the one image."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.head = DeformConv2d(1, 1, 3, padding=1), DeformConv2d(1, 1, 3, padding=1)
        self.point = DeformConv2d(1, 1, 1)

    def forward(self, images: list[Tensor]) -> Tensor:
        features = self.point(self.backbone(images[0][None, :1].float()))
        result: Tensor = self.head(features[:, :, :4, :4].expand(3, 1, 4, 4))
        return result


def test_layers_on_regions_and_of_one_tap_are_passed_over() -> None:
    rows = dilation_statistics(OnRegions(), [[_sample((5, 6), _target(size=(5, 6)))]])
    assert [row.layer for row in rows] == ["backbone"]


@pytest.mark.parametrize(
    ("model", "batches", "sides", "message"),
    [
        pytest.param(nn.Conv2d(1, 1, 1), [[FLAT]], (32, 96), "model: expected at least one", id="plain"),
        pytest.param(Pair((16, 12)), [], (32, 96), "batches: expected images", id="nothing"),
        pytest.param(Pair((16, 12)), [[TALL]], (96, 32), "sides: expected two lengths", id="order"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    model: nn.Module, batches: list[list[Sample]], sides: tuple[float, float], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        dilation_statistics(model, batches, sides)


def test_a_network_of_ones_own_takes_what_is_prepared() -> None:
    """Of plain tensors; the one layer samples two cells apart in one column."""
    layer = DeformConv2d(4, 4, 3, padding=1)
    net = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, padding=1), layer)
    assert layer.conv_offset.bias is not None
    with torch.no_grad():
        layer.conv_offset.bias.view(9, 2)[:, 0] = torch.arange(-1.0, 2.0).repeat_interleave(3)
    image = torch.zeros(3, 32, 32, dtype=torch.uint8)
    batch = [Sample(image, Target(torch.tensor([[0.0, 0, 16, 16]]), torch.tensor([0]), (32, 32)))] * 2
    (row,) = dilation_statistics(net, [batch], prepare=lambda images: torch.stack(images) / 255)
    assert (row.layer, row.effective["small"].count) == ("1", 2 * 64)
    assert row.effective["background"].mean == pytest.approx(1.5)  # 2 along columns, 1 along rows
    with pytest.raises(ValueError, match=r"got Sequential, which says: .*; for a network of your own .*prepare=lambda"):
        dilation_statistics(net, [batch])
