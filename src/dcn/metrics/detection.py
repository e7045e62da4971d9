"""What every detection metric shares: the interface the engine calls, and the checks of what is handed in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from dcn.metrics.results import Result
from dcn.structures import Detections, Target


class DetectionMetric(Protocol):
    """A running score of a detector: `update` for each batch, `compute` at the end, `reset` to start again.

    Detections and targets are both in pixels of the original image. One object is used by one process; with several
    processes, collect the objects (they pickle) and fold them into one with the class's own ``merge(other)``.
    """

    def update(self, detections: list[Detections], targets: list[Target]) -> None:
        """Take in the images of one batch: ``detections[i]`` are of the image that ``targets[i]`` describes."""

    def compute(self) -> Result:
        """The numbers over all images so far, by name."""

    def reset(self) -> None:
        """Forget all images."""


def check_batch(detections: Sequence[Detections], targets: Sequence[Target], num_classes: int) -> None:
    """Refuse a batch whose lists differ in length, whose labels do not exist, or whose numbers are not finite."""
    if len(detections) != len(targets):
        raise ValueError(
            f"detections: expected one entry for each of the {len(targets)} targets, got {len(detections)}; "
            "pass an empty Detections for an image without any"
        )
    for one, target in zip(detections, targets, strict=True):
        _check_labels("targets", target.labels, num_classes, target.image_id)
        _check_labels("detections", one.labels, num_classes, target.image_id)
        for name, value in (("scores", one.scores), ("boxes", one.boxes)):
            if not bool(torch.isfinite(value).all()):
                raise ValueError(
                    f"detections: expected finite {name}, got NaN or infinity in image {target.image_id!r}; "
                    "the model has probably diverged"
                )


def _check_labels(name: str, labels: Tensor, num_classes: int, image_id: int | str) -> None:
    if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < num_classes:
        raise ValueError(
            f"{name}: expected labels in 0..{num_classes - 1}, got {int(labels.min())}..{int(labels.max())} "
            f"in image {image_id!r}; the classes of the metric differ from those of the data"
        )


def image_order(image_id: int | str) -> tuple[bool, int, str]:
    """Sort key of image identifiers: numbers by size, then texts by letter.

    Images are put in this order before scores are ranked, so that detections of equal score are ranked the same however
    many processes shared the images.
    """
    return (False, image_id, "") if isinstance(image_id, int) else (True, 0, image_id)
