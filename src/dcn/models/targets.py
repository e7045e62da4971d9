"""The checks of what training is given, the same for every model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from torch import Tensor

from dcn.structures import SegmentationMap, Target

T = TypeVar("T", Target, SegmentationMap)
_FORMS = {
    Target: "Target(boxes=boxes, labels=labels, size=(height, width))",
    SegmentationMap: "SegmentationMap(labels)",
}


def check_targets(images: Sequence[Tensor], targets: Sequence[T] | None, kind: type[T]) -> Sequence[T]:
    """The targets, one per image.

    Raises:
        ValueError: there are none, or not as many as images, or no images, or one is not of its ``kind``.
    """
    if targets is None or len(targets) != len(images) or not len(images):
        got = "None" if targets is None else len(targets)
        raise ValueError(
            f"targets: expected one per image in training mode ({len(images)} images), got {got}; "
            "call .eval() first to predict"
        )
    for index, target in enumerate(targets):
        if not isinstance(target, kind):
            raise ValueError(
                f"targets[{index}]: expected a dcn.structures.{kind.__name__}, got {type(target).__name__}; write "
                f"{_FORMS[kind]}"
            )
    return targets


def check_boxes(images: Sequence[Tensor], targets: Sequence[Target], num_classes: int) -> None:
    """Refuse boxes for an image of another size, and labels that the model does not have.

    Labels that lie on a device are not looked at, which would wait for it.

    Raises:
        ValueError: naming the target.
    """
    for index, (image, target) in enumerate(zip(images, targets, strict=True)):
        if tuple(target.size) != tuple(image.shape[1:]):
            raise ValueError(
                f"targets[{index}]: expected boxes for the image's size {list(image.shape[1:])}, got size "
                f"{list(target.size)}; scale the boxes with the image"
            )
        labels = target.labels
        if labels.device.type == "cpu" and len(labels) and (labels.min() < 0 or labels.max() >= num_classes):
            raise ValueError(
                f"targets[{index}]: expected labels in 0..{num_classes - 1}, the index of the class without "
                f"background, got {labels.tolist()[:8]}"
            )
