from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from dcn.models.detection.original.targets import Objects, assign_anchors, assign_regions, objects_of
from dcn.models.detection.shared.anchors import grid_anchors, original_cell_anchors
from dcn.models.detection.shared.fixed_shapes import fixed_shapes
from dcn.structures import Target

GOLDEN = Path(__file__).parents[3] / "golden"


@pytest.fixture(scope="module")
def recorded() -> dict[str, np.ndarray]:
    with np.load(GOLDEN / "utils.npz") as file:
        return {name: file[name] for name in file.files}


def _objects(recorded: dict[str, np.ndarray]) -> Objects:
    gt = torch.from_numpy(recorded["assign_gt"])
    return Objects(gt[:, :4].float(), gt[:, 4].long())


def _in_our_order(array: np.ndarray, sizes: list[tuple[int, int]], shapes: int, values: int) -> Tensor:
    """``[values * shapes * cells]``, per level (shape, value, row, column), to (level, row, column, shape, value)."""
    parts, start = [], 0
    for height, width in sizes:
        count = height * width
        if values == 1:
            part = array.reshape(-1)[start * shapes : (start + count) * shapes].reshape(shapes, 1, count)
        else:
            part = array.reshape(shapes, values, -1)[:, :, start : start + count]
        parts.append(part.transpose(2, 0, 1).reshape(-1, values))
        start += count
    return torch.from_numpy(np.concatenate(parts))


def _check_recorded(
    recorded: dict[str, np.ndarray], prefix: str, anchors: Tensor, sizes: list[tuple[int, int]]
) -> None:
    shapes = len(anchors) // sum(h * w for h, w in sizes)
    size = (416, 608) if prefix == "pyr" else (400, 592)
    got = assign_anchors(anchors, _objects(recorded), size, inside_only=prefix != "pyr", samples=None)
    labels = _in_our_order(recorded[f"{prefix}_label"], sizes, shapes, 1)[:, 0]
    deltas = _in_our_order(recorded[f"{prefix}_bbox_target"], sizes, shapes, 4)
    weights = _in_our_order(recorded[f"{prefix}_bbox_weight"], sizes, shapes, 4)
    assert (labels == 1).sum() > 3
    torch.testing.assert_close(got.labels.float(), labels.float())
    torch.testing.assert_close((got.labels == 1).float(), weights[:, 0].float())
    positive = got.labels == 1
    torch.testing.assert_close(got.deltas[positive], deltas[positive].float(), rtol=1e-4, atol=1e-5)


def test_anchors_of_one_map_as_recorded(recorded: dict[str, np.ndarray]) -> None:
    cell = original_cell_anchors(16, (4, 8, 16, 32), (0.5, 1, 2))
    _check_recorded(recorded, "assign", grid_anchors(cell, (25, 37), 16), [(25, 37)])


def test_anchors_of_a_pyramid_as_recorded(recorded: dict[str, np.ndarray]) -> None:
    sizes = [(104, 152), (52, 76), (26, 38), (13, 19), (7, 10)]
    levels = zip(sizes, (4, 8, 16, 32, 64), strict=True)
    anchors = [grid_anchors(original_cell_anchors(s, (8,), (0.5, 1, 2)), size, s) for size, s in levels]
    _check_recorded(recorded, "pyr", torch.cat(anchors), sizes)


def test_anchors_without_objects_are_all_background() -> None:
    anchors = torch.tensor([[0.0, 0, 15, 15], [8, 8, 23, 23], [-1, 0, 14, 15]])
    got = assign_anchors(anchors, Objects(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)), (32, 32))
    assert got.labels.tolist() == [0, 0, -1]


def test_at_most_half_of_the_sampled_anchors_are_objects() -> None:
    anchors = torch.tensor([[0.0, 0, 15, 15]]).repeat(40, 1)
    anchors[20:] += 16
    objects = Objects(torch.tensor([[0.0, 0, 15, 15]]), torch.tensor([3]))
    got = assign_anchors(anchors, objects, (64, 64), samples=16)
    assert (got.labels == 1).sum() == 8
    assert (got.labels == 0).sum() == 8
    assert (got.labels[:20] == 0).sum() == 0
    aware = assign_anchors(anchors, objects, (64, 64), samples=16, class_aware=True)
    assert sorted(set(aware.labels.tolist())) == [-1, 0, 3]


_REGIONS = torch.tensor([[0.0, 0, 9, 9], [0, 0, 9, 4], [0, 0, 9, 3], [20, 20, 29, 29], [0, 0, 9, 7]])
# Overlap with the object below: 1, 0.5, 0.4, 0, 0.8.
_OBJECT = Objects(torch.tensor([[0.0, 0, 9, 9]]), torch.tensor([2]))


def test_all_regions_with_objects_first() -> None:
    got = assign_regions(_REGIONS, _OBJECT)
    assert got.labels.tolist() == [2, 2, 2, 2, 0, 0]
    torch.testing.assert_close(got.rois, torch.cat((_REGIONS[[0, 1, 4]], _OBJECT.boxes, _REGIONS[[2, 3]])))
    # Region 1 is 10 x 5 around y = 2, the object 10 x 10 around y = 4.5: dy = 2.5 / 5, dh = log 2.
    torch.testing.assert_close(got.deltas[1], torch.tensor([0.0, 0.5 / 0.1, 0, float(np.log(2)) / 0.2]))
    assert (got.deltas[4:] == 0).all()


