"""Seeded random calls of ``deform_conv2d`` with valid arguments."""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch
from torch import Tensor

from dcn.ops import deform_conv2d
from dcn.ops.deform_conv import output_size


@dataclass(frozen=True)
class RandomCall:
    x: Tensor
    offset: Tensor
    weight: Tensor
    bias: Tensor | None
    mask: Tensor | None
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int
    offset_groups: int

    def run(self, backend: str | None) -> Tensor:
        geometry = (self.stride, self.padding, self.dilation)
        return deform_conv2d(self.x, self.offset, self.weight, self.bias, *geometry, self.mask, backend=backend)


def random_call(seed: int, largest: int = 12, smallest: int = 1) -> RandomCall:
    """The call of ``seed``.

    Maps have at least ``smallest`` pixels per axis and up to ``largest`` more than the kernel needs.
    """
    draw = random.Random(seed)
    generator = torch.Generator().manual_seed(seed)

    def pair(low: int, high: int) -> tuple[int, int]:
        return draw.randint(low, high), draw.randint(low, high)

    kernel, stride, padding, dilation = pair(1, 4), pair(1, 3), pair(0, 3), pair(1, 3)
    reach = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    least = [max(smallest, r - 2 * p) for r, p in zip(reach, padding, strict=True)]
    size = tuple(side + draw.randint(0, largest) for side in least)
    groups, offset_groups = draw.choice([(1, 1), (1, 2), (2, 1), (2, 2), (4, 2), (2, 4), (4, 4)])
    channels, outputs = 4 * draw.randint(1, 3), groups * draw.randint(1, 4)
    out = output_size(size, kernel, stride, padding, dilation)
    batch, taps = draw.randint(1, 3), offset_groups * kernel[0] * kernel[1]
    spread = draw.choice([0.0, 0.3, 2.0, 20.0])

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    return RandomCall(
        normal(batch, channels, *size),
        normal(batch, 2 * taps, *out) * spread,
        normal(outputs, channels // groups, *kernel),
        normal(outputs) if draw.random() < 0.5 else None,
        normal(batch, taps, *out).sigmoid() if draw.random() < 0.5 else None,
        stride,
        padding,
        dilation,
        groups,
        offset_groups,
    )
