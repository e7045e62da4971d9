"""Proposals of a batch, in a number of slots that does not depend on values."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dcn.models.detection.shared.fixed_shapes import shapes_are_fixed


@dataclass(frozen=True)
class Proposals:
    """Regions of every image, best first.

    Attributes:
        boxes: ``[N, P, 4]``; zeros in empty slots.
        valid: ``[N, P]`` bool: the slot is filled; all filled slots of an image come first.
    """

    boxes: Tensor
    valid: Tensor

    def rois(self) -> Tensor:
        """``[N * P, 5]``: index of the image, then the box."""
        images, slots = self.valid.shape
        index = torch.arange(images, device=self.boxes.device, dtype=self.boxes.dtype)
        return torch.cat((index[:, None, None].expand(images, slots, 1), self.boxes), 2).flatten(0, 1)

    def trimmed(self) -> Proposals:
        """Without slots that are empty in every image, unless shapes are fixed."""
        if shapes_are_fixed(self.boxes):
            return self
        slots = int(self.valid.sum(1).max()) if self.valid.numel() else 0
        return Proposals(self.boxes[:, :slots], self.valid[:, :slots])

    def per_image(self) -> list[Tensor]:
        """``[P_i, 4]`` for each image: the filled slots."""
        return [box[filled] for box, filled in zip(self.boxes, self.valid, strict=True)]


def best_proposals(boxes: Tensor, scores: Tensor, keep: Tensor, count: int) -> Proposals:
    """The ``count`` best of those that were kept.

    Args:
        boxes: ``[N, M, 4]``.
        scores: ``[N, M]``, not negative; equal ones stay in their order, NaN counts as 0.
        keep: ``[N, M]`` bool.
        count: slots of the result (``M`` if that is less).
    """
    rank = torch.where(keep, scores.nan_to_num(0.0), -1.0)
    value, order = rank.sort(dim=1, descending=True, stable=True)
    value, order = value[:, :count], order[:, :count]
    valid = value >= 0
    chosen = boxes.gather(1, order[..., None].expand(-1, -1, 4))
    return Proposals(torch.where(valid[..., None], chosen, 0.0), valid)
