from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch

from dcn.models.detection.padded import (
    PaddedDetections,
    Proposals,
    best_proposals,
    fixed_shapes,
    in_order,
    joined,
    make_frames,
    pad_detections,
    places_of,
    shapes_are_fixed,
)
from dcn.structures import Detections

CPU = torch.device("cpu")


def test_frames_by_hand() -> None:
    frames = make_frames([(50, 80), (64, 96)], [(100, 40), (64, 96)], CPU, clipped=[(64, 96), (64, 96)])
    assert frames.sizes.tolist() == [[64, 96], [64, 96]]
    assert frames.factors.tolist() == [[0.5, 2.0, 0.5, 2.0], [1, 1, 1, 1]]
    assert frames.output_sizes.tolist() == [[100, 40], [64, 96]]
    assert make_frames([], [], CPU).sizes.shape == (0, 2)


def test_the_best_come_first_and_empty_places_are_zero() -> None:
    boxes = torch.arange(1.0, 9.0)[None, :, None].expand(2, 8, 4)
    scores = torch.tensor([[0.1, 0.9, 0.5, 0.9, 0.0, 0.3, torch.nan, 0.2], [0.5] * 8])
    keep = torch.tensor([[1, 1, 0, 1, 1, 0, 1, 0], [0, 0, 0, 1, 0, 0, 0, 0]]).bool()
    found = best_proposals(boxes, scores, keep, 4)
    assert found.boxes[:, :, 0].tolist() == [[2, 4, 1, 5], [4, 0, 0, 0]]  # equal scores in order, NaN counts as 0
    assert found.valid.tolist() == [[True] * 4, [True, False, False, False]]
    assert found.rois()[3:5].tolist() == [[0, 5, 5, 5, 5], [1, 4, 4, 4, 4]]
    assert [len(one) for one in found.per_image()] == [4, 1]


@pytest.mark.parametrize("forced", [False, True])
def test_empty_places_are_cut_off_unless_shapes_are_fixed(forced: bool) -> None:
    valid = torch.tensor([[True, False, False], [True, True, False]])
    proposals = Proposals(torch.ones(2, 3, 4), valid)
    detections = PaddedDetections(torch.ones(2, 3, 4), torch.ones(2, 3), torch.ones(2, 3).long(), valid)
    if forced:
        with fixed_shapes():
            assert shapes_are_fixed(valid)
            assert proposals.trimmed() is proposals
            assert detections.trimmed() is detections
    assert not shapes_are_fixed(valid)
    assert proposals.trimmed().boxes.shape == (2, 2, 4)
    assert detections.trimmed().labels.shape == (2, 2)
    assert Proposals(torch.ones(0, 3, 4), torch.ones(0, 3).bool()).trimmed().valid.shape == (0, 0)


def test_padding_goes_there_and_back() -> None:
    first = Detections(torch.rand(2, 4), torch.tensor([0.9, 0.8]), torch.tensor([3, 1]))
    second = Detections(torch.rand(0, 4), torch.rand(0), torch.zeros(0).long())
    padded = pad_detections([first, second])
    assert padded.valid.tolist() == [[True, True], [False, False]]
    found, masks = padded.per_image()
    assert masks == [None, None]
    for one, given in zip(found, (first, second), strict=True):
        assert torch.equal(one.boxes, given.boxes)
        assert torch.equal(one.scores, given.scores)
        assert torch.equal(one.labels, given.labels)
    # Memory of its own: a detection must not keep the whole batch alive.
    assert found[0].boxes.untyped_storage().nbytes() == 2 * 4 * 4


@pytest.mark.parametrize("forced", [False, True], ids=["trimmed", "fixed"])
def test_places(forced: bool) -> None:
    chosen = torch.tensor([False, True, True, False, True])
    values = torch.arange(5.0)[:, None] * torch.tensor([1.0, 10.0])
    with fixed_shapes() if forced else nullcontext():
        places = places_of(chosen)
        first, twice = places.first(2), joined(places, places).first(9)
        ordered = in_order(torch.tensor([4, 0, 2]), torch.tensor([True, False, True]))
    assert places.valid.numel() == (5 if forced else 3)
    assert places.indices[places.valid].tolist() == [1, 2, 4]
    assert first.indices.tolist() == [1, 2]
    assert twice.indices[twice.valid].tolist() == [1, 2, 4, 1, 2, 4]
    assert twice.valid.tolist() == [True] * 6 + [False] * (3 if forced else 0)
    assert ordered.indices[ordered.valid].tolist() == [2, 4]
    assert places.of(values, -1)[places.valid].tolist() == [[1, 10], [2, 20], [4, 40]]
    assert bool((places.of(values, -1)[~places.valid] == -1).all())
    assert places.spread(places.of(values, 99), 5, 7).tolist() == [[7, 7], [1, 10], [2, 20], [7, 7], [4, 40]]


@pytest.mark.parametrize("forced", [False, True], ids=["trimmed", "fixed"])
def test_no_places(forced: bool) -> None:
    with fixed_shapes() if forced else nullcontext():
        places = places_of(torch.zeros(0, dtype=torch.bool)).first(3)
    assert places.of(torch.zeros(0, 4)).shape == (0, 4)
    assert places.spread(torch.zeros(0, 4), 2, 1).tolist() == [[1] * 4] * 2
