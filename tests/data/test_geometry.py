from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from dcn.data import geometry
from dcn.structures import Sample, SegmentationMap, Target

HEIGHT, WIDTH = 12, 20


def _sample(boxes: list[list[float]], masks: bool = True, size: tuple[int, int] = (HEIGHT, WIDTH)) -> Sample:
    """Random pixels; the mask of an object fills its box (whole numbers)."""
    image = torch.randint(256, (3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    filled = torch.zeros(len(boxes), *size, dtype=torch.bool)
    for mask, (x1, y1, x2, y2) in zip(filled, boxes, strict=True):
        mask[int(y1) : int(y2), int(x1) : int(x2)] = True
    target = Target(
        boxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        labels=torch.arange(len(boxes)),
        size=size,
        masks=filled if masks else None,
        crowd=torch.arange(len(boxes)) % 2 == 1,
        image_id=7,
    )
    return Sample(image, target)


def _map_sample() -> Sample:
    labels = torch.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH)
    return Sample(_sample([]).image, SegmentationMap(labels, 7))


def _target(sample: Sample) -> Target:
    assert isinstance(sample.target, Target)
    return sample.target


def _labels(sample: Sample) -> Tensor:
    assert isinstance(sample.target, SegmentationMap)
    return sample.target.labels


@pytest.mark.parametrize(
    ("size", "shorter", "longer", "expected"),
    [
        pytest.param((375, 500), 600, 1000, (600, 800, 1.6), id="shorter-decides"),
        pytest.param((500, 375), 600, 1000, (800, 600, 1.6), id="tall"),
        pytest.param((333, 500), 600, 1000, (600, 901, 600 / 333), id="rounded"),
        pytest.param((300, 900), 600, 1000, (333, 1000, 1000 / 900), id="longer-decides"),
        pytest.param((600, 1000), 600, 1000, (600, 1000, 1.0), id="same"),
        pytest.param((427, 640), 800, 1333, (800, 1199, 800 / 427), id="coco"),
        pytest.param((600, 1001), 599, 1000, (599, 999, 599 / 600), id="just-fits"),
        pytest.param((2, 5), 1, 9, (1, 2, 0.5), id="half-to-even"),
        pytest.param((1, 1000), 10, 20, (1, 20, 0.02), id="never-zero"),
    ],
)
def test_resized_size(size: tuple[int, int], shorter: int, longer: int, expected: tuple[int, int, float]) -> None:
    assert geometry.resized_size(*size, shorter, longer) == expected


def test_longer_side_is_compared_after_rounding() -> None:
    # 1000.4 rounds to 1000 and passes; 1000.6 does not (rule of the original MXNet code).
    assert geometry.resized_size(6000, 10004, 600, 1000) == (600, 1000, 0.1)
    assert geometry.resized_size(6000, 10006, 600, 1000) == (600, 1000, 1000 / 10006)


def test_resized_size_refuses_nothing() -> None:
    with pytest.raises(ValueError, match="resize: expected positive sizes, got 0x5"):
        geometry.resized_size(0, 5, 10, 10)


def _bilinear(plane: np.ndarray, size: tuple[int, int], scale: float) -> np.ndarray:
    """Textbook bilinear sampling, edges repeated: pixel i of the result lies at (i + 0.5) / scale - 0.5."""
    rows = (np.arange(size[0]) + 0.5) / scale - 0.5
    columns = (np.arange(size[1]) + 0.5) / scale - 0.5
    positions = np.meshgrid(rows, columns, indexing="ij")
    return ndimage.map_coordinates(plane.astype(np.float64), positions, order=1, mode="nearest")


@pytest.mark.parametrize(("shorter", "longer"), [(31, 99), (7, 99), (99, 25)], ids=["up", "down", "longer"])
def test_resize_image(shorter: int, longer: int) -> None:
    image = _sample([]).image
    resized, scale = geometry.resize_image(image, shorter, longer)
    assert resized.dtype == torch.uint8
    expected = np.stack([_bilinear(plane.numpy(), (resized.shape[1], resized.shape[2]), scale) for plane in image])
    # Rounding: half a grey level, and a float32's error beside a tie.
    assert np.abs(resized.numpy() - expected).max() <= 0.5 + 1e-3


def test_resize_to_the_same_size_changes_nothing() -> None:
    sample = _sample([[1, 2, 5, 6]])
    same = geometry.resize(sample, HEIGHT, WIDTH)
    assert torch.equal(same.image, sample.image)
    assert torch.equal(_target(same).boxes, _target(sample).boxes)


def test_resize_scales_boxes_masks_and_keeps_the_rest() -> None:
    sample = _sample([[2, 3, 8, 9], [0, 0, 20, 12]])
    target = _target(geometry.resize(sample, 24, 100))
    assert target.boxes.tolist() == [[4, 6, 16, 18], [0, 0, 40, 24]]
    assert target.masks is not None
    assert torch.equal(target.masks[0].nonzero().amin(0), torch.tensor([6, 4]))
    assert torch.equal(target.masks[0].nonzero().amax(0), torch.tensor([17, 15]))
    assert (target.size, target.original_size, target.image_id) == ((24, 40), (HEIGHT, WIDTH), 7)
    assert target.area is not None
    assert target.area.tolist() == [36, 240]
    assert target.ignored.tolist() == [False, True]


def test_resize_clips_boxes_to_the_rounded_image() -> None:
    sample = _sample([[0, 0, 20, 12]], masks=False)
    resized = geometry.resize(sample, 7, 100)  # 20 * 7 / 12 = 11.67 is rounded to 12, 12 * 7 / 12 is 7
    assert tuple(resized.image.shape[1:]) == (7, 12)
    assert _target(resized).boxes[0, 2] == pytest.approx(20 * 7 / 12)
    odd = geometry.resize(_sample([[0, 0, 20, 13]], masks=False, size=(13, 20)), 8, 100)  # 12.31 is rounded to 12
    assert _target(odd).boxes[0].tolist() == [0, 0, 12, 8]


def test_resize_segmentation_mask_takes_the_nearest_centre() -> None:
    labels = _labels(geometry.resize(_map_sample(), 5, 100))
    rows = ((np.arange(5) + 0.5) * HEIGHT / 5).astype(int)
    columns = ((np.arange(8) + 0.5) * WIDTH / 8).astype(int)
    assert np.array_equal(labels.numpy(), rows[:, None] * WIDTH + columns)


def test_flip() -> None:
    sample = _sample([[2, 3, 8, 9]])
    flipped = geometry.flip(sample)
    assert torch.equal(flipped.image, sample.image[:, :, torch.arange(WIDTH - 1, -1, -1)])
    assert _target(flipped).boxes.tolist() == [[12, 3, 18, 9]]
    assert _target(flipped).masks is not None
    assert torch.equal(geometry.mask_boxes(_target(flipped).masks), _target(flipped).boxes)  # type: ignore[arg-type]
    assert torch.equal(_labels(geometry.flip(_map_sample())), _labels(_map_sample()).flip(1))


def test_crop_moves_clips_and_drops() -> None:
    sample = _sample([[2, 3, 8, 9], [0, 0, 5, 4], [15, 1, 20, 12]])
    cut = geometry.crop(sample, 2, 4, 8, 12, min_side=2)
    target = _target(cut)
    assert torch.equal(cut.image, sample.image[:, 2:10, 4:16])
    assert target.labels.tolist() == [0]  # the others keep one column each
    assert target.boxes.tolist() == [[0, 1, 4, 7]]
    assert target.masks is not None
    assert torch.equal(geometry.mask_boxes(target.masks), target.boxes)
    assert target.size == (8, 12)
    assert _target(geometry.crop(sample, 2, 4, 8, 12, min_side=1)).labels.tolist() == [0, 1, 2]


def test_crop_beyond_the_image_is_filled() -> None:
    cut = geometry.crop(_map_sample(), -2, -3, HEIGHT + 5, WIDTH + 7)
    assert torch.equal(cut.image[:, 2:-3, 3:-4], _map_sample().image)
    outside = torch.ones(HEIGHT + 5, WIDTH + 7, dtype=torch.bool)
    outside[2:-3, 3:-4] = False
    assert (cut.image[:, outside] == 0).all()
    assert (_labels(cut)[outside] == 255).all()
    assert torch.equal(_labels(cut)[~outside], _labels(_map_sample()).ravel())


@pytest.mark.parametrize("turns", [0, 1, 2, 3, 4, -1])
def test_quarter_turns(turns: int) -> None:
    sample = _sample([[2, 3, 8, 9], [15, 0, 20, 4]])
    turned = geometry.rotate90(sample, turns)
    assert torch.equal(turned.image, torch.rot90(sample.image, turns, (1, 2)))
    target = _target(turned)
    assert target.masks is not None
    assert torch.equal(geometry.mask_boxes(target.masks), target.boxes)
    assert target.size == tuple(turned.image.shape[1:])
    assert torch.equal(_labels(geometry.rotate90(_map_sample(), turns)), torch.rot90(_labels(_map_sample()), turns))


@pytest.mark.parametrize("degrees", [90, -90, 180], ids=str)
def test_rotation_by_right_angles_is_exact_on_squares(degrees: int) -> None:
    sample = _sample([[2, 3, 8, 9], [9, 0, 12, 4]], size=(12, 12))
    turned, exact = geometry.rotate(sample, degrees), geometry.rotate90(sample, degrees // 90)
    assert torch.equal(turned.image, exact.image)
    assert torch.equal(_target(turned).boxes, _target(exact).boxes)
    assert torch.equal(_target(turned).masks, _target(exact).masks)  # type: ignore[arg-type]
    corners = geometry.rotate(_sample([[2, 3, 8, 9], [9, 0, 12, 4]], masks=False, size=(12, 12)), degrees)
    torch.testing.assert_close(_target(corners).boxes, _target(exact).boxes, atol=1e-5, rtol=0)


def test_rotation_moves_corners_counter_clockwise() -> None:
    sample = _sample([[12, 4, 16, 8]], masks=False)
    target = _target(geometry.rotate(sample, 30))
    angle = math.radians(-30)  # y points down
    corners = np.array([[12, 4], [16, 4], [16, 8], [12, 8]]) - (10, 6)
    turned = corners @ np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]]) + (10, 6)
    expected = [*turned.min(0), *turned.max(0)]
    assert target.boxes[0].tolist() == pytest.approx(expected, abs=1e-4)


