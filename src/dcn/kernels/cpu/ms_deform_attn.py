"""Multi-scale deformable attention on the CPU: callers of ``csrc/ms_deform_attn.cpp``.

Shapes as in ``kernels/reference/ms_deform_attn.py``. float32 and float64 are computed as such; float16 and bfloat16 are
read and written, coordinates and sums are float32.
"""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from dcn.kernels.cpu import _library

_DTYPES = {torch.float32: 0, torch.float64: 1, torch.float16: 2, torch.bfloat16: 3}
_MAX_PIXELS = 2**31 - 1  # rows and columns of a level are 32-bit numbers


class _Call(ctypes.Structure):
    """``DcnMsDeformAttn`` of ``csrc/ms_deform_attn.h``."""

    _fields_ = (
        *[
            (name, ctypes.c_void_p)
            for name in (
                *("value", "shapes", "starts", "locations", "weights", "grad_output"),
                *("output", "grad_value", "grad_locations", "grad_weights"),
            )
        ],
        *[(name, ctypes.c_int64) for name in ("batch", "pixels", "heads", "channels", "queries", "levels", "points")],
        *[(name, ctypes.c_int64) for name in ("dtype", "location_dtype", "weight_dtype", "threads")],
    )


def unsupported(
    value: Tensor,
    spatial_shapes: Tensor,
    level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
) -> str | None:
    """Why this call cannot run here, or None when it can."""
    if value.device.type != "cpu":
        return f"the tensors are on {value.device}, the CPU kernels need them on the CPU"
    if value.dtype not in _DTYPES:
        return f"dtype {value.dtype} is not one of float32, float64, float16, bfloat16"
    if value.shape[1] > _MAX_PIXELS:
        return f"{value.shape[1]} pixels are too many, the limit is {_MAX_PIXELS}"
    return _library.reason()


def forward(
    value: Tensor,
    spatial_shapes: Tensor,
    level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
) -> Tensor:
    """``[N, Q, M*D]`` in the type of ``value``: per head the weighted sum of samples of all levels."""
    output = value.new_empty((value.shape[0], attention_weights.shape[1], value.shape[2] * value.shape[3]))
    tensors = _laid_out(value, spatial_shapes, level_start_index, sampling_locations, attention_weights)
    call = _describe(*tensors)
    call.output = output.data_ptr()
    status = _library.library().dcn_ms_deform_attn_forward(ctypes.byref(call))
    if status:
        _library.check(status, _name("forward", value, attention_weights))
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
    """Gradients of value, sampling_locations and attention_weights, each in the shape and type of its tensor.

    ``needs`` says which are computed; the others are None. The same bits come out for any number of threads.
    """
    tensors = _laid_out(value, spatial_shapes, level_start_index, sampling_locations, attention_weights)
    grad_output = grad_output.contiguous()
    grads = [
        torch.empty_like(tensor, memory_format=torch.contiguous_format) if need else None
        for tensor, need in zip((value, sampling_locations, attention_weights), needs, strict=True)
    ]
    call = _describe(*tensors)
    call.grad_output = grad_output.data_ptr()
    call.grad_value, call.grad_locations, call.grad_weights = (0 if g is None else g.data_ptr() for g in grads)
    status = _library.library().dcn_ms_deform_attn_backward(ctypes.byref(call))
    if status:
        _library.check(status, _name("backward", value, attention_weights))
    return grads[0], grads[1], grads[2]


def _laid_out(
    value: Tensor,
    spatial_shapes: Tensor,
    level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Contiguous, index tensors as int64."""
    return (
        value.contiguous(),
        spatial_shapes.long().contiguous(),
        level_start_index.long().contiguous(),
        sampling_locations.contiguous(),
        attention_weights.contiguous(),
    )


def _describe(value: Tensor, shapes: Tensor, starts: Tensor, locations: Tensor, weights: Tensor) -> _Call:
    return _Call(
        value=value.data_ptr(),
        shapes=shapes.data_ptr(),
        starts=starts.data_ptr(),
        locations=locations.data_ptr(),
        weights=weights.data_ptr(),
        batch=value.shape[0],
        pixels=value.shape[1],
        heads=value.shape[2],
        channels=value.shape[3],
        queries=weights.shape[1],
        levels=weights.shape[3],
        points=weights.shape[4],
        dtype=_DTYPES[value.dtype],
        location_dtype=_DTYPES[locations.dtype],
        weight_dtype=_DTYPES[weights.dtype],
        threads=_library.threads(),
    )


def _name(direction: str, value: Tensor, weights: Tensor) -> str:
    shapes = f"value {list(value.shape)}, attention weights {list(weights.shape)}"
    return f"multi-scale deformable attention, {direction}, of {shapes}, {value.dtype}"
