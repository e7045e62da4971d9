"""Calls of multi-scale deformable attention that the tests share, and loops that compute them another way."""

from __future__ import annotations

from dataclasses import dataclass
from math import floor
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Attn:
    """Sizes of a call; levels lie one after the other in ``value``."""

    levels: tuple[tuple[int, int], ...] = ((4, 7), (3, 2), (1, 5))
    batch: int = 2
    queries: int = 5
    heads: int = 3
    channels: int = 6
    points: int = 2

    @property
    def pixels(self) -> int:
        return sum(h * w for h, w in self.levels)


CASES = {
    "awkward": Attn(),
    "one-of-each": Attn(((1, 1),), batch=1, queries=1, heads=1, channels=1, points=1),
    "one-level": Attn(((5, 6),), channels=5, heads=2, points=9),
    "usual": Attn(((8, 8), (4, 4), (2, 2), (1, 1)), batch=1, queries=7, heads=2, channels=32, points=4),
    "many-channels": Attn(((3, 4), (2, 2)), batch=1, heads=1, channels=149),
    "many-points": Attn(((3, 4),), batch=1, queries=2, heads=1, channels=3, points=300),
    "wide-level": Attn(((1, 300), (300, 1)), channels=16),
    "more-queries-than-a-task": Attn(((4, 5), (2, 3)), queries=150, channels=8),
    "empty-level": Attn(((3, 4), (0, 5), (2, 2))),
    "no-images": Attn(batch=0),
    "no-queries": Attn(queries=0),
    "no-heads": Attn(heads=0),
    "no-channels": Attn(channels=0),
    "no-points": Attn(points=0),
    "no-levels": Attn(levels=()),
    "no-pixels": Attn(levels=((0, 3), (2, 0))),
}


class Arguments(NamedTuple):
    """Tensors in the operator's order."""

    value: Tensor
    shapes: Tensor
    starts: Tensor
    locations: Tensor
    weights: Tensor

    def leaves(self) -> list[Tensor]:
        """Those that have gradients, made leaves that want them."""
        return [t.detach().clone().requires_grad_() for t in (self.value, self.locations, self.weights)]

    def to(self, data: torch.dtype, pixels: torch.dtype | None = None) -> Arguments:
        """Data in one type, locations in another."""
        value, shapes, starts, locations, weights = self
        return Arguments(value.to(data), shapes, starts, locations.to(pixels or data), weights.to(data))


def make(case: Attn, *, dtype: torch.dtype = torch.float64, seed: int = 0) -> Arguments:
    """Random tensors: about a third of the samples lies outside; weights have both signs and no fixed sum."""
    random = torch.Generator().manual_seed(seed)

    def normal(*size: int) -> Tensor:
        return torch.randn(size, generator=random, dtype=torch.float64)

    shapes = torch.tensor(case.levels, dtype=torch.int64).reshape(-1, 2)
    areas = shapes.prod(1)
    samples = (case.batch, case.queries, case.heads, len(case.levels), case.points)
    return Arguments(
        normal(case.batch, case.pixels, case.heads, case.channels).to(dtype),
        shapes,
        areas.cumsum(0) - areas,
        (normal(*samples, 2) * 0.5 + 0.5).to(dtype),
        normal(*samples).to(dtype),
    )


def output_gradient(case: Attn, dtype: torch.dtype = torch.float64) -> Tensor:
    """The gradient of the output that backward tests use."""
    random = torch.Generator().manual_seed(99)
    shape = (case.batch, case.queries, case.heads * case.channels)
    return torch.randn(shape, generator=random, dtype=torch.float64).to(dtype)


class Expected(NamedTuple):
    """The results of the loops."""

    output: Tensor
    value: Tensor
    locations: Tensor
    weights: Tensor


def loops(args: Arguments, grad: Tensor) -> Expected:
    """Output and gradients by loops over samples, in float64, after the formulas."""
    value, shapes, starts, locations, weights = (t.detach().double().numpy() for t in args)
    batch, queries, heads, levels, points = weights.shape
    upstream = grad.double().numpy().reshape(batch, queries, heads, value.shape[3])
    output, by_value = np.zeros_like(upstream), np.zeros_like(value)
    by_location, by_weight = np.zeros_like(locations), np.zeros_like(weights)
    for at in np.ndindex(batch, queries, heads, levels, points):
        n, q, m, level, _ = at
        size = shapes[level].astype(int)
        x, y = locations[at] * size[::-1] - 0.5
        if not (-1 < x < size[1] and -1 < y < size[0]):
            continue
        area = slice(int(starts[level]), int(starts[level]) + size[0] * size[1])
        plane = value[n, area, m].reshape(*size, value.shape[3])
        plane_gradient = by_value[n, area, m].reshape(plane.shape)
        sample, slope = _bilinear(plane, y, x)
        output[n, q, m] += weights[at] * sample
        g = upstream[n, q, m]
        by_weight[at] = g @ sample
        by_location[at] = weights[at] * (slope @ g) * size[::-1]
        for row, column, weight in _corners(y, x, size):
            plane_gradient[row, column] += weights[at] * weight * g
        by_value[n, area, m] = plane_gradient.reshape(by_value[n, area, m].shape)
    actual = (output.reshape(batch, queries, -1) if output.size else np.zeros(grad.shape), by_value, by_location)
    return Expected(*(torch.from_numpy(a) for a in (*actual, by_weight)))


def _corners(y: float, x: float, size: Array) -> list[tuple[int, int, float]]:
    near = [(r, c) for r in (floor(y), floor(y) + 1) for c in (floor(x), floor(x) + 1)]
    return [(r, c, (1 - abs(y - r)) * (1 - abs(x - c))) for r, c in near if 0 <= r < size[0] and 0 <= c < size[1]]


def _bilinear(plane: Array, y: float, x: float) -> tuple[Array, Array]:
    """Sample and slopes by x and y, the right-sided ones."""
    padded = np.pad(plane, ((1, 1), (1, 1), (0, 0)))
    row, column = floor(y), floor(x)
    (a, b), (c, d) = padded[row + 1 : row + 3, column + 1 : column + 3]
    down, right = y - row, x - column
    sample = (1 - down) * ((1 - right) * a + right * b) + down * ((1 - right) * c + right * d)
    by_x = (1 - down) * (b - a) + down * (d - c)
    by_y = (1 - right) * (c - a) + right * (d - b)
    return sample, np.stack([by_x, by_y])