def test_rotation_of_a_wide_image_does_not_shear() -> None:
    # A disc stays a disc of the same area.
    y, x = torch.meshgrid(torch.arange(40) + 0.5, torch.arange(80) + 0.5, indexing="ij")
    disc = ((x - 55) ** 2 + (y - 20) ** 2) < 100
    target = Target(torch.tensor([[45.0, 10, 65, 30]]), torch.tensor([0]), (40, 80), disc[None])
    turned = _target(geometry.rotate(Sample((disc * 255).byte().expand(3, 40, 80).contiguous(), target), 25))
    side = turned.boxes[0, 2:] - turned.boxes[0, :2]
    assert side.tolist() == pytest.approx([20, 20], abs=1)
    centre = (turned.boxes[0, :2] + turned.boxes[0, 2:]) / 2
    assert centre.tolist() == pytest.approx(
        [40 + 15 * math.cos(math.radians(25)), 20 - 15 * math.sin(math.radians(25))], abs=1
    )


def test_rotated_segmentation_mask_ignores_what_was_not_there() -> None:
    sample = Sample(torch.zeros(3, 20, 20, dtype=torch.uint8), SegmentationMap(torch.full((20, 20), 3)))
    labels = _labels(geometry.rotate(sample, 45))
    assert labels[0, 0] == labels[19, 0] == 255
    assert labels[10, 10] == 3
    assert set(labels.unique().tolist()) == {3, 255}
    kept = Sample(sample.image, SegmentationMap(torch.full((20, 20), 255)))
    assert (_labels(geometry.rotate(kept, 45)) == 255).all()


