"""What everybody falls back to where an operator's extension is not built: the formulas in plain PyTorch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import grid_sample


def ms_deform_attn(value: Tensor, levels: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor) -> Tensor:
    """Multi-scale deformable attention, one ``grid_sample`` per level; arguments as :func:`dcn.ops.ms_deform_attn`."""
    batch, queries, heads, _, points, _ = locations.shape
    channels = value.shape[3]
    images = value.permute(0, 2, 3, 1).flatten(0, 1).split([h * w for h, w in levels], 2)
    grids = (2 * locations.to(value.dtype) - 1).transpose(1, 2).flatten(0, 1).unbind(2)  # [N*M, Q, P, 2] per level
    samples = [
        grid_sample(image.unflatten(2, level), grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        for image, level, grid in zip(images, levels, grids, strict=True)
    ]
    factors = weights.transpose(1, 2).reshape(batch * heads, 1, queries, len(levels) * points)
    output = (torch.stack(samples, 3).flatten(3) * factors).sum(3)  # [N*M, D, Q]
    return output.view(batch, heads * channels, queries).transpose(1, 2).contiguous()
