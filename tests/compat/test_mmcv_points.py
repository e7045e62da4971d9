"""``dcn.compat.mmcv``: sampling at points, overlaps, and the classes that are called with ``apply``."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from dcn.compat import basicsr, mmcv
from dcn.ops import deform_conv2d


def _bilinear(plane: Tensor, x: float, y: float) -> float:
    """The value of ``[H, W]`` at pixel coordinates, 0 outside: four neighbours, written out."""
    total = 0.0
    for row in (math.floor(y), math.floor(y) + 1):
        for column in (math.floor(x), math.floor(x) + 1):
            if 0 <= row < plane.shape[0] and 0 <= column < plane.shape[1]:
                total += (1 - abs(y - row)) * (1 - abs(x - column)) * plane[row, column].item()
    return total


@pytest.mark.parametrize("corners", [False, True])
def test_values_at_points(corners: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(2, 3, 5, 7, generator=generator)
    points = torch.rand(2, 11, 2, generator=generator) * 1.4 - 0.2
    got = mmcv.point_sample(image, points, align_corners=corners)
    assert got.shape == (2, 3, 11)
    for n, c, p in ((n, c, p) for n in range(2) for c in range(3) for p in range(11)):
        x, y = points[n, p].tolist()
        place = (x * 6, y * 4) if corners else (x * 7 - 0.5, y * 5 - 0.5)
        assert abs(got[n, c, p].item() - _bilinear(image[n, c], *place)) < 1e-5
    as_grid = mmcv.point_sample(image, points.view(2, 11, 1, 2), corners, padding_mode="zeros")
    torch.testing.assert_close(as_grid[..., 0], got)
    torch.testing.assert_close(mmcv.bilinear_grid_sample(image, points[:, :, None] * 2 - 1, corners)[..., 0], got)


def test_points_of_rois() -> None:
    """Half of a box of 8 x 4 pixels at (2, 4) is (6, 6); on a map of 32 x 16 cells of 2 pixels that is (3/32, 3/16)."""
    rois, half = torch.tensor([[1.0, 2, 4, 10, 8]]), torch.tensor([[[0.5, 0.5], [0.0, 1.0]]])
    expected = torch.tensor([[[3 / 32, 3 / 16], [1 / 32, 4 / 16]]])
    for boxes in (rois, rois[:, 1:]):
        torch.testing.assert_close(mmcv.rel_roi_point_to_rel_img_point(boxes, half, (16, 32), 0.5), expected)
        image = torch.zeros(1, 1, 16, 32)
        torch.testing.assert_close(mmcv.rel_roi_point_to_rel_img_point(boxes, half, image, 0.5), expected)


@pytest.mark.parametrize("aligned", [True, False])
def test_simple_roi_align(aligned: bool) -> None:
    """One sample in the middle of each bin, in the order of the rois, whatever their images."""
    generator = torch.Generator().manual_seed(1)
    image = torch.randn(2, 2, 6, 9, generator=generator, requires_grad=True)
    rois = torch.tensor([[1.0, 2, 1, 14, 9], [0, 0, 0, 18, 12], [1, 4, 4, 5, 6]])
    layer = mmcv.SimpleRoIAlign((2, 3), 0.5, aligned)
    got = layer(image, rois)
    for k, (number, x1, y1, x2, y2) in enumerate(rois.tolist()):
        for c, row, column in ((c, r, w) for c in range(2) for r in range(2) for w in range(3)):
            x, y = (x1 + (column + 0.5) / 3 * (x2 - x1)) / 2, (y1 + (row + 0.5) / 2 * (y2 - y1)) / 2
            place = (x - 0.5, y - 0.5) if aligned else (x / 9 * 8, y / 6 * 5)
            expected = _bilinear(image[int(number), c].detach(), *place)
            assert abs(got[k, c, row, column].item() - expected) < 1e-5
    assert torch.autograd.grad(got.sum(), image)[0].abs().sum() > 0
    assert layer(image, rois[:0]).shape == (0, 2, 2, 3)
    assert repr(layer) == "SimpleRoIAlign(output_size=(2, 3), spatial_scale=0.5)"


def test_overlaps() -> None:
    """The example of mmcv's documentation, pixel counting, and the first box as the base."""
    first = torch.tensor([[0.0, 0, 10, 10], [10, 10, 20, 20], [32, 32, 38, 42]])
    second = torch.tensor([[0.0, 0, 10, 20], [0, 10, 10, 19], [10, 10, 20, 20]])
    expected = torch.tensor([[0.5, 0, 0], [0, 0, 1], [0, 0, 0]])
    torch.testing.assert_close(mmcv.bbox_overlaps(first, second), expected)
    torch.testing.assert_close(mmcv.bbox_overlaps(first, second, aligned=True), expected.diagonal())
    torch.testing.assert_close(mmcv.bbox_overlaps(first, second, "iof")[0, 0], torch.tensor(1.0))
    pixels = mmcv.bbox_overlaps(torch.tensor([[0.0, 0, 1, 1]]), torch.tensor([[1.0, 1, 2, 2]]), offset=1)
    torch.testing.assert_close(pixels, torch.tensor([[1 / 7]]))
    assert mmcv.bbox_overlaps(first[:0], second).shape == (0, 3)
    assert mmcv.bbox_overlaps(torch.tensor([]), torch.tensor([]), aligned=True).shape == (0, 1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mmcv.point_sample(torch.zeros(1, 1, 2, 2), torch.zeros(3, 2)), "points: expected"),
        (lambda: mmcv.rel_roi_point_to_rel_img_point(torch.zeros(1, 3), torch.zeros(1, 1, 2), (2, 2)), "rois: exp"),
        (lambda: mmcv.rel_roi_point_to_rel_img_point(torch.zeros(1, 4), torch.zeros(2, 1, 2), (2, 2)), "rel_roi_po"),
        (lambda: mmcv.rel_roi_point_to_rel_img_point(torch.zeros(1, 4), torch.zeros(1, 1, 2), 3), "img: expected"),  # type: ignore[arg-type]
        (lambda: mmcv.SimpleRoIAlign(2, 1.0)(torch.zeros(1, 1, 2, 2), torch.zeros(1, 4)), "rois: expected"),
        (lambda: mmcv.bbox_overlaps(torch.zeros(1, 4), torch.zeros(1, 5)), "bboxes2: expected"),
        (lambda: mmcv.bbox_overlaps(torch.zeros(1, 4), torch.zeros(1, 4), "giou"), "mode: expected"),
        (lambda: mmcv.bbox_overlaps(torch.zeros(1, 4), torch.zeros(1, 4), offset=2), "offset: expected"),
        (lambda: mmcv.bbox_overlaps(torch.zeros(1, 4), torch.zeros(2, 4), aligned=True), "aligned: expected"),
    ],
)
def test_wrong_arguments(call: Any, message: str) -> None:
    with pytest.raises(AssertionError, match=message) as info:
        call()
    assert isinstance(info.value, ValueError)