def test_mask_boxes() -> None:
    masks = torch.zeros(2, 5, 7, dtype=torch.bool)
    masks[0, 1, 2] = masks[0, 3, 5] = True
    assert geometry.mask_boxes(masks).tolist() == [[2, 1, 6, 4], [0, 0, 0, 0]]
    assert geometry.mask_boxes(masks[:0]).shape == (0, 4)


def test_clip_boxes() -> None:
    boxes = torch.tensor([[-3.0, -2, 99, 98], [1, 2, 3, 4]])
    assert geometry.clip_boxes(boxes, (HEIGHT, WIDTH)).tolist() == [[0, 0, WIDTH, HEIGHT], [1, 2, 3, 4]]


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda s: geometry.resize(s, 30, 99), id="resize"),
        pytest.param(geometry.flip, id="flip"),
        pytest.param(lambda s: geometry.crop(s, 1, 1, 5, 5), id="crop"),
        pytest.param(lambda s: geometry.rotate90(s, 1), id="rotate90"),
        pytest.param(lambda s: geometry.rotate(s, 20), id="rotate"),
    ],
)
def test_no_objects(change: object) -> None:
    assert callable(change)
    target = _target(change(_sample([])))
    assert (target.boxes.shape, target.labels.dtype) == ((0, 4), torch.int64)
    assert target.masks is not None
    assert target.masks.shape == (0, *target.size)
