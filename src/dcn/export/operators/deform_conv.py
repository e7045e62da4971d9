"""Deformable convolution as ONNX's ``DeformConv``; volumes as ``GridSample`` and a matrix product.

``DeformConv`` has the v2 boundary rule. The v1 rule is the same operator on clamped offsets: a tap within the last
pixel is held at its centre, and a tap outside the map gets the factor 0.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from math import prod

from onnxscript import opset20 as op

from dcn.export.operators._values import Value, arange, both, constant, ints, join, real, reshape, size


def translate(
    input: Value,
    offset: Value,
    weight: Value,
    bias: Value | None,
    mask: Value | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    boundary: str,
    backend: str | None = None,
) -> Value:
    """``dcn::deform_conv``; arguments as there.

    Args:
        input: ``[N, C, *size]``.
        offset: ``[N, n*G*K, *out]``.
        weight: ``[O, C/groups, *kernel]`` of a known shape.
        bias: ``[O]``.
        mask: ``[N, G*K, *out]``.
        stride: per axis.
        padding: per axis.
        dilation: per axis.
        boundary: ``"v1"`` or ``"v2"``.
        backend: has no meaning here.
    """
    geometry = (list(stride), list(padding), list(dilation))
    kernel = [int(k) for k in weight.shape[2:]]
    groups = (int(input.shape[1]) // int(weight.shape[1]), int(offset.shape[1]) // (len(kernel) * prod(kernel)))
    if len(kernel) == 3:
        return _volumes((input, offset, weight, bias, mask), kernel, geometry, groups, boundary)
    if len(kernel) == 1:
        flat = _as_maps((input, offset, weight, bias, mask), prod(kernel) * groups[1])
        stride, padding, dilation = ([first, *values] for first, values in zip((1, 0, 1), geometry, strict=True))
        return op.Squeeze(_maps(flat, [1, *kernel], (stride, padding, dilation), groups, boundary), ints(2))
    return _maps((input, offset, weight, bias, mask), kernel, geometry, groups, boundary)


Geometry = tuple[list[int], list[int], list[int]]
Groups = tuple[int, int]
Tensors = tuple[Value, Value, Value, Value | None, Value | None]


def _maps(tensors: Tensors, kernel: list[int], geometry: Geometry, groups: Groups, boundary: str) -> Value:
    input, offset, weight, bias, mask = tensors
    if boundary == "v1":
        offset, mask = _clamped(input, offset, mask, kernel, geometry, groups[1])
    stride, padding, dilation = geometry
    return op.DeformConv(
        input,
        weight,
        op.CastLike(offset, input),
        bias,
        mask,
        kernel_shape=kernel,
        strides=stride,
        pads=[*padding, *padding],
        dilations=dilation,
        group=groups[0],
        offset_group=groups[1],
    )


def _as_maps(tensors: Tensors, taps: int) -> Tensors:
    """Sequences as maps of one row, whose offsets in y are 0."""
    input, offset, weight, bias, mask = tensors
    across = reshape(offset, size(offset, 0), taps, 1, 1, size(offset, 2))
    pairs = op.Concat(op.Mul(across, 0.0), across, axis=2)
    offset = reshape(pairs, size(offset, 0), 2 * taps, 1, size(offset, 2))
    rows = [None if t is None else op.Unsqueeze(t, ints(2)) for t in (input, weight, mask)]
    return rows[0], offset, rows[1], bias, rows[2]


def _bases(kernel: Sequence[int], geometry: Geometry, out: Sequence[Value]) -> list[Value]:
    """Where each tap of each output location lies without offsets, per axis ``[K, *out]`` with sizes of 1."""
    stride, padding, dilation = geometry
    taps = list(itertools.product(*(range(k) for k in kernel)))
    bases = []
    for axis, step in enumerate(stride):
        first = constant([tap[axis] * dilation[axis] - padding[axis] for tap in taps], len(taps), *[1] * len(kernel))
        locations = [1] * len(kernel)
        locations[axis] = -1
        bases.append(op.Add(first, reshape(op.Mul(arange(out[axis]), float(step)), 1, *locations)))
    return bases


def positions(offset: Value, kernel: Sequence[int], geometry: Geometry, groups: int) -> tuple[list[Value], list[Value]]:
    """Coordinates ``[N, G, K, *out]`` and their bases, per axis."""
    axes = len(kernel)
    out = [size(offset, 2 + axis) for axis in range(axes)]
    parts = reshape(offset, size(offset, 0), groups, prod(kernel), axes, *out)
    bases = _bases(kernel, geometry, out)
    moves = [op.Gather(parts, op.Constant(value_int=axis), axis=3) for axis in range(axes)]
    return [op.Add(base, real(move)) for base, move in zip(bases, moves, strict=True)], bases


def _extents(input: Value) -> list[Value]:
    """The sizes of a map in float32, per axis."""
    return [real(size(input, axis)) for axis in range(2, len(input.shape))]


def held(locations: Sequence[Value], extents: Sequence[Value]) -> tuple[list[Value], Value]:
    """The v1 rule: coordinates held at the last pixel's centre, and whether a tap lies on the map."""
    inside = both(
        *(op.GreaterOrEqual(position, 0.0) for position in locations),
        *(op.Less(position, extent) for position, extent in zip(locations, extents, strict=True)),
    )
    kept = [op.Min(position, op.Sub(extent, 1.0)) for position, extent in zip(locations, extents, strict=True)]
    return [op.Where(inside, position, 0.0) for position in kept], inside


