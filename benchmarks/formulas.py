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


def dcnv3(input: Tensor, offset: Tensor, mask: Tensor, kernel: int, padding: int, groups: int) -> Tensor:
    """DCNv3 of stride 1 with a square kernel by one ``grid_sample``; arguments as :func:`dcn.ops.dcnv3`."""
    batch, rows, columns, _ = offset.shape
    height, width, channels = input.shape[1:]
    taps, depth = kernel * kernel, channels // groups
    device = input.device
    step = torch.arange(kernel, device=device) - padding
    y = torch.arange(rows, device=device)[:, None, None] + step.repeat(kernel)
    x = torch.arange(columns, device=device)[:, None] + step.repeat_interleave(kernel)
    pairs = offset.view(batch, rows, columns, groups, taps, 2)
    place_x, place_y = pairs[..., 0] + x[:, None], pairs[..., 1] + y[:, :, None]
    grid = torch.stack(((2 * place_x + 1) / width - 1, (2 * place_y + 1) / height - 1), -1)
    grid = grid.permute(0, 3, 1, 2, 4, 5).reshape(batch * groups, rows * columns, taps, 2)
    maps = input.permute(0, 3, 1, 2).reshape(batch * groups, depth, height, width)
    samples = grid_sample(maps, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    factors = mask.view(batch, rows * columns, groups, taps).transpose(1, 2).reshape(batch * groups, 1, -1, taps)
    output = (samples * factors).sum(-1)  # [N*G, D, L]
    return output.view(batch, channels, rows, columns).permute(0, 2, 3, 1).contiguous()


def dcnv4(input: Tensor, offset_mask: Tensor, kernel: int, padding: int, groups: int) -> Tensor:
    """DCNv4 by regrouping and :func:`dcnv3`; arguments as :func:`dcn.ops.dcnv4`."""
    taps = kernel * kernel
    grouped = offset_mask[..., : 3 * groups * taps].unflatten(-1, (groups, 3 * taps))
    offset, mask = grouped.split([2 * taps, taps], -1)
    return dcnv3(input, offset.flatten(-2), mask.flatten(-2), kernel, padding, groups)
