"""Deformable convolution location by location in NumPy, from the written rules and nothing else.

Every axis gives a dense row of weights over the whole map (hat functions), so nothing is shared with the kernels:
no floor, no corners, no indices.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


def row_weights(p: float, size: int, boundary: str) -> Array | None:
    """Weights of all grid points of an axis for coordinate ``p``; ``None`` outside."""
    row = _row(p, size, boundary)
    return None if row is None else row[0]


@dataclass(frozen=True)
class Call:
    x: Array
    offset: Array
    weight: Array
    bias: Array | None
    mask: Array | None
    stride: Sequence[int]
    padding: Sequence[int]
    dilation: Sequence[int]
    boundary: str

    @property
    def groups(self) -> int:
        return int(self.x.shape[1] // self.weight.shape[1])

    @property
    def taps(self) -> int:
        return int(np.prod(self.weight.shape[2:]))

    @property
    def offset_groups(self) -> int:
        return int(self.offset.shape[1] // (len(self.stride) * self.taps))


def _row(p: float, size: int, boundary: str) -> tuple[Array, Array] | None:
    """Weights of all grid points for coordinate ``p`` and their derivatives; ``None`` outside."""
    grid = np.arange(size)
    if boundary == "v1":
        if not 0 <= p < size:
            return None
        if p >= size - 1:
            return (grid == size - 1).astype(float), np.zeros(size)
    elif not -1 < p < size:
        return None
    distance = p - grid
    slope = np.where((distance >= 0) & (distance < 1), -1.0, 0.0) + np.where(
        (distance >= -1) & (distance < 0), 1.0, 0.0
    )
    return np.clip(1 - np.abs(distance), 0, None), slope


def _outer(rows: Sequence[Array]) -> Array:
    result = rows[0]
    for row in rows[1:]:
        result = result[..., None] * row
    return result


def _samples(call: Call) -> Iterator[tuple[Any, Array, list[Array]]]:
    """Index ``(image, group, tap, location)``, weights over the map, their derivative per axis."""
    n, out = len(call.stride), call.offset.shape[2:]
    kernel = call.weight.shape[2:]
    offset = call.offset.reshape(len(call.x), call.offset_groups, call.taps, n, *out)
    for image, group in product(range(len(call.x)), range(call.offset_groups)):
        for (t, tap), location in product(enumerate(np.ndindex(*kernel)), np.ndindex(*out)):
            base = [location[a] * call.stride[a] - call.padding[a] + tap[a] * call.dilation[a] for a in range(n)]
            p = [base[a] + offset[(image, group, t, a, *location)] for a in range(n)]
            rows = [_row(p[a], call.x.shape[2 + a], call.boundary) for a in range(n)]
            if any(row is None for row in rows):
                continue
            inside = [row for row in rows if row is not None]
            slopes = [_outer([r[1 if i == a else 0] for i, r in enumerate(inside)]) for a in range(n)]
            yield (image, group, t, location), _outer([r[0] for r in inside]), slopes


def _columns(call: Call) -> Array:
    """``[N, C, K, *out]`` samples before the mask."""
    per_group = call.x.shape[1] // call.offset_groups
    columns = np.zeros((*call.x.shape[:2], call.taps, *call.offset.shape[2:]))
    axes = tuple(range(1, call.x.ndim - 1))
    for (image, group, t, location), weights, _ in _samples(call):
        channels = slice(group * per_group, (group + 1) * per_group)
        columns[(image, channels, t, *location)] = (call.x[image, channels] * weights).sum(axes)
    return columns


def _mask(call: Call) -> Array:
    """``[N, C, K, *out]``."""
    out = call.offset.shape[2:]
    if call.mask is None:
        return np.ones((*call.x.shape[:2], call.taps, *out))
    mask = call.mask.reshape(len(call.x), call.offset_groups, call.taps, *out)
    return np.repeat(mask, call.x.shape[1] // call.offset_groups, axis=1)


def _grouped(call: Call) -> Array:
    """The weight as ``[O, C, K]`` with zeros between the groups."""
    outputs, per_group = call.weight.shape[:2]
    dense = np.zeros((outputs, call.x.shape[1], call.taps))
    for o in range(outputs):
        g = o // (outputs // call.groups)
        dense[o, g * per_group : (g + 1) * per_group] = call.weight[o].reshape(per_group, call.taps)
    return dense


def forward(call: Call) -> Array:
    result = np.einsum("oct,nct...->no...", _grouped(call), _columns(call) * _mask(call))
    if call.bias is not None:
        result = result + call.bias.reshape(-1, *[1] * len(call.stride))
    return np.asarray(result)


def backward(call: Call, grad: Array) -> dict[str, Array]:
    """Gradients of x, offset, weight, bias and mask."""
    columns, mask = _columns(call), _mask(call)
    per_column = np.einsum("oct,no...->nct...", _grouped(call), grad)
    n, out, per_group = len(call.stride), call.offset.shape[2:], call.x.shape[1] // call.offset_groups
    grad_x = np.zeros_like(call.x)
    grad_offset = np.zeros((len(call.x), call.offset_groups, call.taps, n, *out))
    axes = tuple(range(1, call.x.ndim - 1))
    for (image, group, t, location), weights, slopes in _samples(call):
        channels = slice(group * per_group, (group + 1) * per_group)
        gain = (per_column * mask)[(image, channels, t, *location)]
        grad_x[image, channels] += gain.reshape(-1, *[1] * n) * weights
        for a in range(n):
            grad_offset[(image, group, t, a, *location)] = (
                gain * (call.x[image, channels] * slopes[a]).sum(axes)
            ).sum()
    by_mask = (per_column * columns).reshape(len(call.x), call.offset_groups, per_group, call.taps, *out).sum(2)
    masked = (columns * mask).reshape(*columns.shape[:3], int(np.prod(out)))
    by_weight = np.einsum("nol,nctl->oct", grad.reshape(*grad.shape[:2], int(np.prod(out))), masked)
    return {
        "x": grad_x,
        "offset": grad_offset.reshape(call.offset.shape),
        "weight": _ungrouped(call, by_weight),
        "bias": grad.sum((0, *range(2, grad.ndim))),
        "mask": by_mask.reshape(len(call.x), call.offset_groups * call.taps, *out),
    }


def _ungrouped(call: Call, dense: Array) -> Array:
    outputs, per_group = call.weight.shape[:2]
    result = np.zeros((outputs, per_group, call.taps))
    for o in range(outputs):
        g = o // (outputs // call.groups)
        result[o] = dense[o, g * per_group : (g + 1) * per_group]
    return result.reshape(call.weight.shape)
