"""Multi-scale deformable attention: what a call means, and its checks.

Zhu et al., "Deformable DETR" (equation 3, without the projections, which are the layer's): every query takes a weighted
sum of bilinear samples, ``P`` per level and head, at pixels that it names itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from dcn import checks
from dcn.kernels.cpu import ms_deform_attn as cpu
from dcn.kernels.reference import ms_deform_attn as reference
from dcn.kernels.triton import ms_deform_attn as triton
from dcn.ops._backends import Table, check_name, choose
from dcn.ops._contract import Fold, Gradients
from dcn.ops._operator import Operator

BACKENDS: Table = (("triton", triton), ("cpu", cpu), ("reference", reference))
Shapes = Tensor | Sequence[Sequence[int]]
"""Height and width per level: an integer tensor ``[L, 2]`` or pairs of numbers."""
_INTEGERS = (torch.int64, torch.int32)


class _Tensors(NamedTuple):
    value: Tensor
    spatial_shapes: Tensor
    level_start_index: Tensor
    sampling_locations: Tensor
    attention_weights: Tensor


class _Options(NamedTuple):
    backend: str | None


class _Needs(NamedTuple):
    value: bool
    spatial_shapes: bool
    level_start_index: bool
    sampling_locations: bool
    attention_weights: bool


def _check_indices(name: str, indices: Tensor, value: Tensor, axes: int, layout: str) -> None:
    checks.ndim(name, indices, axes, layout)
    if indices.dtype not in _INTEGERS:
        raise ValueError(f"{name}: expected int64 or int32, got {indices.dtype}; convert with .long()")
    checks.same_device(name, indices, value, "value")


def _check(tensors: _Tensors) -> None:
    """Refuse every call whose shapes, types or devices do not fit; what the index tensors hold is not looked at."""
    value, shapes, starts, locations, weights = tensors
    checks.ndim("value", value, 4, "[N, S, M, D]")
    checks.floating("value", value)
    _check_indices("spatial_shapes", shapes, value, 2, "[L, 2]")
    _check_indices("level_start_index", starts, value, 1, "[L]")
    levels = shapes.shape[0]
    checks.shape("spatial_shapes", shapes, (levels, 2), "height and width of each level")
    checks.shape("level_start_index", starts, (levels,), "one number per level of spatial_shapes")
    checks.ndim("attention_weights", weights, 5, "[N, Q, M, L, P]")
    queries, points = weights.shape[1], weights.shape[4]
    expected = (value.shape[0], queries, value.shape[2], levels, points)
    checks.shape("attention_weights", weights, expected, "batch and heads of value, levels of spatial_shapes")
    checks.shape("sampling_locations", locations, (*expected, 2), "shape of attention_weights, then x and y")
    for name, other in (("sampling_locations", locations), ("attention_weights", weights)):
        checks.same_dtype(name, other, value, or_float32=True, of="value")
        checks.same_device(name, other, value, "value")


def _check_levels(tensors: _Tensors) -> None:
    """Refuse levels that do not lie within ``value``. On a GPU that would wait for it: the kernel leaves them out."""
    value, shapes, starts, *_ = tensors
    if shapes.device.type != "cpu":
        return
    pixels = value.shape[1]
    for (height, width), start in zip(shapes.tolist(), starts.tolist(), strict=True):
        if min(height, width, start) < 0 or start + height * width > pixels:
            raise ValueError(
                f"spatial_shapes: expected levels within the {pixels} rows of value, got a level of {height} x {width} "
                f"from row {start} on; level_start_index holds the sums of the areas before each level"
            )


def _forward(tensors: _Tensors, options: _Options) -> Tensor:
    _check_levels(tensors)
    output: Tensor = choose(BACKENDS, options.backend, *tensors).forward(*tensors)
    return output


def _reference_forward(tensors: _Tensors, options: _Options) -> Tensor:
    return reference.forward(*tensors)


Kernel = Callable[..., tuple[Tensor | None, Tensor | None, Tensor | None]]


def _gradients(kernel: Kernel, grad: Tensor, tensors: _Tensors, needs: _Needs) -> Gradients:
    chosen = (needs.value, needs.sampling_locations, needs.attention_weights)
    if not any(chosen):
        return (None,) * 5
    by_value, by_location, by_weight = kernel(grad, *tensors, chosen)
    return by_value, None, None, by_location, by_weight


def _backward(grad: Tensor, tensors: _Tensors, options: _Options, needs: _Needs) -> Gradients:
    return _gradients(choose(BACKENDS, options.backend, *tensors).backward, grad, tensors, needs)


def _reference_backward(grad: Tensor, tensors: _Tensors, options: _Options, needs: _Needs) -> Gradients:
    return _gradients(reference.backward, grad, tensors, needs)


def _fake(tensors: _Tensors, options: _Options) -> Tensor:
    _check(tensors)
    value, _, _, _, weights = tensors
    return value.new_empty((value.shape[0], weights.shape[1], value.shape[2] * value.shape[3]))


def _fold(own: _Needs) -> Fold:
    """Calls become images of one call."""
    if own.spatial_shapes or own.level_start_index:
        raise ValueError(
            "spatial_shapes: expected the same levels for all calls of a vmap, got one set per call; "
            "pass spatial_shapes and level_start_index with in_dims None"
        )
    return Fold({"value": 0, "sampling_locations": 0, "attention_weights": 0}, 0)


def _autocast(tensors: _Tensors, dtype: torch.dtype) -> _Tensors:
    """Values and weights to ``dtype``; locations stay as they came, in half precision they move by parts of a pixel."""
    value, shapes, starts, locations, weights = tensors
    if value.dtype == torch.float64:
        return tensors
    if locations.dtype in checks.HALVES and locations.dtype != dtype:
        locations = locations.float()
    return _Tensors(value.to(dtype), shapes, starts, locations, weights.to(dtype))


_OPERATOR = Operator(
    name="ms_deform_attn",
    tensors=_Tensors,
    options=_Options,
    needs=_Needs,
    forward=_forward,
    backward=_backward,
    reference_forward=_reference_forward,
    reference_backward=_reference_backward,
    fake=_fake,
    fold=_fold,
    constant=("spatial_shapes", "level_start_index"),
    autocast=_autocast,
)


def _shapes(shapes: Shapes, device: torch.device) -> Tensor:
    if isinstance(shapes, Tensor):
        return shapes
    pairs = [list(checks.int_tuple("spatial_shapes", tuple(pair), 2, 0)) for pair in shapes]
    return torch.tensor(pairs, dtype=torch.int64, device=device).reshape(-1, 2)


def level_starts(spatial_shapes: Tensor) -> Tensor:
    """The row of each level's first pixel, ``[L]``: the sums of the areas before it."""
    areas = spatial_shapes[:, 0] * spatial_shapes[:, 1]
    return areas.cumsum(0) - areas