def test_background_must_overlap_enough_and_the_rest_is_filled() -> None:
    torch.manual_seed(0)
    got = assign_regions(_REGIONS, _OBJECT, samples=8, lowest_negative_iou=0.1)
    # Two objects (a quarter of 8), one region in the background range, five repeats that count as background.
    assert got.labels.tolist() == [2, 2, 0, 0, 0, 0, 0, 0]
    torch.testing.assert_close(got.rois[2], _REGIONS[2])
    everything = {tuple(row) for row in torch.cat((_REGIONS, _OBJECT.boxes)).tolist()}
    assert {tuple(row) for row in got.rois.tolist()} <= everything


@pytest.mark.parametrize("samples", [None, 4], ids=["all", "four"])
def test_regions_without_objects(samples: int | None) -> None:
    nothing = Objects(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
    got = assign_regions(_REGIONS, nothing, samples=samples, lowest_negative_iou=0.0)
    assert got.labels.tolist() == [0] * (samples or 5)


def test_objects_are_rounded_inclusive_and_inside() -> None:
    target = Target(
        boxes=torch.tensor([[1.4, 2.6, 11.4, 30.0], [0, 0, 5, 5], [3, 3, 3, 9], [4.5, 5.5, 10.5, 10.5]]),
        labels=torch.tensor([0, 1, 2, 3]),
        size=(24, 16),
        difficult=torch.tensor([False, True, False, False]),
    )
    got = objects_of(target, torch.device("cpu"))
    assert got.labels.tolist() == [1, 4]
    # 10.5 - 1 = 9.5 and 4.5, 5.5 are halves: they go to the even neighbour.
    assert got.boxes.tolist() == [[1, 3, 10, 23], [4, 6, 10, 10]]


@pytest.mark.parametrize("samples", [None, 16], ids=["all", "sampled"])
@pytest.mark.parametrize("objects", [_OBJECT, Objects(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))])
def test_fixed_shapes_say_the_same(samples: int | None, objects: Objects) -> None:
    """Empty slots behind the proposals change nothing, and a seed means the same."""
    random = torch.rand(30, 4, generator=torch.Generator().manual_seed(0)) * 12
    proposals = torch.cat((_REGIONS, torch.cat((random[:, :2], random[:, :2] + random[:, 2:]), 1)))
    torch.manual_seed(2)
    anchors = assign_anchors(proposals - 2, objects, (20, 20), samples=samples)
    regions = assign_regions(proposals, objects, samples=samples, lowest_negative_iou=0.1)
    torch.manual_seed(2)
    with fixed_shapes():
        same_anchors = assign_anchors(proposals - 2, objects, (20, 20), samples=samples)
        same = assign_regions(proposals, objects, samples=samples, lowest_negative_iou=0.1)
    assert same_anchors.labels.tolist() == anchors.labels.tolist()
    torch.testing.assert_close(same_anchors.deltas, anchors.deltas)
    valid = same.labels >= 0
    assert same.labels[valid].tolist() == regions.labels.tolist()
    torch.testing.assert_close(same.rois[valid], regions.rois)
    torch.testing.assert_close(same.deltas[valid], regions.deltas)
    assert bool(same.deltas.isfinite().all())
    assert len(same.labels) == (samples or len(proposals) + len(objects.labels))


@pytest.mark.parametrize("fixed", [False, True], ids=["trimmed", "fixed"])
def test_regions_without_any_proposal(fixed: bool) -> None:
    with fixed_shapes() if fixed else nullcontext():
        got = assign_regions(torch.zeros(3, 4), _OBJECT, samples=5, valid=torch.zeros(3, dtype=torch.bool))
        nothing = assign_regions(
            torch.zeros(3, 4),
            Objects(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)),
            samples=5,
            valid=torch.zeros(3, dtype=torch.bool),
        )
    assert got.labels.tolist() == [2, 0, 0, 0, 0]
    assert got.rois.tolist() == _OBJECT.boxes.repeat(5, 1).tolist()
    assert nothing.labels.tolist() == ([-1] * 5 if fixed else [])


@pytest.mark.parametrize("fixed", [False, True], ids=["trimmed", "fixed"])
def test_what_fills_up_is_drawn_evenly(fixed: bool) -> None:
    """Two objects and one region in the background range leave three slots for three of the six regions."""
    torch.manual_seed(0)
    counts = torch.zeros(6)
    everything = torch.cat((_REGIONS, _OBJECT.boxes))
    with fixed_shapes() if fixed else nullcontext():
        for _ in range(300):
            got = assign_regions(_REGIONS, _OBJECT, samples=6, positive_fraction=0.25, lowest_negative_iou=0.1)
            assert got.labels.tolist() == [2, 2, 0, 0, 0, 0]
            repeats = (got.rois[3:, None] == everything).all(2)
            # The object and region 0 are the same box: of two such rows the first is counted.
            counts += torch.nn.functional.one_hot(repeats.int().argmax(1), 6).sum(0)
    # 3 of 6 in 300 rounds: 150 each, 300 for the two that are equal; the standard deviation is sqrt(300 / 4) = 8.7.
    assert counts.sub(torch.tensor([300.0, 150, 150, 150, 150, 0])).abs().max() < 5 * 8.7
