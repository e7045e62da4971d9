"""Regions of interest of a batch, and their pooling from the levels of a pyramid."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from dcn.models.detection.shared.fixed_shapes import shapes_are_fixed


def to_rois(proposals: Sequence[Tensor]) -> Tensor:
    """Boxes ``[R_i, 4]`` of each image to one ``[R, 5]``: index of the image, x1, y1, x2, y2."""
    images = [box.new_full((box.shape[0], 1), index) for index, box in enumerate(proposals)]
    return torch.cat([torch.cat(pair, 1) for pair in zip(images, proposals, strict=True)])


def pool_by_level(features: Sequence[Tensor], rois: Tensor, level: Tensor, layers: Iterable[nn.Module]) -> Tensor:
    """Pools every region from its level.

    Every level is called even without regions, so that every parameter always has a gradient. Where shapes are fixed,
    each level is given all regions, those of other levels as boxes that are none: they cost writing their zeros.

    Args:
        features: maps ``[N, C, H_l, W_l]``, at least one per layer.
        rois: ``[R, 5]``.
        level: ``[R]`` int64.
        layers: for each level a module ``(map, rois) -> [R, C, k, k]``, which gives zeros for a box of NaN.
    """
    used = list(layers)
    pairs = list(zip(used, features[: len(used)], strict=True))  # Dynamo of torch 2.9 takes strict=False for True
    if not shapes_are_fixed(rois):
        members = [(level == index).nonzero()[:, 0] for index in range(len(pairs))]
        parts = [layer(feature, rois[chosen]) for (layer, feature), chosen in zip(pairs, members, strict=True)]
        return torch.cat(parts)[torch.cat(members).argsort()]
    pooled: Tensor | None = None
    for index, (layer, feature) in enumerate(pairs):
        own = (level == index)[:, None]
        of_level = layer(feature, torch.cat((rois[:, :1], torch.where(own, rois[:, 1:], torch.nan)), 1))
        # A sum, not a choice: all but one are zeros, and its gradient is no work at all.
        pooled = of_level if pooled is None else pooled + of_level
    assert pooled is not None
    return pooled
