"""Results as ``supervision.Detections``, against the library itself."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import dcn
from dcn.extras import MissingPackageError
from dcn.structures import Detections, SegmentationMap
from tests.runs.small import write_photos, write_weights

sv = pytest.importorskip("supervision", reason="supervision is not installed: pip install supervision")
CLASSES = ("cat", "dog", "bird")


def detections(count: int = 3, masks: bool = True) -> Detections:
    boxes = torch.tensor([[0.0, 0, 4, 5], [1, 2, 7, 8], [3.5, 0.25, 6, 6]])[:count]
    pixels = torch.zeros(count, 8, 10, dtype=torch.bool)
    for mask, box in zip(pixels, boxes.int().tolist(), strict=True):
        mask[box[1] : box[3], box[0] : box[2]] = True
    labels = torch.tensor([2, 0, 2])[:count]
    return Detections(boxes, torch.tensor([0.9, 0.8, 0.1])[:count], labels, pixels if masks else None, CLASSES)


@pytest.mark.parametrize("masks", [True, False], ids=["masks", "boxes"])
@pytest.mark.parametrize("count", [0, 1, 3])
def test_detections_keep_every_value_and_their_order(count: int, masks: bool) -> None:
    ours = detections(count, masks)
    theirs = ours.to_supervision()
    assert isinstance(theirs, sv.Detections)
    assert len(theirs) == count
    assert theirs.xyxy.shape == (count, 4)
    assert np.array_equal(theirs.xyxy, ours.boxes.numpy())
    assert np.array_equal(theirs.confidence, ours.scores.numpy())
    assert theirs.class_id.tolist() == ours.labels.tolist()
    assert theirs.data["class_name"].tolist() == ["bird", "cat", "bird"][:count]
    if masks:
        assert ours.masks is not None
        assert theirs.mask.dtype == bool
        assert np.array_equal(theirs.mask, ours.masks.numpy())
    else:
        assert theirs.mask is None


def test_the_library_works_with_them() -> None:
    """Its own filter, areas, suppression, empty results and lists of several images."""
    theirs = detections().to_supervision()
    assert theirs[theirs.confidence > 0.5].data["class_name"].tolist() == ["bird", "cat"]
    assert theirs.area.tolist() == [int(mask.sum()) for mask in detections().masks]  # type: ignore[union-attr]
    assert len(theirs.with_nms(0.9)) == 3
    assert len(sv.Detections.merge([theirs, detections(0).to_supervision()])) == 3
    drawn = sv.BoxAnnotator().annotate(np.zeros((8, 10, 3), np.uint8), theirs)
    assert drawn.any()


def test_names_are_those_given_then_those_known() -> None:
    ours = detections(masks=False)
    assert ours.to_supervision(["a", "b"]).data["class_name"].tolist() == ["2", "a", "2"]
    plain = Detections(ours.boxes, ours.scores, ours.labels)
    assert "class_name" not in plain.to_supervision().data
    assert ours.select(ours.scores > 0.5).to("cpu").classes == CLASSES


def test_a_map_is_a_mask_for_each_class() -> None:
    """Against the library's reading of a map of transformers; its boxes end at the last pixel, ours behind it."""
    labels = torch.randint(0, 3, (9, 12), generator=torch.Generator().manual_seed(0))
    labels[:2] = 255
    ours = SegmentationMap(labels, classes=(*CLASSES, "fish")).to_supervision()
    theirs = sv.Detections.from_transformers(labels, dict(enumerate(CLASSES)) | {255: "ignored"})
    keep = theirs.class_id != 255
    assert ours.class_id.tolist() == theirs.class_id[keep].tolist() == [0, 1, 2]
    assert np.array_equal(ours.mask, theirs.mask[keep])
    assert ours.data["class_name"].tolist() == theirs.data["class_name"][keep].tolist()
    assert np.array_equal(ours.xyxy, sv.mask_to_xyxy(ours.mask) + np.array([0, 0, 1, 1]))
    assert ours.confidence is None


def test_a_map_of_ignored_pixels_is_empty() -> None:
    empty = SegmentationMap(torch.full((3, 4), 255)).to_supervision()
    assert len(empty) == 0
    assert empty.mask.shape == (0, 3, 4)


def test_predictions_know_their_classes(tmp_path: Path) -> None:
    predictor = dcn.load(write_weights(tmp_path), device="cpu")
    (photo,) = write_photos(tmp_path, "a.png")
    ours = predictor.predict(photo, min_score=0.0)
    names = [predictor.classes[label] for label in ours.labels.tolist()]
    assert ours.to_supervision().data["class_name"].tolist() == names
    assert names


def test_without_the_package_the_command_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "supervision", None)
    for result in (detections(), SegmentationMap(torch.zeros(2, 2).long())):
        with pytest.raises(MissingPackageError, match=r'supervision: .* "deformable-convnets\[supervision\]"'):
            result.to_supervision()
