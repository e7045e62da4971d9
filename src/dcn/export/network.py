"""A model of this package as one function of tensors, from uint8 pixels to final results: what is exported."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from dcn.models.detection.detector import Detector
from dcn.models.detection.shared.frames import Frames
from dcn.models.preprocess import Preprocess
from dcn.models.segmentation.model import SegmentationModel

DETECTION_OUTPUTS = ("boxes", "scores", "labels", "valid")
MASKS = "masks"
SEGMENTATION_OUTPUTS = ("labels",)
INPUTS = ("images", "sizes", "output_sizes", "min_score")


def _normalised(preprocess: Preprocess, images: Tensor, sizes: Tensor) -> Tensor:
    """What :class:`Preprocess` makes of the images, whatever stands in the padding."""
    planes = images if preprocess.order == (0, 1, 2) else images.flip(1)
    pixels = (planes.to(torch.float32) - preprocess.mean) / preprocess.std
    rows = torch.arange(images.shape[2], device=images.device)[:, None] < sizes[:, 0, None, None]
    columns = torch.arange(images.shape[3], device=images.device) < sizes[:, 1, None, None]
    inside = (rows & columns)[:, None]
    padding = (
        -preprocess.mean / preprocess.std if preprocess.pad_value == "black" else torch.zeros_like(preprocess.mean)
    )
    return torch.where(inside, pixels, padding)


class DetectionNetwork(nn.Module):
    """A detector from pixels to detections in a fixed number of slots.

    Args:
        model: in evaluation mode.
    """

    def __init__(self, model: Detector) -> None:
        super().__init__()
        self.model = model
        self.padding_counts = bool(getattr(model, "padding_counts", False))

    def forward(self, images: Tensor, sizes: Tensor, output_sizes: Tensor, min_score: Tensor) -> tuple[Tensor, ...]:
        """Boxes, scores, labels, whether a slot is filled, and masks where the model has them.

        Args:
            images: ``[N, 3, H, W]`` uint8 RGB, padded at the right and the bottom to multiples of the divisor.
            sizes: ``[N, 2]`` float32 (height, width) of each image without padding.
            output_sizes: ``[N, 2]`` float32, in whose pixels boxes are returned.
            min_score: detections have larger scores; float32 without axes.
        """
        preprocess = self.model.preprocess
        factors = (output_sizes / sizes).flip(1).repeat(1, 2)
        seen = (sizes / preprocess.divisor).ceil() * preprocess.divisor if self.padding_counts else sizes
        frames = Frames(seen, factors, output_sizes)
        threshold: Any = min_score
        detections = self.model.detect(_normalised(preprocess, images, sizes), frames, threshold)
        results = (detections.boxes, detections.scores, detections.labels, detections.valid)
        return results if detections.masks is None else (*results, detections.masks)


class SegmentationNetwork(nn.Module):
    """A segmentation model from pixels to the class of every pixel.

    Args:
        model: in evaluation mode.
    """

    def __init__(self, model: SegmentationModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor, sizes: Tensor) -> tuple[Tensor]:
        """Labels ``[N, H, W]`` int64; arguments as for :class:`DetectionNetwork`."""
        return (self.model.scores(_normalised(self.model.preprocess, images, sizes)).argmax(1),)


def network_of(model: Any) -> DetectionNetwork | SegmentationNetwork:
    """The function of a model that is exported.

    Raises:
        ValueError: the model is neither a detector nor a segmentation model.
    """
    task = getattr(model, "task", None)
    if task == "detection":
        return DetectionNetwork(model)
    if task == "segmentation":
        return SegmentationNetwork(model)
    raise ValueError(
        f"model: expected a detector or a segmentation model of this package, got {type(model).__name__}; export other "
        "modules with torch.onnx.export after `import dcn`"
    )
