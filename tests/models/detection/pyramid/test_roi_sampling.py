from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch

from dcn import boxes
from dcn.models.detection.pyramid.roi_sampling import sample_rois
from dcn.models.detection.shared.fixed_shapes import fixed_shapes
from dcn.structures import Target

OBJECTS = torch.tensor([[10.0, 10, 30, 30], [50.0, 50, 90, 80]])


def _target(count: int = 2) -> Target:
    return Target(OBJECTS[:count], torch.tensor([4, 2])[:count], (100, 100))


def _proposals(seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    near = OBJECTS.repeat(40, 1) + torch.randn(80, 4, generator=generator) * 4
    corner = torch.rand(80, 2, generator=generator) * 60
    return torch.cat((near, torch.cat((corner, corner + 30), 1)))


def test_every_row_is_what_it_says() -> None:
    torch.manual_seed(0)
    proposals = [_proposals(), _proposals(1)]
    sampled = sample_rois(proposals, [_target(), _target(1)], 7, count=64)
    for image, target in enumerate((_target(), _target(1))):
        chosen = sampled.rois[:, 0] == image
        assert int(chosen.sum()) == 64
        positive = sampled.positive[chosen]
        assert int(positive.sum()) == 16
        assert positive.tolist() == sorted(positive.tolist(), reverse=True)
        overlap = boxes.iou(target.boxes, sampled.rois[chosen, 1:])
        best, index = overlap.max(0)
        torch.testing.assert_close(positive, best >= 0.5)
        torch.testing.assert_close(sampled.objects[chosen], torch.where(positive, index, -1))
        torch.testing.assert_close(sampled.labels[chosen], torch.where(positive, target.labels[index], 7))
        reference = torch.where(positive[:, None], target.boxes[index], sampled.rois[chosen, 1:])
        torch.testing.assert_close(sampled.boxes[chosen], reference)
        torch.testing.assert_close(sampled.is_object[chosen], best == 1)


def test_objects_join_the_proposals() -> None:
    sampled = sample_rois([torch.zeros(0, 4)], [_target()], 7)
    torch.testing.assert_close(sampled.rois[:, 1:].sort(0).values, OBJECTS.sort(0).values)
    assert sampled.is_object.tolist() == [True, True]


def test_without_objects_all_is_background() -> None:
    sampled = sample_rois([_proposals()], [_target(0)], 7, count=32)
    assert sampled.labels.tolist() == [7] * 32


def test_nothing_at_all() -> None:
    sampled = sample_rois([torch.zeros(0, 4)], [_target(0)], 7)
    assert sampled.rois.shape == (0, 5)
    assert sampled.labels.shape == (0,)


def test_higher_overlap_makes_fewer_positives() -> None:
    counts = [
        int(
            sample_rois(
                [_proposals()], [_target()], 7, count=1000, positive_fraction=1, positive_iou=iou
            ).positive.sum()
        )
        for iou in (0.5, 0.6, 0.7)
    ]
    assert counts[0] > counts[1] > counts[2] > 2


def _by_loops(proposal: torch.Tensor, target: Target, classes: int) -> list[tuple[list[float], int, int, bool]]:
    """Region, label, object and whether it is an annotated box; everything is sampled, positives first."""
    rows = []
    for slot, box in enumerate([*target.boxes, *proposal]):
        overlap = boxes.iou(target.boxes, box[None])[:, 0].tolist()
        owner = slot if slot < len(target) else overlap.index(max(overlap))
        is_positive = slot < len(target) or overlap[owner] >= 0.5
        label = int(target.labels[owner]) if is_positive else classes
        rows.append((box.tolist(), label, owner if is_positive else -1, slot < len(target)))
    return [row for row in rows if row[2] >= 0] + [row for row in rows if row[2] < 0]


@pytest.mark.parametrize("fixed", [False, True], ids=["trimmed", "fixed"])
def test_where_nothing_is_random_every_region_is_taken_in_order(fixed: bool) -> None:
    proposals, target = _proposals(), _target()
    there = torch.arange(len(proposals)) % 3 != 0
    with fixed_shapes() if fixed else nullcontext():
        got = sample_rois([proposals], [target], 7, count=1000, positive_fraction=1, valid=[there])
        positives = got.positives()
    expected = _by_loops(proposals[there], target, 7)
    rows = zip(got.rois[:, 1:].tolist(), got.labels.tolist(), got.objects.tolist(), got.is_object.tolist(), strict=True)
    assert [row for row, valid in zip(rows, got.valid.tolist(), strict=True) if valid] == expected
    assert len(got.rois) == (len(proposals) + 2 if fixed else len(expected))
    assert got.rois[~got.valid].count_nonzero() == 0
    assert positives.objects[positives.valid].tolist() == [row[2] for row in expected if row[2] >= 0]
    assert positives.boxes[positives.valid].tolist() == target.boxes[positives.objects[positives.valid]].tolist()


def test_fixed_shapes_sample_the_same() -> None:
    """A seed means the same on every device, with empty slots behind the proposals or without."""
    padded = torch.cat((_proposals(), torch.zeros(40, 4)))
    torch.manual_seed(3)
    few = sample_rois([_proposals()], [_target()], 7, count=64)
    torch.manual_seed(3)
    with fixed_shapes():
        many = sample_rois([padded], [_target()], 7, count=64, valid=[torch.arange(len(padded)) < len(_proposals())])
        positives = many.positives()
    assert many.rois.tolist() == few.rois.tolist()
    assert len(positives.rois) == 16
    assert positives.rois.tolist() == few.positives().rois.tolist()
    assert positives.is_object.dtype == torch.bool
