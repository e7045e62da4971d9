"""DCNv3 and DCNv4 in Triton: one launch each way.

Gradients of the map are added up in float32 (float64) with atomic additions or, where torch is told to be
deterministic, as whole numbers, whose sum does not depend on the order.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from dcn.kernels.dcnv3_geometry import Geometry, describe
from dcn.kernels.triton import _runtime
from dcn.kernels.triton._numbers import bits_of, power_above
from dcn.kernels.triton._whole_numbers import from_sums, unit_below

FORWARD_VALUES, BACKWARD_VALUES = 1024, 512
"""Elements of a tile ``[locations, channels]``, half of them in float64: 8 and 4 per thread, each of which reads four
corners. With groups of 16 channels they take 54 and 132 registers per thread in float32 on compute capability 8.0."""
_MOST_CHANNELS, _MOST_LOCATIONS = 128, 64
_MOST_PIXELS = 2**31


def unsupported(input: Tensor, offset: Tensor, mask: Tensor | None, geometry: Geometry) -> str | None:
    """Why Triton cannot compute this call, or ``None``."""
    if input.shape[1] * input.shape[2] >= _MOST_PIXELS:
        return f"it takes maps of fewer than 2**31 pixels, got {input.shape[1]} x {input.shape[2]}"
    return _runtime.reason(input)


def forward(input: Tensor, offset: Tensor, mask: Tensor | None, geometry: Geometry) -> Tensor:
    """``[N, Ho, Wo, C]`` in the type of ``input``: the sum over the taps of mask * sampled input."""
    from dcn.kernels.triton import _dcnv3_kernels as kernels

    input, offset = input.detach().contiguous(), offset.detach().contiguous()
    mask = None if mask is None else mask.detach().contiguous()
    output = input.new_empty((*offset.shape[:3], input.shape[3]))
    if not output.numel():
        return output
    tile = tile_of(input.shape[3] // geometry.groups, FORWARD_VALUES, input.dtype)
    locations = offset.shape[0] * offset.shape[1] * offset.shape[2]
    grid = (-(-locations // tile[0]), geometry.groups, -(-(input.shape[3] // geometry.groups) // tile[1]))
    with _runtime.launching(input, lambda: describe("forward", input, offset, geometry)):
        kernels.forward[grid](
            *(input, offset, _masks(offset, mask, geometry), _shifts(geometry, input.device), output),
            *_numbers(input, offset, mask, geometry), *_constants(input, geometry), *tile,
            enable_fp_fusion=False,
        )  # fmt: skip
    return output


def backward(
    grad_output: Tensor,
    input: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    geometry: Geometry,
    needs: tuple[bool, bool, bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of input, offset and mask, contiguous, in the type of what they belong to; ``needs`` says which.

    Without ``mask`` the gradient of ``offset`` is that of DCNv4's one tensor.
    """
    from dcn.kernels.triton import _dcnv3_kernels as kernels

    input, offset = input.detach().contiguous(), offset.detach().contiguous()
    mask = None if mask is None else mask.detach().contiguous()
    grad = grad_output.detach().contiguous()
    places = needs[1] or needs[2]
    grad_offset = torch.zeros_like(offset) if places else None
    grad_mask = torch.empty_like(mask) if places and mask is not None else None
    if not grad.numel():
        return torch.zeros_like(input) if needs[0] else None, grad_offset, grad_mask
    dtype = torch.float64 if input.dtype == torch.float64 else torch.float32
    unit = _unit(grad, offset, mask, geometry, dtype) if torch.are_deterministic_algorithms_enabled() else None
    total = torch.zeros_like(input, dtype=dtype if unit is None else torch.int64) if needs[0] else None
    tile = tile_of(input.shape[3] // geometry.groups, BACKWARD_VALUES, input.dtype)
    locations = offset.shape[0] * offset.shape[1] * offset.shape[2]
    with _runtime.launching(input, lambda: describe("backward", input, offset, geometry)):
        kernels.backward[(-(-locations // tile[0]), geometry.groups)](
            *(grad, input, offset, _masks(offset, mask, geometry), _shifts(geometry, input.device)),
            *(grad if unit is None else unit, grad if total is None else total),
            *_gradients(grad_offset, grad_mask, grad, geometry),
            *_numbers(input, offset, mask, geometry), *_constants(input, geometry), needs[0], places, *tile,
            enable_fp_fusion=False,
        )  # fmt: skip
    grad_input = None if total is None else from_sums(total, unit).to(input.dtype)
    return grad_input, grad_offset if needs[1] else None, grad_mask if needs[2] else None


def tile_of(depth: int, values: int, dtype: torch.dtype) -> tuple[int, int]:
    """Locations and channels that a program works on at a time."""
    channels = min(power_above(depth), _MOST_CHANNELS)
    values = values // 2 if dtype == torch.float64 else values
    return max(1, min(values // channels, _MOST_LOCATIONS)), channels


def _masks(offset: Tensor, mask: Tensor | None, geometry: Geometry) -> Tensor:
    """The tensor whose first element is the mask of tap 0 of group 0."""
    return offset.view(-1)[2 * geometry.taps :] if mask is None else mask


def _gradients(
    grad_offset: Tensor | None, grad_mask: Tensor | None, other: Tensor, geometry: Geometry
) -> tuple[Tensor, Tensor]:
    """Where the gradients go; ``other`` is what a kernel that writes none points to."""
    if grad_offset is None:
        return other, other
    return grad_offset, _masks(grad_offset, grad_mask, geometry)


def _numbers(input: Tensor, offset: Tensor, mask: Tensor | None, geometry: Geometry) -> tuple[int, ...]:
    batch, rows, columns, channels = offset.shape
    per_group = 3 * geometry.taps if mask is None else 2 * geometry.taps
    by_mask = (channels, per_group) if mask is None else (mask.shape[3], geometry.taps)
    sizes = (batch * rows * columns, *input.shape[1:], rows, columns)
    places = (*geometry.stride, geometry.origin(0), geometry.origin(1))
    return *sizes, *places, channels, per_group, *by_mask, bits_of(geometry.offset_scale)


def _constants(input: Tensor, geometry: Geometry) -> tuple[Any, ...]:
    return geometry.taps, power_above(geometry.taps), input.shape[3] // geometry.groups, geometry.softmax


@functools.lru_cache(256)
def _shifts(geometry: Geometry, device: torch.device) -> Tensor:
    return torch.tensor(geometry.shifts(), dtype=torch.int64, device=device)


def _unit(grad: Tensor, offset: Tensor, mask: Tensor | None, geometry: Geometry, dtype: torch.dtype) -> Tensor:
    """The unit of whole-number sums: a part is at most the largest gradient times the largest mask."""
    bound = grad.abs().amax().to(dtype)
    if not geometry.softmax:
        bound = bound * (offset if mask is None else mask).abs().amax().to(dtype)
    return unit_below(bound, grad.shape[1] * grad.shape[2] * geometry.taps)
