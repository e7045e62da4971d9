"""The averaging RoI poolings (RoIAlign, position-sensitive, deformable) in Triton: one launch each way.

Coordinates are made inside the kernels. Maps are read with the strides that they have; in channels_last memory the
channels of a pixel are read as vectors. Gradients of the map are added up in float32 (float64) with atomic additions,
or, where torch is told to be deterministic, as whole numbers, whose sum does not depend on the order.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dcn.kernels.roi_grid import Form, RoiRule, part_index
from dcn.kernels.triton import _runtime
from dcn.kernels.triton._numbers import bits_of, power_above
from dcn.kernels.triton._whole_numbers import from_sums, unit_of

CHECKS_IMAGES = False
_FORMS: tuple[Form, ...] = ("align", "half_pixel", "cells_first", "cells_after", "parts")
"""Their order is that of the constants in the kernels."""
_COLUMNS = 4
"""Neighbouring columns of a tile where channels are few or lie apart: a bin of 7 x 7 touches about as many."""
_MANY_CHANNELS = 32
"""From here on a tile of neighbouring channels has one column and more bins: what is worked out once serves more."""
_FORWARD_VALUES, _GRADIENT_VALUES, _BACKWARD_VALUES = 2048, 2048, 1024
"""Elements of a tile (half of them in float64): forward, backward for the map alone, and backward with sums for offsets
or the mask. With 128 channels they take 94, 116 and 148 registers per thread on compute capability 9.0."""
_MOST_CHANNELS, _MOST_BINS = 128, 128


def unsupported(input: Tensor, boxes: Tensor, offset: Tensor | None, mask: Tensor | None, rule: RoiRule) -> str | None:
    """Why Triton cannot compute this call, or ``None``."""
    return _runtime.reason(input, boxes, offset, mask)


class _Call(NamedTuple):
    """What both directions share."""

    boxes: Tensor  # [R, 5] in the type of the sums
    offset: Tensor | None
    mask: Tensor | None
    sizes: tuple[int, ...]  # images, height, width
    depth: int  # output channels per class
    numbers: tuple[int, ...]  # arguments after `depth`
    constants: tuple[Any, ...]  # FORM to MASK
    tile: tuple[int, int, int]  # B, T, C

    @property
    def bin_tiles(self) -> int:
        _, p, q, _, _, classes, *_ = self.constants
        return -(-classes * p * q // self.tile[0])

    @property
    def channel_tiles(self) -> int:
        return -(-self.depth // self.tile[2])


def _prepare(
    input: Tensor, boxes: Tensor, offset: Tensor | None, mask: Tensor | None, rule: RoiRule, values: int
) -> _Call:
    dtype = torch.float64 if input.dtype == torch.float64 else torch.float32
    classes = 1 if offset is None else offset.shape[1] // 2
    depth = input.shape[1] // (rule.group[0] * rule.group[1] * classes)
    parts = (1, 1) if offset is None else (offset.shape[2], offset.shape[3])
    return _Call(
        boxes=boxes.detach().to(dtype).contiguous(),
        offset=None if offset is None else offset.detach().contiguous(),
        mask=None if mask is None else mask.detach().contiguous(),
        sizes=(input.shape[0], input.shape[2], input.shape[3]),
        depth=depth,
        numbers=(*parts, rule.samples, bits_of(rule.spatial_scale), bits_of(rule.gamma)),
        constants=(
            *(_FORMS.index(rule.form), *rule.output_size, *rule.group),
            *(classes, offset is not None, mask is not None),
        ),
        tile=tile_of(rule, depth, classes, values * 4 // dtype.itemsize),
    )


def tile_of(rule: RoiRule, depth: int, classes: int, values: int) -> tuple[int, int, int]:
    """Bins, columns and channels that a program works on at a time."""
    channels = min(power_above(depth), _MOST_CHANNELS)
    columns = 1 if channels >= _MANY_CHANNELS and not _apart(rule) else _COLUMNS
    bins = power_above(classes * rule.output_size[0] * rule.output_size[1])
    return min(bins, max(1, values // (columns * channels)), _MOST_BINS), columns, channels


def _apart(rule: RoiRule) -> bool:
    """Whether the channels of a bin have those of others between them (position-sensitive pooling)."""
    return rule.group != (1, 1)


def _laid_out(input: Tensor, rule: RoiRule) -> Tensor:
    """The map as the kernels read it: where channels lie apart, at least the columns must be neighbours in memory.

    A copy of the map is cheap beside a 32-byte piece of memory for every single value that is read.
    """
    data = input.detach()
    return data.contiguous() if _apart(rule) and data.stride(3) != 1 else data


def _describe(input: Tensor, boxes: Tensor) -> str:
    return f"roi_mean of {list(input.shape)} {input.dtype} with {boxes.shape[0]} RoIs"


def forward(input: Tensor, boxes: Tensor, offset: Tensor | None, mask: Tensor | None, rule: RoiRule) -> Tensor:
    """``[R, D, P, Q]`` in the type of ``input``: the mean of each bin's samples, times the mask."""
    rois, channels = boxes.shape[0], input.shape[1] // (rule.group[0] * rule.group[1])
    output = input.new_empty((rois, channels, *rule.output_size))
    if not rois or not input.numel():
        return output.zero_()
    from dcn.kernels.triton import _roi_mean_kernels as kernels

    call, data = _prepare(input, boxes, offset, mask, rule, _FORWARD_VALUES), _laid_out(input, rule)
    with _runtime.launching(input, lambda: _describe(input, boxes)):
        kernels.forward[(rois, call.bin_tiles, call.channel_tiles)](
            *(data, call.boxes, _or(call.offset, data), _or(call.mask, data), output),
            *call.sizes, *data.stride(), call.depth, *call.numbers, *call.constants, *call.tile,
            enable_fp_fusion=False,
        )  # fmt: skip
    return output


