from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from dcn.engine.testing import MergingDetector, Size, Steps, mirror
from dcn.structures import Detections


class _Stub(nn.Module):
    """Stands for a detector; the steps below do its work."""

    classes = ("thing",)
    score_threshold = 0.25


def _bright_columns(images: Sequence[Tensor], output_sizes: Sequence[Size], threshold: float) -> list[Detections]:
    """One box from the first to the last bright column, in pixels of the output; the score tells the width seen."""
    found = []
    for image, (height, width) in zip(images, output_sizes, strict=True):
        columns = (image[0, 0] > 128).nonzero()[:, 0].float()
        factor = width / image.shape[2]
        box = torch.tensor([[columns.min() * factor, 0, (columns.max() + 1) * factor, height]])
        score = torch.tensor([image.shape[2] / 100])
        found.append(Detections(box, score, torch.zeros(1, dtype=torch.int64)).select(score > threshold))
    return found


def _all(parts: Sequence[Detections], size: Size) -> Detections:
    names = ("boxes", "scores", "labels")
    return Detections(*(torch.cat([getattr(part, name) for part in parts]) for name in names))


def _nearest(image: Tensor, shorter: int, longer: int) -> Tensor:
    return image.repeat_interleave(shorter // image.shape[1], 1).repeat_interleave(shorter // image.shape[1], 2)


def _detector(scales: Sequence[Size | None], flip: bool) -> MergingDetector:
    steps = Steps(_bright_columns, _all, lambda images, found, sizes: found, _nearest)
    return MergingDetector(_Stub(), steps, scales, flip=flip).eval()


@pytest.fixture
def image() -> Tensor:
    """``[3, 10, 30]`` with bright columns 6 to 11."""
    image = torch.zeros(3, 10, 30, dtype=torch.uint8)
    image[:, :, 6:12] = 255
    return image


@pytest.mark.parametrize("flip", [False, True])
def test_every_pass_answers_in_the_same_pixels(image: Tensor, flip: bool) -> None:
    found = _detector([None, (20, 60), (30, 90)], flip)([image], [(5, 15)])
    assert found[0].boxes.tolist() == [[3, 0, 6, 5]] * (6 if flip else 3)
    widths = [0.3, 0.6, 0.9]
    expected = [width for width in widths for _ in range(2)] if flip else widths
    assert found[0].scores.tolist() == pytest.approx(expected)


def test_the_threshold_is_that_of_raw_boxes(image: Tensor) -> None:
    detector = _detector([None, (20, 60)], False)
    detector.score_threshold = 0.5
    assert detector([image])[0].scores.tolist() == pytest.approx([0.6])


def test_images_of_a_batch_stay_apart(image: Tensor) -> None:
    other = image.flip(2)
    found = _detector([(20, 60)], True)([image, other])
    assert [one.boxes[:, 0].tolist() for one in found] == [[6, 6], [18, 18]]


def test_masks_are_made_on_the_first_scale(image: Tensor) -> None:
    seen: list[int] = []

    def finish(images: Sequence[Tensor], found: list[Detections], sizes: Sequence[Size]) -> list[Detections]:
        seen.extend(shown.shape[2] for shown in images)
        return found

    MergingDetector(_Stub(), Steps(_bright_columns, _all, finish, _nearest), [(20, 60), None]).eval()([image])
    assert seen == [60]


def test_mirror_is_its_own_inverse() -> None:
    found = Detections(torch.tensor([[2.0, 1, 5, 4]]), torch.ones(1), torch.zeros(1, dtype=torch.int64))
    assert mirror(found, 10).boxes.tolist() == [[5, 1, 8, 4]]
    assert torch.equal(mirror(mirror(found, 10), 10).boxes, found.boxes)


def test_mistakes_are_named(image: Tensor) -> None:
    with pytest.raises(ValueError, match="at least one size"):
        _detector([], False)
    with pytest.raises(ValueError, match="for evaluation"):
        _detector([None], False).train()([image])
