"""Pooling and suppression under detectron2's names."""

from __future__ import annotations

import pytest
import torch

from dcn.compat import detectron2

BOXES = torch.tensor([[0.0, 2, 1, 9, 7], [1, 3, 2, 12, 12]])


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_roi_align(dtype: torch.dtype, aligned: bool) -> None:
    """A ramp: the mean of a bin is the coordinate of its middle, half a pixel lower where boxes are aligned."""
    features = torch.arange(16, dtype=dtype).expand(2, 3, 16, 16).clone().requires_grad_()
    layer = detectron2.ROIAlign((2, 4), 0.5, 2, aligned)
    pooled = layer(features, BOXES)
    shift = 0.5 if aligned else 0.0
    for box, row in zip(BOXES[:, 1:] * 0.5, pooled.detach(), strict=True):
        width = float(box[2] - box[0]) / 4
        expected = [float(box[0]) + (column + 0.5) * width - shift for column in range(4)]
        torch.testing.assert_close(row, torch.tensor(expected, dtype=dtype).expand(3, 2, 4))
    pooled.sum().backward()
    assert features.grad is not None
    assert repr(layer) == f"ROIAlign(output_size=(2, 4), spatial_scale=0.5, sampling_ratio=2, aligned={aligned})"


def test_boxes_without_their_image_are_refused() -> None:
    with pytest.raises(AssertionError, match=r"rois: expected \[K, 5\] \(image, x1, y1, x2, y2\), got shape \[2, 4\]"):
        detectron2.ROIAlign(7, 1.0, 0)(torch.zeros(2, 3, 8, 8), BOXES[:, 1:])


def test_suppression_of_classes_apart() -> None:
    boxes, scores = torch.tensor([[0.0, 0, 8, 8], [0, 0, 8, 7], [0, 1, 8, 8]]), torch.tensor([0.5, 0.9, 0.7])
    assert detectron2.nms(boxes, scores, 0.5).tolist() == [1]
    assert detectron2.batched_nms(boxes, scores, torch.tensor([0, 0, 1]), 0.5).tolist() == [1, 2]