def _clamped(
    input: Value, offset: Value, mask: Value | None, kernel: Sequence[int], geometry: Geometry, groups: int
) -> tuple[Value, Value]:
    """Offsets and mask with which the v2 rule computes the v1 rule."""
    locations, bases = positions(offset, kernel, geometry, groups)
    extents = [real(size(input, 2 + axis)) for axis in range(2)]
    kept, inside = held(locations, extents)
    moved = [op.Unsqueeze(op.Sub(position, base), ints(3)) for position, base in zip(kept, bases, strict=True)]
    factors = op.CastLike(inside, input)
    out = (size(offset, 2), size(offset, 3))
    taps = groups * prod(kernel)
    if mask is not None:
        factors = op.Mul(factors, reshape(mask, size(mask, 0), groups, prod(kernel), *out))
    moved_offset = reshape(op.Concat(*moved, axis=3), size(offset, 0), 2 * taps, *out)
    return moved_offset, reshape(factors, size(offset, 0), taps, *out)


def _volumes(tensors: Tensors, kernel: list[int], geometry: Geometry, by: Groups, boundary: str) -> Value:
    """Samples ``[N, C, K, *out]`` by GridSample, which pads with zeros as the v2 rule does; then one matrix product."""
    input, offset, weight, bias, mask = tensors
    taps, channels, groups = prod(kernel), int(input.shape[1]), by[1]
    images, out = size(input, 0), [size(offset, 2 + axis) for axis in range(3)]
    locations, _ = positions(offset, kernel, geometry, groups)
    extents = _extents(input)
    factors = None if mask is None else reshape(mask, images, groups, 1, taps, -1)
    if boundary == "v1":
        locations, inside = held(locations, extents)
        seen = op.CastLike(reshape(inside, images, groups, 1, taps, -1), input)
        factors = seen if factors is None else op.Mul(factors, seen)
    # A coordinate c of a map of s pixels is (2c + 1) / s - 1 there; x comes first.
    grid = [
        op.Unsqueeze(op.Sub(op.Div(op.Add(op.Mul(position, 2.0), 1.0), extent), 1.0), ints(-1))
        for position, extent in zip(locations, extents, strict=True)
    ]
    both_axes = op.Mul(images, groups)
    grid_shape = join(both_axes, op.Mul(out[0], taps), out[1], out[2], 3)
    maps = reshape(input, both_axes, channels // groups, *(size(input, 2 + axis) for axis in range(3)))
    samples = op.GridSample(
        maps,
        op.CastLike(op.Reshape(op.Concat(*reversed(grid), axis=-1), grid_shape), input),
        align_corners=0,
        mode="linear",
        padding_mode="zeros",
    )
    samples = reshape(samples, images, groups, channels // groups, taps, -1)
    samples = samples if factors is None else op.Mul(samples, factors)
    outputs, inputs = int(weight.shape[0]), int(weight.shape[1]) * taps
    columns = reshape(samples, images, by[0], inputs, -1)
    result = op.MatMul(reshape(weight, by[0], outputs // by[0], inputs), columns)
    result = reshape(result, images, outputs, *out)
    return result if bias is None else op.Add(result, reshape(bias, 1, outputs, 1, 1, 1))