def _grads(output: Tensor, tensors: list[Tensor]) -> list[Tensor]:
    return [output, *torch.autograd.grad((output * output.detach().cos()).sum(), tensors)]


def test_classes_with_apply() -> None:
    """By position, as their callers write them; with gradients."""
    generator = torch.Generator().manual_seed(2)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()

    x, offset, mask, weight, bias = draw(2, 4, 6, 7), draw(2, 36, 3, 4), draw(2, 18, 3, 4), draw(6, 2, 3, 3), draw(6)
    plain = deform_conv2d(x, offset, weight, stride=2, padding=1)
    expected = _grads(plain, [x, offset, weight])
    for function in (mmcv.DeformConv2dFunction, basicsr.DeformConvFunction):
        got = function.apply(x, offset, weight, (2, 2), (1, 1), (1, 1), 2, 2)
        torch.testing.assert_close(_grads(got, [x, offset, weight]), expected)
    full = deform_conv2d(x, offset, weight, bias, stride=2, padding=1, mask=mask)
    expected = _grads(full, [x, offset, mask, weight, bias])
    for modulated, more in (
        (mmcv.ModulatedDeformConv2dFunction, ()),
        (basicsr.ModulatedDeformConvFunction, ()),
        (basicsr.ModulatedDeformConvFunction, (64,)),
    ):
        got = modulated.apply(x, offset, mask, weight, bias, 2, 1, 1, 2, 2, *more)
        torch.testing.assert_close(_grads(got, [x, offset, mask, weight, bias]), expected)


def test_pooling_classes_with_apply() -> None:
    x, rois = torch.randn(1, 2, 8, 8, requires_grad=True), torch.tensor([[0.0, 1, 1, 12, 9]])
    offset = torch.randn(1, 2, 3, 3)
    for made, function, arguments in (
        (mmcv.RoIAlign(3, 0.5, 2, "max", False), mmcv.RoIAlignFunction, (3, 0.5, 2, "max", False)),
        (mmcv.RoIPool(3, 0.5), mmcv.RoIPoolFunction, ((3, 3), 0.5)),
    ):
        expected = _grads(made(x, rois), [x])
        torch.testing.assert_close(_grads(function.apply(x, rois, *arguments), [x]), expected)
    expected = _grads(mmcv.DeformRoIPool(3, 0.5, 2, 0.2)(x, rois, offset), [x])
    torch.testing.assert_close(
        _grads(mmcv.DeformRoIPoolFunction.apply(x, rois, offset, (3, 3), 0.5, 2, 0.2), [x]), expected
    )
