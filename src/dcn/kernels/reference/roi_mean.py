"""The averaging RoI poolings (RoIAlign, position-sensitive, deformable): plain PyTorch, explicit gradients.

Shapes: input ``[N, D*gh*gw, H, W]``, boxes ``[R, 5]``, offset ``[R, 2*K, parts, parts]``, mask ``[R, 1, P, Q]``, output
``[R, D, P, Q]``. Where the samples lie is the matter of :mod:`dcn.kernels.roi_grid`. Every function is itself
differentiable in input, offset, mask and output gradient, which is what second derivatives are made of.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from dcn.kernels.reference import fixed_order, full_precision
from dcn.kernels.reference._sampling import compute_dtype
from dcn.kernels.roi_grid import Grid, RoiRule, build, group_index, locations, offset_gradient

CHECKS_IMAGES = False
_CHUNK = 1 << 23
"""Values read at a time (32 MB in float32): memory does not grow with the number of RoIs."""


@dataclass(frozen=True)
class _Bins:
    """All bins of a call, flattened to ``B = R*K*P*Q``; ``S`` counts the two neighbours of every row (column)."""

    values: Tensor  # [N*H*W*gh*gw*K + 1, D/K]: the map, the channels of one bin side by side; the last row is 0
    rows: Tensor  # [B, S] int64 index into the pixels, already times W; -1: not read
    row_weights: Tensor  # [B, S]
    columns: Tensor  # [B, S]; -1: not read
    column_weights: Tensor
    base: Tensor  # [B] int64 first row of `values` of the image, plus channel group and class
    scale: Tensor  # [B]
    stride: int  # rows of `values` per pixel
    shape: tuple[int, int, int, int]  # R, K, P, Q
    active_rows: Tensor  # [B, S/2] bool: samples that move with the offset
    active_columns: Tensor

    def chunks(self) -> Iterator[slice]:
        taps = max(1, self.rows.shape[1] * self.columns.shape[1] * max(1, self.values.shape[1]))
        step = max(1, _CHUNK // taps)
        return (slice(begin, begin + step) for begin in range(0, self.base.shape[0], step))

    def index(self, part: slice) -> Tensor:
        """``[b, S*S]``: which rows of ``values`` the bins of a chunk read."""
        rows, columns = self.rows[part, :, None], self.columns[part, None, :]
        index = self.base[part, None, None] + (rows + columns) * self.stride
        # Not simply a weight of 0: 0 times a NaN of the map would spread it to bins that do not touch it.
        return torch.where((rows < 0) | (columns < 0), self.values.shape[0] - 1, index).flatten(1)

    def weights(self, part: slice) -> Tensor:
        """``[b, S*S]``: how much each counts, before the division by the number of samples."""
        return (self.row_weights[part, :, None] * self.column_weights[part, None, :]).flatten(1)


def _sides(location: Tensor, extent: int, flat: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Index and weight of both neighbours along one axis (``[..., 2*n]``), and which samples the offset moves."""
    used = location >= 0
    low = location.detach().clamp(min=0).floor()
    high = location.detach().clamp(min=0).ceil() if flat else (low + 1).clamp(max=extent - 1)
    fraction = torch.where(used, location - low, 0.0)
    weights = torch.cat((torch.where(used, 1 - fraction, 0.0), fraction), -1)
    index = torch.cat((torch.where(used, low, -1.0), torch.where(used, high, -1.0)), -1)
    return index.long(), weights, location > 0


