"""Detections of a batch, in a number of slots that does not depend on values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dcn.models.detection.shared.fixed_shapes import shapes_are_fixed
from dcn.structures import Detections


@dataclass(frozen=True)
class PaddedDetections:
    """Detections of every image, best first.

    Attributes:
        boxes: ``[N, D, 4]`` in pixels of the output.
        scores: ``[N, D]``.
        labels: ``[N, D]`` int64.
        valid: ``[N, D]`` bool: the slot is filled; all filled slots of an image come first.
        masks: ``[N, D, m, m]`` probabilities inside of the boxes, or ``None``.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    valid: Tensor
    masks: Tensor | None = None

    def trimmed(self) -> PaddedDetections:
        """Without slots that are empty in every image, unless shapes are fixed."""
        if shapes_are_fixed(self.boxes):
            return self
        slots = int(self.valid.sum(1).max()) if self.valid.numel() else 0
        parts = (value[:, :slots] for value in (self.boxes, self.scores, self.labels, self.valid))
        return replace(self, **dict(zip(("boxes", "scores", "labels", "valid"), parts, strict=True)))

    def per_image(self) -> tuple[list[Detections], list[Tensor | None]]:
        """The filled slots of every image, and the probabilities of their masks; the host waits here, once."""
        counts = self.valid.sum(1).tolist()
        # Copies: a view would keep all slots of the batch in memory for as long as a detection lives.
        detections = [
            Detections(self.boxes[i, :n].clone(), self.scores[i, :n].clone(), self.labels[i, :n].clone())
            for i, n in enumerate(counts)
        ]
        if self.masks is None:
            return detections, [None] * len(counts)
        return detections, [mask[:n] for mask, n in zip(self.masks, counts, strict=True)]


def pad_detections(detections: Sequence[Detections]) -> PaddedDetections:
    """Detections of several images as one record, in their order and without masks."""
    most = max((len(one) for one in detections), default=0)

    def column(values: Sequence[Tensor]) -> Tensor:
        return torch.stack([torch.cat((v, v.new_zeros(most - len(v), *v.shape[1:]))) for v in values])

    valid = column([torch.ones_like(one.scores, dtype=torch.bool) for one in detections])
    boxes, scores, labels = (
        column([getattr(one, name) for one in detections]) for name in ("boxes", "scores", "labels")
    )
    return PaddedDetections(boxes, scores, labels, valid)
