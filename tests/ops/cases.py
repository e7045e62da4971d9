"""Calls of deformable convolution that the tests share, and the one table of tolerances."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod

import pytest
import torch
from torch import Tensor

from dcn.kernels.cpu import _library
from dcn.ops import deform_conv1d, deform_conv2d, deform_conv3d
from dcn.ops.deform_conv import output_size

OPS: dict[int, Callable[..., Tensor]] = {1: deform_conv1d, 2: deform_conv2d, 3: deform_conv3d}

# Largest error allowed, as a share of the largest expected value (at least 1). Sums have up to about 1e3 terms:
# float64 and float32 stay within 1e3 roundings of them; half precision rounds the result once (2**-11, 2**-8), and the
# gradients of half-precision data are rounded once more on the way in.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-5, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}

BACKENDS = [
    pytest.param("reference", id="reference"),
    pytest.param(
        "cpu", id="cpu", marks=pytest.mark.skipif(_library.reason() is not None, reason=str(_library.reason()))
    ),
]
BOUNDARIES = [pytest.param("v1", id="v1"), pytest.param("v2", id="v2")]


@dataclass(frozen=True)
class Shape:
    size: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    channels: int = 6
    outputs: int = 2
    groups: int = 2
    offset_groups: int = 3
    batch: int = 2

    @property
    def n(self) -> int:
        return len(self.size)

    @property
    def out(self) -> tuple[int, ...]:
        return output_size(self.size, self.kernel, self.stride, self.padding, self.dilation)


AWKWARD = Shape((5, 4), (3, 2), (2, 1), (1, 0), (2, 1))
SHAPES = {
    "awkward": AWKWARD,
    "square": Shape((6, 7), (3, 3), (1, 1), (1, 1), (1, 1), channels=5, outputs=3, groups=1, offset_groups=1),
    "dilated": Shape((7, 6), (3, 3), (2, 2), (2, 2), (2, 2), channels=8, outputs=4, groups=4, offset_groups=2),
    "depthwise": Shape((5, 6), (3, 3), (1, 1), (1, 1), (1, 1), channels=6, outputs=6, groups=6, offset_groups=1),
    "multiplier": Shape((5, 6), (3, 3), (1, 2), (1, 1), (1, 1), channels=4, outputs=8, groups=4, offset_groups=4),
    "pointwise": Shape((4, 5), (1, 1), (1, 1), (0, 0), (1, 1), channels=4, outputs=5, groups=1, offset_groups=2),
    "large-kernel": Shape((5, 4), (7, 5), (1, 1), (3, 2), (1, 1), channels=2, outputs=2, groups=1, offset_groups=1),
    "one-pixel": Shape((1, 1), (3, 3), (1, 1), (1, 1), (1, 1), channels=2, outputs=2, groups=1, offset_groups=1),
    "1d": Shape((9,), (3,), (2,), (1,), (2,)),
    "3d": Shape((3, 4, 4), (2, 3, 2), (1, 2, 1), (1, 0, 1), (1, 1, 2), batch=1),
}


@dataclass(frozen=True)
class Arguments:
    x: Tensor
    offset: Tensor
    weight: Tensor
    bias: Tensor | None
    mask: Tensor | None

    @property
    def tensors(self) -> tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None]:
        return self.x, self.offset, self.weight, self.bias, self.mask


def make(
    shape: Shape,
    *,
    dtype: torch.dtype = torch.float64,
    mask: bool = True,
    bias: bool = True,
    spread: float = 2.0,
    seed: int = 0,
    batch: int | None = None,
) -> Arguments:
    """Random tensors; offsets reach ``spread`` standard deviations, a part of them far outside small maps."""
    generator = torch.Generator().manual_seed(seed)
    count = shape.batch if batch is None else batch
    taps = shape.offset_groups * prod(shape.kernel)

    def normal(*size: int) -> Tensor:
        return torch.randn(size, generator=generator, dtype=torch.float64).to(dtype)

    return Arguments(
        normal(count, shape.channels, *shape.size),
        normal(count, shape.n * taps, *shape.out) * spread,
        normal(shape.outputs, shape.channels // shape.groups, *shape.kernel),
        normal(shape.outputs) if bias else None,
        normal(count, taps, *shape.out).sigmoid() if mask else None,
    )


def call(shape: Shape, args: tuple[Tensor | None, ...], boundary: str = "v2", backend: str | None = None) -> Tensor:
    x, offset, weight, bias, mask = args
    geometry = (shape.stride, shape.padding, shape.dilation)
    return OPS[shape.n](x, offset, weight, bias, *geometry, mask, boundary=boundary, backend=backend)


def close(actual: Tensor, expected: Tensor, dtype: torch.dtype) -> None:
    """Compare within the table's tolerance for ``dtype``."""
    scale = max(1.0, expected.abs().max().item()) if expected.numel() else 1.0
    torch.testing.assert_close(actual.double(), expected.double(), rtol=0.0, atol=TOLERANCE[dtype] * scale)
