from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from dcn.vis import draw_sampling_points, offset_heatmap, offset_statistics, record_offsets, sampling_points
from dcn.vis.sampling_points import PointLevel, SamplingPoints

from .networks import deformable, plain, whole_offsets

SIZE = (11, 13)


def _seen(model: nn.Module, image: Tensor, unit: tuple[int, int]) -> Tensor:
    """``[H, W]``: how much each pixel counts in one unit of the output; all weights are one."""
    source = image.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(model(source)[0, 0, unit[0], unit[1]], source)
    return gradient[0, 0]


def _splat(level: PointLevel, size: tuple[int, int]) -> Tensor:
    """``[H, W]``: the points' weights given to the pixels that each reads, bilinearly."""
    out = torch.zeros(size)
    for (x, y), weight, inside in zip((level.points - 0.5).tolist(), level.weights, level.inside, strict=True):
        for row in range(size[0]):
            for column in range(size[1]):
                share = max(0.0, 1 - abs(y - row)) * max(0.0, 1 - abs(x - column))
                if share and inside:
                    out[row, column] += weight * share
    return out


@pytest.mark.parametrize("unit", [(5, 6), (0, 0), (10, 12), (3, 12)], ids=str)
@pytest.mark.parametrize("dilation", [1, 2], ids=["dilation1", "dilation2"])
def test_points_of_three_layers_are_where_the_gradient_is(unit: tuple[int, int], dilation: int) -> None:
    """Independent of the tracing: the gradient of the unit, through the operator, at every pixel."""
    generator = torch.Generator().manual_seed(7)
    masks = [torch.rand(9, *SIZE, generator=generator) * 0.8 + 0.1 for _ in range(3)]
    layers = [deformable(whole_offsets(SIZE, seed), mask=mask, dilation=dilation) for seed, mask in enumerate(masks)]
    model = nn.Sequential(*layers).eval()
    image = torch.zeros(1, 1, *SIZE)
    points = sampling_points(record_offsets(model, image), (unit[1] + 0.5, unit[0] + 0.5))
    assert [len(level.points) for level in points.levels] == [9, 81, 729]
    assert [level.layer for level in points.levels] == ["2", "1", "0"]
    assert torch.allclose(_splat(points.levels[-1], SIZE), _seen(model, image, unit), atol=1e-5)


def test_fractional_offsets_of_one_layer() -> None:
    generator = torch.Generator().manual_seed(1)
    model = deformable(torch.randn(18, *SIZE, generator=generator) * 2).eval()
    image = torch.zeros(1, 1, *SIZE)
    points = sampling_points(record_offsets(model, image), (0.5, 4.5))
    assert torch.allclose(_splat(points.levels[0], SIZE), _seen(model, image, (4, 0)), atol=1e-5)


def test_positions_in_the_image_follow_the_strides() -> None:
    """A 7x7/2 stem and a 3x3/2 convolution: units lie at 0, 4, 8, ...; an offset of 1 is 4 pixels; x and y apart."""
    offset = torch.zeros(18, 6, 8)
    offset[2 * 5], offset[2 * 5 + 1] = 0.5, -0.25  # tap 5, the right one of the middle row: y first, then x
    head = nn.Sequential(nn.Conv2d(1, 1, 7, 2, 3), nn.Conv2d(1, 1, 3, 2, 1))
    model = nn.Sequential(head, deformable(offset, dilation=2))
    points = sampling_points(record_offsets(model, torch.zeros(1, 1, 24, 32)), (17.0, 9.0))
    assert points.center == (16.5, 8.5)
    expected = [[x, y] for y in (0.5, 8.5, 16.5) for x in (8.5, 16.5, 24.5)]
    expected[5] = [24.5 - 0.25 * 4, 8.5 + 0.5 * 4]
    assert points.levels[0].points.tolist() == expected
    assert points.levels[0].inside.all()


def test_offsets_between_units_are_interpolated() -> None:
    """The lower layer's offset grows by 0.1 a column and 0.2 a row: at a fractional location it is known exactly."""
    ramp = 0.1 * torch.arange(13.0)[None, :] + 0.2 * torch.arange(11.0)[:, None]
    lower = torch.zeros(18, *SIZE)
    lower[0::2], lower[1::2] = ramp, -ramp
    upper = torch.full((18, *SIZE), 0.5)
    model = nn.Sequential(deformable(lower), deformable(upper))
    points = sampling_points(record_offsets(model, torch.zeros(1, 1, *SIZE)), (6.5, 5.5))
    first, second = points.levels
    assert first.points[4].tolist() == [7.0, 6.0]  # the middle tap: unit (5, 6) moved by half a unit each way
    shift = 0.1 * 6.5 + 0.2 * 5.5
    assert second.points[4 * 9 + 4].tolist() == pytest.approx([7.0 - shift, 6.0 + shift], abs=1e-5)
    assert second.points[4 * 9 + 0].tolist() == pytest.approx([6.0 - shift, 5.0 + shift], abs=1e-5)


