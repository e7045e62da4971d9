"""Small images, enlarged before anything is drawn over them: letters and lines do not shrink with an image."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

from torch import Tensor

from dcn.structures import Detections, SegmentationMap, Target

Annotation = TypeVar("Annotation", bound=Target | Detections | SegmentationMap)

LEAST_SIDE = 400
"""Pixels of the longer side from which an image stays as it is."""


def enlarge(image: Tensor, annotation: Annotation) -> tuple[Tensor, Annotation]:
    """A small image by a whole factor, each pixel repeated, and its annotation or prediction with it.

    Args:
        image: ``[3, H, W]``.
        annotation: boxes, masks or classes in pixels of the image.

    Returns:
        Both as they came, unless the image is smaller than half of :data:`LEAST_SIDE`.
    """
    factor = max(1, LEAST_SIDE // max(1, *image.shape[1:]))
    if factor == 1:
        return image, annotation
    image = _repeated(image, factor)
    if isinstance(annotation, SegmentationMap):
        return image, replace(annotation, labels=_repeated(annotation.labels, factor))
    masks = None if annotation.masks is None else _repeated(annotation.masks, factor)
    if isinstance(annotation, Target):
        height, width = annotation.size
        size = (height * factor, width * factor)
        return image, replace(annotation, boxes=annotation.boxes * factor, masks=masks, size=size)
    return image, replace(annotation, boxes=annotation.boxes * factor, masks=masks)


def _repeated(values: Tensor, factor: int) -> Tensor:
    return values.repeat_interleave(factor, -1).repeat_interleave(factor, -2)
