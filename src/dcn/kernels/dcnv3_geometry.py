"""What every backend of DCNv3 and DCNv4 must know about a call: the taps, their order, and where the numbers lie.

The two operators differ in one thing. DCNv3 takes offsets ``[N, Ho, Wo, G*K*2]`` and masks ``[N, Ho, Wo, G*K]``; DCNv4
takes one tensor ``[N, Ho, Wo, R]`` in which group ``g`` owns the ``3*K`` channels from ``g*3*K`` on: its ``2*K``
offsets, then its ``K`` masks. To a backend that means other distances between numbers, so there is one core: where its
``mask`` is ``None``, ``offset`` is that one tensor.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

Pair = tuple[int, int]


class Geometry(NamedTuple):
    """The options of one call; pairs are ``(y, x)``.

    Attributes:
        kernel: rows and columns of the kernel.
        stride: distance of neighbouring output locations, in pixels.
        padding: how far the first tap lies before the first pixel.
        dilation: distance of neighbouring taps.
        groups: ``G``; each has offsets and masks of its own and ``C / G`` channels.
        offset_scale: factor of the tap pattern about its centre, the learnt offsets included.
        remove_center: the tap ``(kernel // 2)`` is left out.
        softmax: the masks of a group are logits; the operator normalises them over the taps.
    """

    kernel: Pair
    stride: Pair
    padding: Pair
    dilation: Pair
    groups: int
    offset_scale: float
    remove_center: bool
    softmax: bool

    @property
    def taps(self) -> int:
        """``K``: samples per location and group."""
        return self.kernel[0] * self.kernel[1] - self.remove_center

    @property
    def extent(self) -> Pair:
        """Half the reach of the kernel, rounded down: how far the centre of the pattern lies behind its first tap."""
        return self.dilation[0] * (self.kernel[0] - 1) // 2, self.dilation[1] * (self.kernel[1] - 1) // 2

    def output_size(self, height: int, width: int) -> Pair:
        """Locations per axis for a map of that size."""
        rows, columns = (
            (size + 2 * pad - dilation * (kernel - 1) - 1) // stride + 1
            for size, kernel, stride, pad, dilation in zip(
                (height, width), self.kernel, self.stride, self.padding, self.dilation, strict=True
            )
        )
        return rows, columns

    def steps(self) -> list[Pair]:
        """Row and column of every tap in the kernel. Columns are the outer index: ``k = column * rows + row``."""
        rows, columns = self.kernel
        centre = (rows // 2, columns // 2)
        every = [(row, column) for column in range(columns) for row in range(rows)]
        return [step for step in every if not (self.remove_center and step == centre)]

    def shifts(self) -> list[Pair]:
        """Distance of every tap from the centre of the pattern, ``(y, x)`` in pixels, before scaling and offsets."""
        (by_y, by_x), (half_y, half_x) = self.dilation, self.extent
        return [(row * by_y - half_y, column * by_x - half_x) for row, column in self.steps()]

    def origin(self, axis: int) -> int:
        """Centre of the pattern at the first output location along one axis, in pixels."""
        return self.extent[axis] - self.padding[axis]


def split(offset: Tensor, mask: Tensor | None, geometry: Geometry) -> tuple[Tensor, Tensor]:
    """Offsets ``[N, Ho, Wo, G, K, 2]`` (x, y) and masks ``[N, Ho, Wo, G, K]``, as views of what was given."""
    groups, taps = geometry.groups, geometry.taps
    place = offset.shape[:3]
    if mask is not None:
        return offset.reshape(*place, groups, taps, 2), mask.reshape(*place, groups, taps)
    grouped = offset[..., : 3 * groups * taps].unflatten(-1, (groups, 3 * taps))
    return grouped[..., : 2 * taps].unflatten(-1, (taps, 2)), grouped[..., 2 * taps :]


def join(offset: Tensor, mask: Tensor, channels: int) -> Tensor:
    """The inverse of :func:`split` for DCNv4: ``[N, Ho, Wo, channels]``, zeros in the channels that nobody owns."""
    batch, rows, columns, groups, taps, _ = offset.shape
    grouped = torch.cat((offset.reshape(batch, rows, columns, groups, 2 * taps), mask), -1)
    owned = grouped.reshape(batch, rows, columns, groups * 3 * taps)
    return pad(owned, (0, channels - groups * 3 * taps))


def describe(direction: str, input: Tensor, offset: Tensor, geometry: Geometry) -> str:
    """A call in a few words, for error messages."""
    size: Sequence[int] = geometry.kernel
    return (
        f"DCNv3/DCNv4, {direction}, of input {list(input.shape)} {input.dtype}, offset {list(offset.shape)}, "
        f"kernel {list(size)}, {geometry.groups} groups"
    )
