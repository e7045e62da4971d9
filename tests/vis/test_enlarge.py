from __future__ import annotations

import pytest
import torch

from dcn.structures import Detections, SegmentationMap, Target
from dcn.vis.detections import draw_detections
from dcn.vis.enlarge import enlarge

IMAGE = torch.randint(0, 256, (3, 30, 90), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
BOXES = torch.tensor([[10.0, 5.0, 40.0, 25.0]])
MASKS = torch.zeros(1, 30, 90, dtype=torch.bool)
MASKS[0, 5:25, 10:40] = True


@pytest.mark.parametrize(
    "annotation",
    [
        Target(BOXES, torch.tensor([0]), (30, 90), MASKS),
        Target(BOXES, torch.tensor([0]), (30, 90)),
        Detections(BOXES, torch.tensor([0.5]), torch.tensor([0]), MASKS),
    ],
    ids=["target", "boxes", "detections"],
)
def test_boxes_and_masks_follow_a_small_image(annotation: Target | Detections) -> None:
    image, large = enlarge(IMAGE, annotation)
    assert image.shape == (3, 120, 360)
    assert torch.equal(image[:, ::4, ::4], IMAGE)
    assert torch.equal(image[:, 3::4, 3::4], IMAGE)
    assert large.boxes.tolist() == [[40, 20, 160, 100]]
    assert large.masks is None or torch.equal(large.masks[0, 20:100, 40:160], torch.ones(80, 120, dtype=torch.bool))
    assert large.masks is None or int(large.masks.sum()) == 80 * 120
    assert draw_detections(image, large.boxes, large.labels, masks=large.masks, classes=["cat"]).shape == image.shape


def test_classes_of_pixels_follow() -> None:
    labels = torch.arange(30 * 90).reshape(30, 90) % 3
    image, large = enlarge(IMAGE, SegmentationMap(labels))
    assert large.labels.shape == image.shape[1:]
    assert torch.equal(large.labels[1::4, 2::4], labels)


def test_larger_images_stay() -> None:
    image, target = torch.zeros(3, 100, 201, dtype=torch.uint8), Target(BOXES, torch.tensor([0]), (100, 201))
    assert enlarge(image, target) == (image, target)