def ms_deform_attn(
    value: Tensor,
    spatial_shapes: Shapes,
    level_start_index: Tensor | None,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    *,
    backend: str | None = None,
) -> Tensor:
    """Multi-scale deformable attention: per query and head, the weighted sum of samples of all levels.

    Zhu et al. 2020, equation 3. With ``V_l`` the map of level ``l``, fading to 0 within one pixel beyond its edge::

        output[n, q, m*D + d] = sum over l, p of  attention_weights[n, q, m, l, p] * V_l[n, m, d](y, x)
        y = sampling_locations[n, q, m, l, p, 1] * H_l - 0.5,   x = sampling_locations[n, q, m, l, p, 0] * W_l - 0.5

    so that 0 and 1 are the outer edges of the border pixels. Locations may be anything, NaN and infinity too: a sample
    beyond the fading contributes 0 and has zero gradients. The slope at a pixel's centre is the one to the right; at
    exactly one pixel before the first it is 0. There is no rule on the sizes, and each may be 0.

    Args:
        value: ``[N, S, M, D]``: ``S`` pixels of all levels, row by row, ``M`` heads of ``D`` channels. float16,
            bfloat16, float32 or float64; half precision is summed in float32.
        spatial_shapes: ``[L, 2]`` integers, height and width of each level, or a list of such pairs.
        level_start_index: ``[L]`` integers, the row of ``value`` where each level begins. ``None``: one level after
            the other.
        sampling_locations: ``[N, Q, M, L, P, 2]``: x, then y, as shares of the level's width and height. The type of
            ``value``, or float32 beside half precision. Positions are computed in float32 (float64).
        attention_weights: ``[N, Q, M, L, P]``, any numbers (a layer makes them sum to 1). Types as for the locations.
        backend: ``None`` takes the fastest that can compute the call (or ``$DCN_BACKEND``); a name insists on it.

    Returns:
        ``[N, Q, M*D]`` in the type of ``value``; head ``m`` has the channels ``m*D`` to ``m*D + D - 1``.

    Raises:
        ValueError: an argument does not fit (the message names it, what was expected and what came), a level does not
            lie within ``value`` (on the CPU; on a GPU such pixels count as outside), or the backend that was named
            cannot compute the call.

    Example:
        >>> value = torch.rand(1, 6 * 8 + 3 * 4, 2, 16)  # two levels, two heads
        >>> locations, weights = torch.rand(1, 5, 2, 2, 4, 2), torch.rand(1, 5, 2, 2, 4)
        >>> ms_deform_attn(value, [(6, 8), (3, 4)], None, locations, weights).shape
        torch.Size([1, 5, 32])
    """
    check_name(BACKENDS, backend)
    given = {"value": value, "sampling_locations": sampling_locations, "attention_weights": attention_weights}
    for name, tensor in given.items():
        checks.tensor(name, tensor)
    shapes = _shapes(spatial_shapes, value.device)
    _check_indices("spatial_shapes", shapes, value, 2, "[L, 2]")
    checks.shape("spatial_shapes", shapes, (shapes.shape[0], 2), "height and width of each level")
    starts = level_starts(shapes) if level_start_index is None else level_start_index
    tensors = _OPERATOR.cast(_Tensors(value, shapes, starts, sampling_locations, attention_weights))
    _check(tensors)
    return _OPERATOR(tensors, _Options(backend))
