"""A call of deformable convolution as the kernels see it: dense tensors, numbers, which variant of a kernel runs."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dcn.kernels.triton import _runtime
from dcn.memory_format import channels_last

_NARROW = 2**31 - 2**20  # elements that 32-bit numbers address, less than the largest tile
Triple = tuple[int, int, int]


def dense(tensor: Tensor) -> Tensor:
    """The tensor channels-last: itself when it is, else a copy."""
    moved = tensor.movedim(1, -1)
    return tensor if moved.is_contiguous() else moved.contiguous().movedim(-1, 1)


def flat(tensor: Tensor) -> Tensor:
    """The tensor, copied only if no single stride counts its locations: slices of channels are read in place."""
    step = _location_step(tensor)
    for size, stride in zip(reversed(tensor.shape[2:]), reversed(tensor.stride()[2:]), strict=True):
        if stride != step and size > 1:
            return tensor.contiguous()
        step *= size
    return tensor


def _location_step(tensor: Tensor) -> int:
    """Elements from location to location; the stride of an axis of one location says nothing."""
    axes = zip(reversed(tensor.shape[2:]), reversed(tensor.stride()[2:]), strict=True)
    return next((stride for size, stride in axes if size > 1), 1)


def _extent(tensor: Tensor) -> int:
    """Elements between the first and the last."""
    return sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))


def triple(values: Sequence[int], missing: int) -> Triple:
    """Values for the axes z, y, x; the leading axes that are not there get ``missing``."""
    z, y, x = (missing,) * (3 - len(values)) + tuple(values)
    return z, y, x


class Operands(NamedTuple):
    """The tensors of a call: the input as it was given, offset and mask with one stride from location to location."""

    input: Tensor
    offset: Tensor
    mask: Tensor | None

    def gathered(self) -> Operands:
        """The same with a channels-last input, a copy of one that is not.

        A corner of a sample is then one run of bytes. In a contiguous map it is one element per channel, each in a
        cache line of its own: by count of cache accesses about twenty times the work, against a copy that reads and
        writes the map once (a ninth of the column buffer of a 3x3 layer).
        """
        return self._replace(input=dense(self.input))


@dataclass(frozen=True, eq=False)
class Call:
    """The numbers of a call: one object for all calls alike, so that what follows from them is computed once."""

    batch: int
    channels: int
    outputs: int
    groups: int
    offset_groups: int
    taps: int
    axes: int
    size: Triple
    out: Triple
    geometry: tuple[tuple[int, int], Triple, Triple, Triple]
    steps: tuple[int, ...]  # strides of offset and mask: image, channel, location; zeros for a mask that is not there
    extent: int  # elements from the first to the last of offset or mask
    v1: bool
    last: bool  # input, output and their gradients are channels-last
    dtype: torch.dtype
    device: torch.device
    precision: str

    @property
    def in_group(self) -> int:
        return self.channels // self.groups

    @property
    def out_group(self) -> int:
        return self.outputs // self.groups

    @property
    def in_offset_group(self) -> int:
        """Channels that move together."""
        return self.channels // self.offset_groups

    @property
    def locations(self) -> int:
        """Places of an output map."""
        return prod(self.out)

    @property
    def pixels(self) -> int:
        """Places of an input map."""
        return prod(self.size)

    @property
    def count(self) -> int:
        """Output locations of the batch."""
        return self.batch * self.locations

    @property
    def depthwise(self) -> bool:
        return self.in_group == 1

    @property
    def span(self) -> int:
        """Groups that share a tile: small ones are put together until 64 channels or outputs are reached."""
        return max(1, min(self.groups, 64 // max(self.in_group, self.out_group)))

    @property
    def wide(self) -> bool:
        """Whether some tensor needs 64-bit addresses."""
        slots = self.offset_groups * self.taps
        # The gradient of the offset is dense even where the offset is one that all images share.
        lists = self.batch * slots * max(self.cells, self.axes * self.locations)
        maps = max(self.batch * self.pixels * self.channels, self.count * self.outputs)
        return max(self.extent, lists, maps, self.outputs * self.taps * self.in_group) >= _NARROW

    @property
    def cells(self) -> int:
        """Cells between the grid points of an image, one more than points along each axis."""
        return prod(size + 1 for size in self.size[3 - self.axes :])

    def counts(self) -> tuple[int, ...]:
        """What every kernel is told first."""
        return self.count, self.locations, self.pixels, self.channels, self.outputs

    def geometry_numbers(self) -> tuple[Any, ...]:
        """What every kernel is told last.

        Size of the input, height and width of the output, the geometry, and the strides of offset and mask.
        """
        return (*self.size, *self.out[1:], self.geometry, *self.steps)

    def pack(self, weight: Tensor) -> Tensor:
        """The weight as the kernels read it: ``[O, *kernel, C/g]``, depthwise ``[*kernel, O]``.

        No copy for a weight in channels-last format.
        """
        return (weight.movedim(0, -1) if self.depthwise else weight.movedim(1, -1)).contiguous()

    def name(self, direction: str) -> str:
        """For messages."""
        shape = [self.batch, self.channels, *self.size[3 - self.axes :]]
        kernel = f"{self.outputs} outputs, {self.groups} groups, {self.taps} taps"
        return f"deformable convolution, {direction}, of input {shape} {self.dtype}, {kernel}"


def _steps(tensor: Tensor) -> Triple:
    return tensor.stride(0), tensor.stride(1), _location_step(tensor)


def describe(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    mask: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    boundary: str,
) -> tuple[Call, Operands]:
    """The numbers of a call, and its tensors: the input as it is, offsets and mask with one stride.

    A call whose tensors lie as they should is looked up by their shapes and strides: 10 microseconds instead of 40.
    """
    if _runtime.recording():
        return _describe(input, offset, weight, mask, stride, padding, dilation, boundary)
    lies = (input.shape, input.stride(), offset.shape, offset.stride(), None if mask is None else mask.stride())
    rules = (weight.shape, tuple(stride), tuple(padding), tuple(dilation), boundary)
    key = (*lies, *rules, input.dtype, input.device, _runtime.precision(input))
    known = _KNOWN.get(key)
    if known is not None:
        return known, Operands(input, offset, mask)
    call, operands = _describe(input, offset, weight, mask, stride, padding, dilation, boundary)
    if operands.offset is offset and operands.mask is mask:
        if len(_KNOWN) >= _MOST_KNOWN:
            _KNOWN.clear()
        _KNOWN[key] = call
    return call, operands


_MOST_KNOWN = 4096
_KNOWN: dict[tuple[Any, ...], Call] = {}
"""Calls whose offset and mask needed no copy, by all that tells one from another."""


def _describe(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    mask: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    boundary: str,
) -> tuple[Call, Operands]:
    last = channels_last(input)
    operands = Operands(input, flat(offset), None if mask is None else flat(mask))
    call = _runtime.once(_call)(
        (*input.shape, *offset.shape[1:]),
        tuple(weight.shape),
        (tuple(stride), tuple(padding), tuple(dilation)),
        (*_steps(operands.offset), *((0, 0, 0) if operands.mask is None else _steps(operands.mask))),
        max(_extent(tensor) for tensor in operands[1:] if tensor is not None),
        (boundary == "v1", last),
        (input.dtype, input.device, _runtime.precision(input)),
    )
    return call, operands


@functools.lru_cache(maxsize=4096)
def _call(
    shape: tuple[int, ...],
    weight: tuple[int, ...],
    geometry: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]],
    steps: tuple[int, ...],
    extent: int,
    rules: tuple[bool, bool],
    kind: tuple[torch.dtype, torch.device, str],
) -> Call:
    """``shape``: batch, channels and size of the input, channels and size of the offset.

    While a compiler records, batch and sizes may be symbols; what kernels are chosen by becomes numbers here.
    """
    axes = len(geometry[0])
    outputs, in_group, *kernel = (int(size) for size in weight)
    stride, padding, dilation = (tuple(int(step) for step in steps) for steps in geometry)
    channels = int(shape[1])
    return Call(
        batch=shape[0],
        channels=channels,
        outputs=outputs,
        groups=channels // in_group,
        offset_groups=int(shape[2 + axes]) // (axes * prod(kernel)),
        taps=prod(kernel),
        axes=axes,
        size=triple(shape[2 : 2 + axes], 1),
        out=triple(shape[3 + axes :], 1),
        geometry=(triple(kernel, 1)[1:], triple(stride, 1), triple(padding, 0), triple(dilation, 1)),
        steps=steps,
        extent=extent,
        v1=rules[0],
        last=rules[1],
        dtype=kind[0],
        device=kind[1],
        precision=kind[2],
    )
