"""Calls of the RoI poolings that the tests share."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from dcn.ops import deform_ps_roi_pool, deform_roi_pool, ps_roi_align, ps_roi_pool, roi_align, roi_pool

Pool = Callable[..., Tensor]

# Fractions, halves, reversed and empty corners, RoIs that leave the map on each side or lie outside it. All of these,
# SCALE and SIZE are exact in binary: whether a sample lies exactly at the limit of the map, where the value jumps, must
# not depend on the type.
ROIS = torch.tensor(
    [
        [0, 1, 2, 7.25, 6.125],
        [1, 0.25, 0.375, 9, 9],
        [0, -3, -2.5, 20, 4.5],
        [1, 5, 5, 3, 3],
        [1, 2, 2, 2, 2],
        [0, 14, 3, 17, 5],
        [1, -9, -9, -4, -4],
        [0, -0.5, -0.5, 4, 11.5],
    ],
    dtype=torch.float64,
)
SIZE = (4, 2)
SCALE = 0.875

AVERAGING: dict[str, Pool] = {
    "align": lambda x, rois, o, m, b: roi_align(x, rois, SIZE, SCALE, 2, backend=b),
    "align-adaptive": lambda x, rois, o, m, b: roi_align(x, rois, SIZE, SCALE, backend=b),
    "align-aligned": lambda x, rois, o, m, b: roi_align(x, rois, SIZE, SCALE, 0, True, backend=b),
    "ps-align": lambda x, rois, o, m, b: ps_roi_align(x, rois, SIZE, SCALE, 2, backend=b),
    "ps-before": lambda x, rois, o, m, b: ps_roi_pool(x, rois, SIZE, SCALE, backend=b),
    "ps-after": lambda x, rois, o, m, b: ps_roi_pool(x, rois, SIZE, SCALE, rounding="after_scale", backend=b),
    "deform": lambda x, rois, o, m, b: deform_roi_pool(x, rois, o, SIZE, SCALE, gamma=0.3, backend=b),
    "deform-mask": lambda x, rois, o, m, b: deform_roi_pool(
        x, rois, o, SIZE, SCALE, m, sampling_ratio=2, gamma=0.3, backend=b
    ),
    "parts": lambda x, rois, o, m, b: deform_ps_roi_pool(x, rois, o, SIZE, SCALE, m, trans_std=0.2, backend=b),
    "parts-group": lambda x, rois, o, m, b: deform_ps_roi_pool(
        x, rois, torch.cat((o, -o), 1), SIZE, SCALE, m, group_size=(2, 1), sample_per_part=3, trans_std=0.2, backend=b
    ),
}
ALL: dict[str, Pool] = {**AVERAGING, "max": lambda x, rois, o, m, b: roi_pool(x, rois, SIZE, SCALE, backend=b)}


def make(
    dtype: torch.dtype = torch.float64, channels: int = 24, images: int = 2, rois: Tensor = ROIS
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A map ``[images, channels, 9, 11]``, RoIs, offsets and mask; coordinates in float32 beside half maps."""
    generator = torch.Generator().manual_seed(7)
    locations = torch.float64 if dtype == torch.float64 else torch.float32

    def normal(*size: int) -> Tensor:
        return torch.randn(size, generator=generator, dtype=torch.float64)

    count = rois.shape[0]
    return (
        normal(images, channels, 9, 11).to(dtype),
        rois.to(locations),
        normal(count, 2, *SIZE).to(locations),
        normal(count, 1, *SIZE).sigmoid().to(dtype),
    )
