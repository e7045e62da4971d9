"""Multi-scale deformable attention: plain PyTorch, explicit gradients.

Shapes: value ``[N, S, M, D]`` (``S`` pixels of all levels, ``M`` heads of ``D`` channels), spatial_shapes ``[L, 2]``
(height, width), level_start_index ``[L]``, sampling_locations ``[N, Q, M, L, P, 2]`` (x, y), attention_weights
``[N, Q, M, L, P]``. ``T = Q*L*P`` samples per image and head. Levels are read from the tensors as data, so nothing here
waits for a device, and every function is itself differentiable: second derivatives need that.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from dcn.kernels.reference import fixed_order, full_precision
from dcn.kernels.reference._sampling import compute_dtype, corners


class _Corner(NamedTuple):
    """One pixel of every sample, tensors ``[N, M, T]``: which it is, whether it counts, weight and its slopes."""

    pixel: Tensor
    inside: Tensor
    weight: Tensor
    by_x: Tensor
    by_y: Tensor


class _Taps(NamedTuple):
    """All samples of one call."""

    values: Tensor  # [N, M, S, D] in the computing type
    corners: list[_Corner]
    weights: Tensor  # [N, M, T], 0 for samples outside of their level
    width: Tensor  # [T], of the level, in the computing type
    height: Tensor  # [T]

    def read(self, corner: _Corner) -> Tensor:
        """``[N, M, T, D]``: the values at one corner of every sample, 0 outside of the level."""
        index = corner.pixel.unsqueeze(3).expand(-1, -1, -1, self.values.shape[3])
        return torch.where(corner.inside.unsqueeze(3), self.values.gather(2, index), 0.0)


def unsupported(
    value: Tensor,
    spatial_shapes: Tensor,
    level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
) -> str | None:
    """``None``: the reference takes every call."""
    return None


def _taps(
    value: Tensor,
    spatial_shapes: Tensor,
    level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
) -> _Taps:
    dtype = compute_dtype(value.dtype)
    batch, pixels, heads, channels = value.shape
    # An empty map has no pixel to point at: one that is never read stands in.
    values = value.to(dtype) if pixels else value.new_zeros((batch, 1, heads, channels), dtype=dtype)
    height, width = (size.long().unsqueeze(1) for size in spatial_shapes.unbind(1))  # [L, 1]
    locations = sampling_locations.to(dtype).transpose(1, 2)  # [N, M, Q, L, P, 2]
    x = locations[..., 0] * width.to(dtype) - 0.5
    y = locations[..., 1] * height.to(dtype) - 0.5
    found = []
    starts = level_start_index.long().unsqueeze(1)
    for corner in corners((y, x), (height, width), "v2"):
        pixel = corner.location + starts
        inside = corner.inside & (pixel >= 0) & (pixel < pixels)
        by_y, by_x = (torch.where(inside, slope, 0.0) for slope in corner.slopes)
        weight = torch.where(inside, corner.weight, 0.0)
        found.append(_Corner(*(t.flatten(2) for t in (torch.where(inside, pixel, 0), inside, weight, by_x, by_y))))
    valid = found[0].inside | found[1].inside | found[2].inside | found[3].inside
    weights = attention_weights.to(dtype).transpose(1, 2).flatten(2)
    per_sample = (size.to(dtype).expand(x.shape[2:]).flatten() for size in (width, height))
    return _Taps(values.transpose(1, 2), found, torch.where(valid, weights, 0.0), *per_sample)


@full_precision()
@fixed_order()
def forward(
    value: Tensor,
    spatial_shapes: Tensor,
    level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
) -> Tensor:
    """``[N, Q, M*D]`` in the type of ``value``: per head the weighted sum of samples of all levels."""
    taps = _taps(value, spatial_shapes, level_start_index, sampling_locations, attention_weights)
    samples = sum(
        (taps.read(c) * c.weight.unsqueeze(3) for c in taps.corners[1:]),
        taps.read(taps.corners[0]) * taps.corners[0].weight.unsqueeze(3),
    )
    batch, queries, heads, levels, points = attention_weights.shape
    weighted = (samples * taps.weights.unsqueeze(3)).reshape(batch, heads, queries, levels * points, value.shape[3])
    return weighted.sum(3).transpose(1, 2).flatten(2).to(value.dtype)


@full_precision()
@fixed_order()
def backward(
    grad_output: Tensor,
    value: Tensor,
    spatial_shapes: Tensor,
    level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    needs: tuple[bool, bool, bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of value, sampling_locations and attention_weights, each in the shape and type of its tensor.

    ``needs`` says which are computed; the others are ``None``.
    """
    taps = _taps(value, spatial_shapes, level_start_index, sampling_locations, attention_weights)
    batch, queries, heads, levels, points = attention_weights.shape
    grad = grad_output.to(taps.values.dtype).reshape(batch, queries, heads, value.shape[3]).transpose(1, 2).unsqueeze(3)
    samples = queries * levels * points
    columns = grad.expand(-1, -1, -1, levels * points, -1).reshape(
        batch, heads, samples, value.shape[3]
    )  # [N, M, T, D]
    grad_value = grad_locations = grad_weights = None
    if needs[0]:
        grad_value = _grad_value(taps, columns, value).to(value.dtype)
    if needs[1] or needs[2]:
        by_x, by_y, by_weight = _grad_samples(taps, columns)
        shape = (batch, heads, queries, levels, points)
        if needs[1]:
            by_location = torch.stack((by_x * taps.width, by_y * taps.height), -1).reshape(*shape, 2)
            grad_locations = by_location.transpose(1, 2).to(sampling_locations.dtype)
        if needs[2]:
            grad_weights = by_weight.reshape(shape).transpose(1, 2).to(attention_weights.dtype)
    return grad_value, grad_locations, grad_weights


def _grad_value(taps: _Taps, columns: Tensor, value: Tensor) -> Tensor:
    """``[N, S, M, D]``: each sample hands its gradient back to the pixels it was read from."""
    result = torch.zeros_like(taps.values)
    for corner in taps.corners:
        part = torch.where(
            corner.inside.unsqueeze(3), columns * (taps.weights * corner.weight).unsqueeze(3), 0.0
        )  # a gradient that is NaN stays out of pixels that were not read
        result = result.scatter_add(2, corner.pixel.unsqueeze(3).expand_as(columns), part)
    return result.transpose(1, 2) if value.shape[1] else value * 0


def _grad_samples(taps: _Taps, columns: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of each sample's x and y in pixels and of its attention weight, ``[N, M, T]`` each."""
    by_x, by_y, by_weight = (torch.zeros_like(taps.weights) for _ in range(3))
    for corner in taps.corners:
        gain = torch.where(corner.inside, (taps.read(corner) * columns).sum(3), 0.0)
        by_weight = by_weight + gain * corner.weight
        by_x, by_y = by_x + gain * corner.by_x, by_y + gain * corner.by_y
    return by_x * taps.weights, by_y * taps.weights, by_weight
