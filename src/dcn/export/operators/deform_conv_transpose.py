"""Transposed deformable convolution: every corner of every sample is added to the output by ``ScatterND``."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from math import prod

from onnxscript import opset20 as op

from dcn.export.operators._values import Value, addable, arange, both, ints, join, real, reshape, size, whole
from dcn.export.operators.deform_conv import held, positions


def translate(
    input: Value,
    offset: Value,
    weight: Value,
    bias: Value | None,
    mask: Value | None,
    stride: Sequence[int],
    padding: Sequence[int],
    output_padding: Sequence[int],
    dilation: Sequence[int],
    boundary: str,
    backend: str | None = None,
) -> Value:
    """``dcn::deform_conv_transpose``; arguments as there.

    Args:
        input: ``[N, C, *size]``.
        offset: ``[N, n*G*K, *size]``.
        weight: ``[groups, C/groups, O/groups, *kernel]`` of a known shape.
        bias: ``[O]``.
        mask: ``[N, G*K, *size]``.
        stride: per axis.
        padding: per axis.
        output_padding: per axis.
        dilation: per axis.
        boundary: ``"v1"`` or ``"v2"``.
        backend: has no meaning here.
    """
    groups, inputs, per_group, *kernel = (int(n) for n in weight.shape)
    taps, axes, outputs = prod(kernel), len(kernel), groups * per_group
    offset_groups = int(offset.shape[1]) // (axes * taps)
    geometry = (list(stride), list(padding), list(dilation))
    images = size(input, 0)
    out = [
        op.Add(op.Mul(op.Sub(size(input, 2 + axis), ints(1)), ints(stride[axis])), ints(_reach(axis, kernel, geometry)))
        for axis in range(axes)
    ]
    out = [op.Add(extent, ints(more)) for extent, more in zip(out, output_padding, strict=True)]
    locations, _ = positions(offset, kernel, geometry, offset_groups)
    # What every location gives every tap of every output channel: [N, G, K * L, O/G].
    columns = op.MatMul(
        op.Transpose(reshape(weight, groups, inputs, per_group * taps), perm=[0, 2, 1]),
        reshape(input, images, groups, inputs, -1),
    )
    columns = reshape(columns, images, offset_groups, outputs // offset_groups, taps, -1)
    if mask is not None:
        columns = op.Mul(columns, reshape(mask, images, offset_groups, 1, taps, -1))
    columns = op.Transpose(columns, perm=[0, 1, 3, 4, 2])
    columns = reshape(columns, images, offset_groups, -1, outputs // offset_groups)
    pixels = out[0]
    for extent in out[1:]:
        pixels = op.Mul(pixels, extent)
    rows = op.Mul(op.Mul(images, ints(offset_groups)), pixels)
    columns = addable(columns, input)
    total = op.Expand(op.CastLike(0.0, columns), join(rows, outputs // offset_groups))
    first = op.Mul(reshape(whole(arange(op.Mul(images, ints(offset_groups)))), -1, offset_groups, 1), pixels)
    for index, share in _corners(locations, [real(extent) for extent in out], out, boundary):
        index = op.Add(reshape(index, images, offset_groups, -1), first)  # noqa: PLW2901
        values = op.Mul(columns, op.CastLike(reshape(share, images, offset_groups, -1, 1), columns))
        total = op.ScatterND(total, op.Unsqueeze(index, ints(-1)), values, reduction="add")
    maps = op.Transpose(reshape(total, images, offset_groups, pixels, outputs // offset_groups), perm=[0, 1, 3, 2])
    maps = op.CastLike(reshape(maps, images, outputs, *out), input)
    return maps if bias is None else op.Add(maps, reshape(bias, 1, outputs, *[1] * axes))


def _reach(axis: int, kernel: Sequence[int], geometry: tuple[list[int], list[int], list[int]]) -> int:
    """What the last input pixel reaches beyond the place of its first tap."""
    _, padding, dilation = geometry
    return dilation[axis] * (kernel[axis] - 1) + 1 - 2 * padding[axis]


def _corners(
    locations: Sequence[Value], extents: Sequence[Value], out: Sequence[Value], boundary: str
) -> list[tuple[Value, Value]]:
    """Pixel and weight of every corner of the samples, in the shape of ``places``; weight 0 where there is none."""
    seen = None
    if boundary == "v1":
        locations, seen = held(locations, extents)
    sides = []
    for position, extent in zip(locations, extents, strict=True):
        # Held within two pixels of the map, where all is 0 already: an infinite coordinate has no cell.
        position = op.Min(op.Max(position, -2.0), op.Add(extent, 1.0))  # noqa: PLW2901
        low = op.Floor(position)
        share = op.Sub(position, low)
        sides.append(((low, op.Sub(1.0, share)), (op.Add(low, 1.0), share)))
    found = []
    for corner in itertools.product(*sides):
        inside = both(
            *(op.GreaterOrEqual(cell, 0.0) for cell, _ in corner),
            *(op.Less(cell, extent) for (cell, _), extent in zip(corner, extents, strict=True)),
        )
        inside = inside if seen is None else op.And(inside, seen)
        index, weight = op.Constant(value_int=0), op.Constant(value_float=1.0)
        for (cell, share), extent in zip(corner, out, strict=True):
            index, weight = op.Add(op.Mul(index, extent), whole(cell)), op.Mul(weight, share)
        found.append((op.Where(inside, index, op.Constant(value_int=0)), op.Where(inside, weight, 0.0)))
    return found
