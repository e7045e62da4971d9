"""A model of this package as one function of tensors, from uint8 pixels to results: what is exported."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from dcn.export.metadata import Metadata
from dcn.models.detection.detector import Detector
from dcn.models.detection.shared.frames import Frames
from dcn.models.preprocess import Preprocess
from dcn.models.segmentation.model import SegmentationModel

MASKS = "masks"


def input_names(metadata: Metadata) -> tuple[str, ...]:
    """What a file takes, in its order."""
    if metadata.task != "detection":
        return ("images", "sizes")
    return ("images", "sizes", "output_sizes", *(() if metadata.raw else ("min_score",)))


def output_names(metadata: Metadata) -> tuple[str, ...]:
    """What a file gives, in its order."""
    if metadata.task != "detection":
        return ("scores",) if metadata.raw else ("labels",)
    if metadata.raw:
        return ("boxes", "scores")
    return ("boxes", "scores", "labels", "valid", *((MASKS,) if metadata.masks else ()))


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
    return torch.where(inside, pixels, padding).to(preprocess.output_dtype)


class _Detection(nn.Module):
    """What the two functions of a detector share."""

    def __init__(self, model: Detector) -> None:
        super().__init__()
        self.model = model
        self.padding_counts = bool(getattr(model, "padding_counts", False))

    def seen(self, images: Tensor, sizes: Tensor, output_sizes: Tensor) -> tuple[Tensor, Frames]:
        """Normalised images, and their sizes as the model knows them."""
        preprocess = self.model.preprocess
        factors = (output_sizes / sizes).flip(1).repeat(1, 2)
        seen = (sizes / preprocess.divisor).ceil() * preprocess.divisor if self.padding_counts else sizes
        return _normalised(preprocess, images, sizes), Frames(seen, factors, output_sizes)


class DetectionNetwork(_Detection):
    """A detector from pixels to detections in a fixed number of slots.

    Args:
        model: in evaluation mode.
    """

    def forward(self, images: Tensor, sizes: Tensor, output_sizes: Tensor, min_score: Tensor) -> tuple[Tensor, ...]:
        """Boxes, scores, labels, whether a slot is filled, and masks where the model has them.

        Args:
            images: ``[N, 3, H, W]`` uint8 RGB, padded at the right and the bottom to multiples of the divisor.
            sizes: ``[N, 2]`` float32 (height, width) of each image without padding.
            output_sizes: ``[N, 2]`` float32, in whose pixels boxes are returned.
            min_score: detections have larger scores; float32 without axes.
        """
        threshold: Any = min_score
        detections = self.model.detect(*self.seen(images, sizes, output_sizes), threshold)
        results = (detections.boxes, detections.scores, detections.labels, detections.valid)
        return results if detections.masks is None else (*results, detections.masks)


class CandidatesNetwork(_Detection):
    """A detector from pixels to the boxes and scores that detections are selected from.

    Args:
        model: in evaluation mode.
    """

    def forward(self, images: Tensor, sizes: Tensor, output_sizes: Tensor) -> tuple[Tensor, Tensor]:
        """Boxes ``[N, P, K, 4]`` and scores ``[N, P, C]`` of :meth:`Detector.candidates`; arguments as above."""
        boxes, scores = self.model.candidates(*self.seen(images, sizes, output_sizes))
        return boxes, scores


class SegmentationNetwork(nn.Module):
    """A segmentation model from pixels to the class of every pixel.

    Args:
        model: in evaluation mode.
        raw: end with the scores of the classes instead.
    """

    def __init__(self, model: SegmentationModel, raw: bool = False) -> None:
        super().__init__()
        self.model, self.raw = model, raw

    def forward(self, images: Tensor, sizes: Tensor) -> tuple[Tensor]:
        """Labels ``[N, H, W]`` int64, or logits ``[N, C, H, W]``; arguments as for :class:`DetectionNetwork`."""
        scores = self.model.scores(_normalised(self.model.preprocess, images, sizes))
        return (scores.float() if self.raw else scores.argmax(1),)


def network_of(model: Any, raw: bool = False) -> nn.Module:
    """The function of a model that is exported.

    Args:
        model: in evaluation mode.
        raw: end before detections are selected, or before the class of a pixel is.

    Raises:
        ValueError: the model is neither a detector nor a segmentation model.
    """
    task = getattr(model, "task", None)
    if task == "detection":
        return CandidatesNetwork(model) if raw else DetectionNetwork(model)
    if task == "segmentation":
        return SegmentationNetwork(model, raw)
    raise ValueError(
        f"model: expected a detector or a segmentation model of this package, got {type(model).__name__}; export other "
        "modules with torch.onnx.export after `import dcn`"
    )
