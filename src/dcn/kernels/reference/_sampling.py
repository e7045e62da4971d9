"""Multilinear sampling at real positions in any number of dimensions, with explicit derivatives.

A position is a tuple of coordinates, one tensor per spatial axis (slowest first: 2-D ``y, x``). It touches
``2**n`` grid points; :func:`corners` says which, with which weight, and how that weight changes with each coordinate.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor


class Corner(NamedTuple):
    """One grid point of every sampled position; all tensors have the shape of the coordinates.

    Attributes:
        location: int64, index into the flattened spatial axes; always valid, also where ``inside`` is false.
        inside: bool, whether the grid point belongs to the map. Where it does not, its value counts as 0.
        weight: multilinear weight, 0 where not ``inside``.
        slopes: per axis the derivative of ``weight`` by that coordinate, 0 where not ``inside``.
    """

    location: Tensor
    inside: Tensor
    weight: Tensor
    slopes: tuple[Tensor, ...]


class _Side(NamedTuple):
    location: Tensor
    inside: Tensor
    weight: Tensor
    slope: Tensor


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """The type in which data of ``dtype`` are sampled and summed: float64 for itself, float32 for all others."""
    return torch.float64 if dtype == torch.float64 else torch.float32


Size = int | Tensor
"""Length of an axis: one for all positions, or an integer tensor that broadcasts against them."""


def _held(at: Tensor, size: Size) -> Tensor:
    """``at`` moved into ``0..size-1``; 0 where the axis has no grid points."""
    return at.minimum(torch.as_tensor(size - 1, device=at.device)).clamp(min=0)


def _sides_v2(position: Tensor, size: Size, valid: Tensor) -> tuple[_Side, _Side]:
    """Both neighbours on one axis under rule v2: a neighbour outside the map counts as 0."""
    low = position.floor()
    fraction = position - low
    index = low.long()
    sides = []
    for at, weight, slope in ((index, 1 - fraction, -1.0), (index + 1, fraction, 1.0)):
        inside = valid & (at >= 0) & (at < size)
        sides.append(_Side(_held(at, size), inside, weight, torch.full_like(position, slope)))
    return sides[0], sides[1]


def _sides_v1(position: Tensor, size: Size, valid: Tensor) -> tuple[_Side, _Side]:
    """Both neighbours on one axis under rule v1: flat, without slope, from the last grid point on."""
    low = position.floor()
    flat = low >= size - 1
    fraction = torch.where(flat, 0.0, position - low)
    index = low.long()
    slope = torch.where(flat, 0.0, torch.ones_like(position))
    return (
        _Side(_held(index, size), valid, 1 - fraction, -slope),
        _Side(_held(index + 1, size), valid & ~flat, fraction, slope),
    )


def _valid(position: Sequence[Tensor], size: Sequence[Size], boundary: str) -> Tensor:
    """Where a tap is evaluated at all; false for NaN and infinity, which fail every comparison that matters."""
    valid = torch.ones_like(position[0], dtype=torch.bool)
    for p, s in zip(position, size, strict=True):
        valid = valid & (((p >= 0) if boundary == "v1" else (p > -1)) & (p < s))
    return valid


def corners(position: Sequence[Tensor], size: Sequence[Size], boundary: str) -> list[Corner]:
    """The ``2**n`` grid points of every position, their weights and the slopes of these.

    Args:
        position: one tensor per axis, all of one shape, in pixels (0 is the centre of the first). Any value is allowed.
        size: length of each axis, a number or a tensor that broadcasts against the positions.
        boundary: ``"v1"`` (value 0 unless ``0 <= p < size`` on every axis; constant between the last grid point and
            ``size``) or ``"v2"`` (evaluated for ``-1 < p < size``; neighbours outside count as 0). Outside these ranges
            weight and slopes are 0, also exactly at ``-1`` and at ``size``.
    """
    valid = _valid(position, size, boundary)
    sides = _sides_v1 if boundary == "v1" else _sides_v2
    # Replaced before floor and the cast to int64: that cast is undefined for NaN and for 1e30.
    axes = [sides(torch.where(valid, p, 0.0), s, valid) for p, s in zip(position, size, strict=True)]
    strides: list[Size] = [prod(size[axis + 1 :]) for axis in range(len(size))]
    return [_corner(chosen, strides) for chosen in product(*axes)]


def _corner(chosen: Sequence[_Side], strides: Sequence[Size]) -> Corner:
    index, inside = torch.zeros_like(chosen[0].location), torch.ones_like(chosen[0].inside)
    for side, stride in zip(chosen, strides, strict=True):
        index, inside = index + side.location * stride, inside & side.inside
    slopes = []
    for axis, side in enumerate(chosen):
        others = [other.weight for at, other in enumerate(chosen) if at != axis]
        slopes.append(torch.where(inside, _product([side.slope, *others]), 0.0))
    return Corner(index, inside, torch.where(inside, _product([s.weight for s in chosen]), 0.0), tuple(slopes))


def _product(factors: Sequence[Tensor]) -> Tensor:
    result = factors[0]
    for factor in factors[1:]:
        result = result * factor
    return result