@pytest.mark.parametrize(("boundary", "inside"), [("v1", False), ("v2", True)])
def test_half_a_unit_outside_counts_by_the_rule_of_the_layer(boundary: str, inside: bool) -> None:
    offset = torch.zeros(18, *SIZE)
    offset[2 * 4] = -0.5
    layers = record_offsets(deformable(offset, boundary=boundary), torch.zeros(1, 1, *SIZE))
    points = sampling_points(layers, (6.5, 0.5)).levels[0]
    assert points.inside.tolist() == [False] * 3 + [True, inside, True] + [True] * 3


def test_levels_groups_and_places_outside_are_limited() -> None:
    layers = record_offsets(nn.Sequential(deformable(torch.zeros(18, *SIZE))), torch.zeros(1, 1, *SIZE))
    points = sampling_points(layers, (900.0, -5.0), levels=3, group=5)
    assert points.center == (12.5, 0.5)
    assert len(points.levels) == 1
    with pytest.raises(ValueError, match="layers: expected"):
        sampling_points([], (0.0, 0.0))
    with pytest.raises(ValueError, match="levels >= 1"):
        sampling_points(layers, (0.0, 0.0), levels=0)


def test_points_are_drawn_where_they_are() -> None:
    level = PointLevel(
        "a",
        torch.tensor([[10.5, 8.5], [30.5, 8.5], [50.5, 8.5], [90.0, 8.5]]),
        torch.tensor([1.0, 0, 1, 1]),
        torch.tensor([True, True, False, True]),
    )
    points = SamplingPoints((20.5, 30.5), (level,))
    image = torch.full((3, 60, 80), 70, dtype=torch.uint8)
    picture = draw_sampling_points(image, [points])
    assert [picture[:, 8, x].tolist() for x in (10, 30, 50)] == [[255, 233, 70], [255, 233, 70], [70, 70, 70]]
    assert picture[:, 30, 20].tolist() == [0, 190, 120]
    changed = (picture != 70).any(0).nonzero()
    assert int((changed[:, 1] > 40).sum()) == 0
    weighted = draw_sampling_points(image, points, color_by="weight")
    assert weighted[:, 8, 10].sum() > weighted[:, 8, 30].sum() + 100
    with pytest.raises(ValueError, match="color_by"):
        draw_sampling_points(image, points, color_by="layer")  # type: ignore[arg-type]


def test_statistics_are_exact() -> None:
    offset = torch.zeros(18, *SIZE)
    offset[0], offset[1] = 3.0, 4.0  # tap 0 is moved by 5 units everywhere, the other eight by none
    model = nn.Sequential(plain(nn.Conv2d(1, 1, 1, (2, 1))), deformable(offset))
    (result,) = offset_statistics(record_offsets(model, torch.zeros(1, 1, 22, 13)), bins=5)
    assert (result.layer, result.largest) == ("1", 5.0)
    assert result.mean == pytest.approx(5 / 9)
    assert result.mean_pixels == pytest.approx((6**2 + 4**2) ** 0.5 / 9)
    assert result.counts.tolist() == [8 * 143, 0, 0, 0, 143]
    assert result.edges.tolist() == pytest.approx([0, 1, 2, 3, 4, 5])


def test_statistics_of_a_layer_that_has_not_learnt_anything() -> None:
    (result,) = offset_statistics(record_offsets(deformable(torch.zeros(18, *SIZE)), torch.zeros(1, 1, *SIZE)))
    assert (result.mean, result.largest, int(result.counts[0])) == (0.0, 0.0, 9 * 143)


@pytest.mark.parametrize("arrows", [False, True], ids=["plain", "arrows"])
def test_heat_map_is_brightest_where_the_taps_move_most(arrows: bool) -> None:
    """Unit (3, 4) of a map with stride 8 lies at pixel (24, 32)."""
    offset = torch.zeros(18, 8, 10)
    offset[:, 3, 4] = 2.0
    (layer,) = record_offsets(nn.Sequential(nn.Conv2d(1, 1, 8, 8, 3), deformable(offset)), torch.zeros(1, 1, 64, 80))
    assert layer.input_grid.origin == (0.5, 0.5)
    picture = (
        offset_heatmap(torch.zeros(3, 64, 80, dtype=torch.uint8), layer, arrows=arrows, opacity=1.0).float().sum(0)
    )
    if not arrows:
        weights = picture - picture.min()
        rows, columns = torch.arange(64.0), torch.arange(80.0)
        center = (weights.sum(1) @ rows / weights.sum(), weights.sum(0) @ columns / weights.sum())
        assert [float(v) for v in center] == pytest.approx([24.5, 32.5], abs=0.3)
    assert picture[20:30, 28:38].mean() > 5 * picture[50:, 60:].mean()