def _bins(input: Tensor, grid: Grid, rule: RoiRule) -> _Bins:
    images, channels, height, width = input.shape
    shape = (grid.image.shape[0], grid.classes, *rule.output_size)
    _, classes, *pooled = shape
    group = rule.group
    cells = group[0] * group[1]
    values = input.reshape(images, classes, channels // (cells * classes), cells, height, width)
    down, across = locations(grid.rows, height, grid.margin), locations(grid.columns, width, grid.margin)
    rows, row_weights, active_rows = _sides(down, height, grid.flat)
    columns, column_weights, active_columns = _sides(across, width, grid.flat)
    scale = grid.scale
    if scale is None:
        scale = 1 / ((down >= 0).sum(-1) * (across >= 0).sum(-1)).clamp(min=1).to(down.dtype)
    flat = values.permute(0, 4, 5, 3, 1, 2).reshape(-1, values.shape[2]).to(compute_dtype(input.dtype))
    cell = group_index(pooled[0], group[0], input.device)[:, None] * group[1]
    cell = (cell + group_index(pooled[1], group[1], input.device)) * classes
    base = (grid.image * (height * width * group[0] * group[1] * classes)).view(-1, 1, 1, 1) + cell
    base = base + torch.arange(classes, device=input.device).view(-1, 1, 1)

    def flatten(value: Tensor) -> Tensor:
        return value.expand(*shape, value.shape[-1]).flatten(0, -2)

    return _Bins(
        values=torch.cat((flat, flat.new_zeros(1, flat.shape[1]))),
        rows=flatten(torch.where(rows < 0, -1, rows * width)),
        row_weights=flatten(row_weights),
        columns=flatten(columns),
        column_weights=flatten(column_weights),
        base=base.expand(shape).reshape(-1),
        scale=scale.expand(shape).reshape(-1),
        stride=group[0] * group[1] * classes,
        shape=shape,
        active_rows=flatten(active_rows),
        active_columns=flatten(active_columns),
    )


def unsupported(input: Tensor, boxes: Tensor, offset: Tensor | None, mask: Tensor | None, rule: RoiRule) -> str | None:
    """``None``: the reference takes every call."""
    return None


def _prepare(input: Tensor, boxes: Tensor, offset: Tensor | None, rule: RoiRule) -> tuple[Grid, _Bins]:
    dtype = compute_dtype(input.dtype)
    size = (input.shape[0], input.shape[2], input.shape[3])
    grid = build(rule, size, boxes.detach().to(dtype), None if offset is None else offset.to(dtype))
    return grid, _bins(input, grid, rule)


@full_precision()
@fixed_order()
def forward(input: Tensor, boxes: Tensor, offset: Tensor | None, mask: Tensor | None, rule: RoiRule) -> Tensor:
    """``[R, D, P, Q]`` in the type of ``input``: the mean of each bin's samples, times the mask."""
    _, bins = _prepare(input, boxes, offset, rule)
    means = [
        (bins.weights(part)[:, None] @ bins.values[bins.index(part)])[:, 0] * bins.scale[part, None]
        for part in bins.chunks()
    ]
    result = torch.cat([bins.values.new_zeros(0, bins.values.shape[1]), *means])
    output = result.view(*bins.shape, bins.values.shape[1]).permute(0, 1, 4, 2, 3).flatten(1, 2)
    if mask is not None:
        output = output * mask.to(output.dtype)
    return output.contiguous().to(input.dtype)


@full_precision()
@fixed_order()
def backward(
    grad_output: Tensor,
    input: Tensor,
    boxes: Tensor,
    offset: Tensor | None,
    mask: Tensor | None,
    rule: RoiRule,
    needs: tuple[bool, bool, bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of input, offset and mask, each in the shape and type of what it belongs to; ``needs`` says which."""
    grid, bins = _prepare(input, boxes, offset, rule)
    plain = grad_output.to(bins.values.dtype)
    masked = plain if mask is None else plain * mask.to(plain.dtype)
    rois, classes, *pooled = bins.shape

    def by_bin(grad: Tensor) -> Tensor:
        grad = grad.reshape(rois, classes, bins.values.shape[1], *pooled).permute(0, 1, 3, 4, 2)
        return grad.reshape(-1, bins.values.shape[1]) * bins.scale[:, None]

    grad_input = grad_offset = grad_mask = None
    if needs[0]:
        grad_input = _grad_input(bins, by_bin(masked), input, rule).to(input.dtype)
    if needs[1] and offset is not None:
        grad_offset = _grad_offset(bins, grid, by_bin(masked), offset, rule).to(offset.dtype)
    if needs[2] and mask is not None:
        grad_mask = _grad_mask(bins, by_bin(plain)).to(mask.dtype)
    return grad_input, grad_offset, grad_mask


def _grad_input(bins: _Bins, grad: Tensor, input: Tensor, rule: RoiRule) -> Tensor:
    result = torch.zeros_like(bins.values)
    for part in bins.chunks():
        spread = bins.weights(part)[..., None] * grad[part, None]
        result = result.index_add(0, bins.index(part).flatten(), spread.flatten(0, 1))
    images, _, height, width = input.shape
    classes, cells = bins.shape[1], rule.group[0] * rule.group[1]
    return (
        result[:-1]
        .view(images, height, width, cells, classes, result.shape[1])
        .permute(0, 4, 5, 3, 1, 2)
        .reshape(input.shape)
    )


def _gains(bins: _Bins, grad: Tensor, part: slice) -> Tensor:
    """``[b, S, S]``: how much the loss grows with the weight of each value read."""
    gains = (bins.values[bins.index(part)] @ grad[part, :, None])[..., 0]
    return gains.view(gains.shape[0], bins.rows.shape[1], bins.columns.shape[1])


def _slope(by_weight: Tensor, active: Tensor) -> Tensor:
    """``[b]``: from the gradients of both neighbours' weights ``[b, S]`` to that of a shift of all samples."""
    low, high = by_weight.tensor_split(2, -1)  # chunk(2) gives one part of an axis of length 0
    return torch.where(active, high - low, 0.0).sum(-1)


def _grad_offset(bins: _Bins, grid: Grid, grad: Tensor, offset: Tensor, rule: RoiRule) -> Tensor:
    shifts = [grad.new_zeros(0, 2)]
    for part in bins.chunks():
        gains = _gains(bins, grad, part)
        down = _slope((gains @ bins.column_weights[part, :, None])[..., 0], bins.active_rows[part])
        right = _slope((bins.row_weights[part, None] @ gains)[:, 0], bins.active_columns[part])
        shifts.append(torch.stack((right, down), -1))
    return offset_gradient(torch.cat(shifts).view(*bins.shape, 2), grid.sizes, offset, rule)


def _grad_mask(bins: _Bins, grad: Tensor) -> Tensor:
    sums = [(_gains(bins, grad, part).flatten(1) * bins.weights(part)).sum(-1) for part in bins.chunks()]
    return torch.cat([grad.new_zeros(0), *sums]).view(bins.shape).sum(1, keepdim=True)
