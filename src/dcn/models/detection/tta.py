"""Test-time augmentation of detectors: several scales, horizontal flips, merged detections."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final, Literal

import torch
from torch import Tensor, nn

from dcn.models.detection.detector import Detector, sizes_of
from dcn.models.detection.merging import MergeRule, merge_detections
from dcn.models.detection.shared.frames import Size
from dcn.structures import Detections
from dcn.suggest import suggest
from dcn.tta import TTA

Resize = Callable[[Tensor, int, int], Tensor]
"""``resize(image, shorter, longer)`` gives the resized image ``[3, h, w]`` uint8."""


class TTADetector(nn.Module):
    """A detector that runs several times on one image and merges the results; for evaluation only.

    Images are given as they are: the detector resizes them itself.

    Args:
        model: the detector.
        tta: the options.
        resize: see :data:`Resize`; such as ``lambda *a: dcn.data.geometry.resize_image(*a)[0]``.
        size: ``(shorter side, largest longer side)`` of the one pass where ``tta`` names no scales, and what its
            factors multiply; ``None``: the detector's test size.

    Attributes:
        classes: names of the labels.
        test_size: ``None``: images are not resized before they are given.
        score_threshold: boxes that are merged have larger scores.

    Raises:
        ValueError: a threshold for a class that the detector does not have.
    """

    task: Final[Literal["detection"]] = "detection"

    def __init__(self, model: Detector, tta: TTA, resize: Resize, size: Size | None = None) -> None:
        super().__init__()
        self.model, self.tta, self.resize = model, tta, resize
        self.rule = merge_rule(model, tta)
        self.scales: tuple[Size, ...] = tta.sizes(size or model.test_size)
        self.classes: tuple[str, ...] = model.classes
        self.test_size: None = None
        self.score_threshold = model.score_threshold

    @property
    def has_masks(self) -> bool:
        """Whether detections have masks."""
        return self.model.has_masks

    def forward(self, images: Sequence[Tensor], output_sizes: Sequence[Size] | None = None) -> list[Detections]:
        """Merged detections of every image.

        Args:
            images: ``[3, h_i, w_i]`` uint8 RGB, not resized.
            output_sizes: ``(height, width)`` per image in whose pixels detections are returned; by default its own.

        Raises:
            ValueError: in training mode.
        """
        if self.training:
            raise ValueError("model: test-time augmentation is for evaluation, got a model in training; call .eval()")
        sizes = sizes_of(images, output_sizes)
        passes = [one for scale in self.scales for one in self._passes(images, sizes, scale)]
        merged = [
            merge_detections(own, size, self.rule) for own, size in zip(zip(*passes, strict=True), sizes, strict=True)
        ]
        # Masks come from the first scale alone.
        return self.model.add_masks(self._resized(images, self.scales[0]), merged, sizes)

    def _resized(self, images: Sequence[Tensor], scale: Size) -> list[Tensor]:
        # Resizing is the same on every machine: it is done on the CPU.
        return [self.resize(image.cpu(), *scale).to(image.device) for image in images]

    def _passes(self, images: Sequence[Tensor], output_sizes: Sequence[Size], scale: Size) -> list[list[Detections]]:
        """Pre-NMS detections per image, of the images and, with ``flip``, of the flipped images flipped back."""
        resized = self._resized(images, scale)
        passes = [self.model.pre_nms(resized, output_sizes, self.score_threshold)]
        if self.tta.flip:
            flipped = self.model.pre_nms([image.flip(2) for image in resized], output_sizes, self.score_threshold)
            passes.append([flip_detections(one, size[1]) for one, size in zip(flipped, output_sizes, strict=True)])
        return passes


def merge_rule(model: Detector, tta: TTA) -> MergeRule:
    """The rule that merges the passes, with the detector's own limits where ``tta`` says nothing.

    Raises:
        ValueError: a threshold for a class that the detector does not have.
    """
    classes, limits = list(model.classes), model.limits
    for name in tta.class_thresholds:
        if name not in classes:
            raise ValueError(f"class_thresholds: expected classes of the model, got {name!r}; {suggest(name, classes)}")
    return MergeRule(
        tta.suppression,
        limits.nms_iou if tta.iou is None else tta.iou,
        tta.sigma,
        tta.box_voting,
        tuple((classes.index(name), threshold) for name, threshold in tta.class_thresholds.items()),
        limits.max_detections if tta.max_per_image is None else tta.max_per_image,
    )


def flip_detections(detections: Detections, width: int) -> Detections:
    """Detections, without masks, of the horizontally flipped image, which is ``width`` pixels wide."""
    x1, y1, x2, y2 = detections.boxes.unbind(1)
    return replace(detections, boxes=torch.stack((width - x2, y1, width - x1, y2), 1))