def _or(tensor: Tensor | None, other: Tensor) -> Tensor:
    """A kernel that does not read an argument still wants a pointer."""
    return other if tensor is None else tensor


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
    wanted = (needs[0], needs[1] and offset is not None, needs[2] and mask is not None)
    if not boxes.shape[0] or not input.numel():
        return tuple(
            torch.zeros_like(t) if want and t is not None else None
            for want, t in zip(wanted, (input, offset, mask), strict=True)
        )  # type: ignore[return-value]
    call = _prepare(input, boxes, offset, mask, rule, _BACKWARD_VALUES if any(wanted[1:]) else _GRADIENT_VALUES)
    grad = grad_output.detach().contiguous()
    exact = wanted[0] and torch.are_deterministic_algorithms_enabled()
    unit = unit_of(grad, call.mask, call.boxes.dtype) if exact else None
    data = _laid_out(input, rule)
    sums = _launch_backward(grad, data, call, wanted, unit)
    grad_input = None if sums[0] is None else _as_gradient(from_sums(sums[0], unit), input, data)
    grad_offset = None if sums[1] is None or offset is None else _by_part(sums[1], offset).to(offset.dtype)
    grad_mask = None if sums[2] is None or mask is None else sums[2].sum(1, keepdim=True).to(mask.dtype)
    return grad_input, grad_offset, grad_mask


def _as_gradient(sums: Tensor, input: Tensor, data: Tensor) -> Tensor:
    """The sums for ``data``, which may be a copy of ``input`` laid out anew, in the type and layout of ``input``."""
    if data.stride() == input.stride():
        return sums.to(input.dtype)
    return torch.empty_like(input).copy_(sums)


def _launch_backward(
    grad: Tensor, data: Tensor, call: _Call, wanted: tuple[bool, bool, bool], unit: Tensor | None
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Sums for the map (its shape), the bins' offsets ``[R, K, 2, P, Q]`` and the mask ``[R, K, P, Q]``."""
    from dcn.kernels.triton import _roi_mean_kernels as kernels

    rois = call.boxes.shape[0]
    _, p, q, _, _, classes, *_ = call.constants
    total = torch.zeros_like(data, dtype=call.boxes.dtype if unit is None else torch.int64) if wanted[0] else None
    shifts = call.boxes.new_empty((rois, classes, 2, p, q)) if wanted[1] else None
    factors = call.boxes.new_empty((rois, classes, p, q)) if wanted[2] else None
    # Sums over all channels of a bin stay in one program.
    sharers = 1 if wanted[1] or wanted[2] else call.channel_tiles
    with _runtime.launching(data, lambda: f"gradient of {_describe(data, call.boxes)}"):
        kernels.backward[(rois, call.bin_tiles, sharers)](
            *(grad, data, call.boxes, _or(call.offset, data), _or(call.mask, data), _or(unit, call.boxes)),
            *(_or(t, call.boxes) for t in (total, shifts, factors)),
            *call.sizes, *data.stride(), *_or(total, data).stride(), call.depth, *call.numbers, *call.constants,
            *wanted, *call.tile,
            enable_fp_fusion=False,
        )  # fmt: skip
    return total, shifts, factors


@functools.lru_cache(maxsize=64)
def _parts(bins: int, parts: int) -> list[int]:
    """The part of each bin."""
    return [int(p) for p in part_index(bins, parts, torch.device("cpu"))]


def _by_part(moves: Tensor, offset: Tensor) -> Tensor:
    """Gradients of the offsets from those of the bins: the sum over the bins that share a part."""
    result = moves
    for axis in (3, 4):
        index = _parts(result.shape[axis], offset.shape[axis - 1])
        if index != list(range(offset.shape[axis - 1])):
            shape = [*result.shape[:axis], offset.shape[axis - 1], *result.shape[axis + 1 :]]
            parts = [result.select(axis, p) for p in range(len(index))]
            gathered = result.new_zeros(shape)
            for p, part in zip(index, parts, strict=True):
                gathered.select(axis, p).add_(part)
            result = gathered
    return result.reshape(offset.shape)
