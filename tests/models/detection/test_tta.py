from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from dcn.models.detection.detector import Detector, Limits
from dcn.models.detection.shared.frames import Size
from dcn.models.detection.tta import TTADetector, flip_detections
from dcn.models.preprocess import Preprocess
from dcn.structures import Detections
from dcn.tta import TTA


class _BrightColumns(Detector):
    """One box from the first to the last bright column, in pixels of the output; the score tells the width seen."""

    def __init__(self) -> None:
        super().__init__(Preprocess(), classes=("thing", "other"), test_size=(10, 30), score_threshold=0.25)
        self.with_masks: list[Size] = []

    @property
    def limits(self) -> Limits:
        return Limits(1.0, 100)

    def pre_nms(self, images: Sequence[Tensor], output_sizes: Sequence[Size], min_score: float) -> list[Detections]:
        results = []
        for image, (height, width) in zip(images, output_sizes, strict=True):
            columns = (image[0, 0] > 128).nonzero()[:, 0].float()
            factor = width / image.shape[2]
            box = torch.tensor([[columns.min() * factor, 0, (columns.max() + 1) * factor, height]])
            score = torch.tensor([image.shape[2] / 100])
            results.append(Detections(box, score, torch.zeros(1, dtype=torch.int64)).select(score > min_score))
        return results

    def add_masks(
        self, images: Sequence[Tensor], detections: Sequence[Detections], output_sizes: Sequence[Size]
    ) -> list[Detections]:
        self.with_masks += [(image.shape[1], image.shape[2]) for image in images]
        return list(detections)


def _nearest(image: Tensor, shorter: int, longer: int) -> Tensor:
    return image.repeat_interleave(shorter // image.shape[1], 1).repeat_interleave(shorter // image.shape[1], 2)


def _detector(**options: Any) -> TTADetector:
    return TTADetector(_BrightColumns(), TTA(**options), _nearest).eval()


@pytest.fixture
def image() -> Tensor:
    """``[3, 10, 30]`` with bright columns 6 to 11."""
    image = torch.zeros(3, 10, 30, dtype=torch.uint8)
    image[:, :, 6:12] = 255
    return image


@pytest.mark.parametrize("flip", [False, True], ids=["plain", "flipped"])
@pytest.mark.parametrize("scales", [((10, 30), (20, 60), (30, 90)), (1.0, 2.0, 3.0)], ids=["pairs", "factors"])
def test_every_pass_returns_boxes_in_the_same_pixels(image: Tensor, scales: tuple[Any, ...], flip: bool) -> None:
    (result,) = _detector(scales=scales, flip=flip)([image], [(5, 15)])
    assert result.boxes.tolist() == [[3, 0, 6, 5]] * (6 if flip else 3)
    expected = [width for width in (0.9, 0.6, 0.3) for _ in range(2 if flip else 1)]
    assert result.scores.tolist() == pytest.approx(expected)


def test_the_score_threshold_is_that_of_boxes_before_suppression(image: Tensor) -> None:
    detector = _detector(scales=((10, 30), (20, 60)))
    detector.score_threshold = 0.5
    assert detector([image])[0].scores.tolist() == pytest.approx([0.6])


def test_images_of_a_batch_stay_apart(image: Tensor) -> None:
    results = _detector(scales=((20, 60),), flip=True)([image, image.flip(2)])
    assert [one.boxes[:, 0].tolist() for one in results] == [[6, 6], [18, 18]]


def test_masks_come_from_the_first_scale(image: Tensor) -> None:
    detector = _detector(scales=((20, 60), (10, 30)))
    detector([image])
    assert isinstance(detector.model, _BrightColumns)
    assert detector.model.with_masks == [(20, 60)]


@pytest.mark.parametrize(("size", "seen"), [(None, 0.3), ((20, 60), 0.6)], ids=["test-size", "given"])
def test_without_scales_there_is_one_pass_at_the_size(image: Tensor, size: Size | None, seen: float) -> None:
    detector = TTADetector(_BrightColumns(), TTA(max_per_image=5), _nearest, size).eval()
    assert detector([image])[0].scores.tolist() == pytest.approx([seen])


def test_the_rule_takes_the_limits_of_the_model_unless_told_otherwise() -> None:
    assert (_detector(flip=True).rule.iou, _detector(flip=True).rule.max_per_image) == (1.0, 100)
    rule = _detector(iou=0.4, max_per_image=7, class_thresholds={"other": 0.5}).rule
    assert (rule.iou, rule.max_per_image, rule.class_thresholds) == (0.4, 7, ((1, 0.5),))


def test_flipping_is_its_own_inverse() -> None:
    result = Detections(torch.tensor([[2.0, 1, 5, 4]]), torch.ones(1), torch.zeros(1, dtype=torch.int64))
    assert flip_detections(result, 10).boxes.tolist() == [[5, 1, 8, 4]]
    assert torch.equal(flip_detections(flip_detections(result, 10), 10).boxes, result.boxes)


def test_wrong_calls(image: Tensor) -> None:
    with pytest.raises(ValueError, match="got 'thong'; did you mean 'thing'"):
        _detector(class_thresholds={"thong": 0.5})
    with pytest.raises(ValueError, match="for evaluation"):
        _detector(flip=True).train()([image])
