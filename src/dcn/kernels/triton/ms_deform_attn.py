"""Multi-scale deformable attention in Triton: one launch each way.

Gradients of the values are added up in float32 (float64) with atomic additions, or, where torch is told to be
deterministic, as whole numbers, whose sum does not depend on the order.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from dcn.kernels.triton import _runtime
from dcn.kernels.triton._numbers import power_above
from dcn.kernels.triton._whole_numbers import from_sums, unit_below

_FORWARD_VALUES, _BACKWARD_VALUES = 2048, 1024
"""Elements of a tile ``[queries, channels]``: 16 and 8 per thread."""
_MOST_CHANNELS = 128
_LEAST_QUERIES = 4


def unsupported(
    value: Tensor,
    spatial_shapes: Tensor,
    level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
) -> str | None:
    """Why Triton cannot compute this call, or ``None``."""
    if value.shape[1] >= 1 << 31:
        return f"it takes maps of fewer than 2**31 pixels, got {value.shape[1]}"
    return _runtime.reason(value)


class _Call(NamedTuple):
    """What both directions share."""

    tensors: tuple[Tensor, ...]  # value to weights, as the kernels read them
    sizes: tuple[int, ...]  # pixels to points
    sums: torch.dtype
    tile: tuple[int, int]  # B, C

    @property
    def programs(self) -> int:
        _, queries, heads, *_ = self.sizes
        return int(self.tensors[0].shape[0]) * heads * -(-queries // self.tile[0])

    @property
    def even(self) -> bool:
        return self.sizes[3] % self.tile[1] == 0


def _prepare(tensors: tuple[Tensor, ...], values: int) -> _Call:
    value, shapes, starts, locations, weights = (t.detach().contiguous() for t in tensors)
    batch, pixels, heads, channels = value.shape
    _, queries, _, levels, points = weights.shape
    sums = torch.float64 if value.dtype == torch.float64 else torch.float32
    block = min(power_above(channels), _MOST_CHANNELS)
    rows = min(power_above(queries), max(1, values * 4 // sums.itemsize // block))
    enough = 2 * _runtime.multiprocessors(value.device)
    while rows > _LEAST_QUERIES and batch * heads * -(-queries // rows) < enough:
        rows //= 2
    sizes = (pixels, queries, heads, channels, levels, points)
    return _Call((value, shapes.long(), starts.long(), locations, weights), sizes, sums, (rows, block))


def _language_type(dtype: torch.dtype) -> Any:
    import triton.language as tl

    return tl.float64 if dtype == torch.float64 else tl.float32


def _name(value: Tensor, weights: Tensor) -> str:
    shapes = f"value {list(value.shape)}, attention weights {list(weights.shape)}"
    return f"multi-scale deformable attention of {shapes}, {value.dtype}"


def forward(
    value: Tensor,
    spatial_shapes: Tensor,
    level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
) -> Tensor:
    """``[N, Q, M*D]`` in the type of ``value``: per head the weighted sum of samples of all levels."""
    output = value.new_empty((value.shape[0], attention_weights.shape[1], value.shape[2] * value.shape[3]))
    if not output.numel():
        return output
    if not value.numel() or not attention_weights.numel():
        return output.zero_()
    from dcn.kernels.triton import _ms_deform_attn_kernels as kernels

    tensors = (value, spatial_shapes, level_start_index, sampling_locations, attention_weights)
    call = _prepare(tensors, _FORWARD_VALUES)
    with _runtime.launching(value, lambda: _name(value, attention_weights)):
        kernels.forward[(call.programs, -(-value.shape[3] // call.tile[1]))](
            *call.tensors, output, *call.sizes, _language_type(call.sums), call.even, *call.tile, enable_fp_fusion=False
        )
    return output


def backward(
    grad_output: Tensor,
    value: Tensor,
    spatial_shapes: Tensor,
    level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    needs: tuple[bool, bool, bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of value, sampling_locations and attention_weights, each in the shape and type of its tensor."""
    wanted = (value, sampling_locations, attention_weights)
    if not grad_output.numel() or not value.numel() or not attention_weights.numel():
        zeros = [torch.zeros_like(t) if need else None for t, need in zip(wanted, needs, strict=True)]
        return zeros[0], zeros[1], zeros[2]
    from dcn.kernels.triton import _ms_deform_attn_kernels as kernels

    tensors = (value, spatial_shapes, level_start_index, sampling_locations, attention_weights)
    call, grad = _prepare(tensors, _BACKWARD_VALUES), grad_output.detach().contiguous()
    exact = needs[0] and torch.are_deterministic_algorithms_enabled()
    unit = _unit(grad, attention_weights, call.sums) if exact else None
    kind = call.sums if unit is None else torch.int64
    total = torch.zeros_like(call.tensors[0], dtype=kind) if needs[0] else None
    samples = needs[1] or needs[2]
    by_location, by_weight = (torch.empty_like(t) if samples else None for t in call.tensors[3:])
    spare = call.tensors[0]  # a kernel that does not read an argument still wants a pointer
    with _runtime.launching(value, lambda: f"gradient of {_name(value, attention_weights)}"):
        kernels.backward[(call.programs,)](
            *(grad, *call.tensors), *(spare if t is None else t for t in (unit, total, by_location, by_weight)),
            *call.sizes, _language_type(call.sums), needs[0], samples, call.even, *call.tile,
            enable_fp_fusion=False,
        )  # fmt: skip
    grad_value = None if total is None else from_sums(total, unit).to(value.dtype)
    return grad_value, by_location if needs[1] else None, by_weight if needs[2] else None


def _unit(grad: Tensor, weights: Tensor, dtype: torch.dtype) -> Tensor:
    """The unit of whole numbers for the values' gradient: each sample adds at most one part to a value."""
    bound = grad.abs().amax().to(dtype) * weights.detach().abs().amax().to(dtype)
    return unit_below(bound, weights.shape[1] * weights.shape[3] * weights.shape[4])
