"""Averaging RoI pooling: RoIAlign as ONNX's ``RoiAlign``, all other rules from elementary operators.

The rules and their names are those of :mod:`dcn.kernels.roi_grid`, in the same order of operations, so that a bin's
edge is rounded to the same side here and there.

* RoIAlign without offsets: ``RoiAlign``. Position-sensitive RoIAlign: the same, and one bin of every channel is taken.
* Whole cells (position-sensitive RoI pooling): four values of a table of sums in float64.
* Deformable pooling: a gather per row of corners, and the sum of the samples by their weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from onnxscript import DOUBLE
from onnxscript import opset20 as op

from dcn.export.operators import _samples
from dcn.export.operators._values import Value, column, constant, finite_rois, ints, real, reshape, size, whole
from dcn.kernels.roi_grid import RoiRule, part_index


class Rois(NamedTuple):
    """Image ``[R]`` int64, and start and size on the map ``[R, 1, 1, 1]`` float32, (y, x) each."""

    image: Value
    start: tuple[Value, Value]
    extent: tuple[Value, Value]


def translate(
    input: Value,
    boxes: Value,
    offset: Value | None,
    mask: Value | None,
    form: str,
    output_size: Sequence[int],
    group: Sequence[int],
    spatial_scale: float,
    samples: int,
    gamma: float,
    backend: str | None = None,
) -> Value:
    """``dcn::roi_mean``; arguments as there.

    Args:
        input: ``[N, C, H, W]``.
        boxes: ``[R, 5]``.
        offset: ``[R, 2*classes, parts, parts]``.
        mask: ``[R, 1, rows, columns]``.
        form: the rule.
        output_size: bins ``(rows, columns)``.
        group: channel groups ``(rows, columns)``.
        spatial_scale: map pixels per box pixel.
        samples: samples per bin and axis, 0 for adaptive.
        gamma: unit of the offsets.
        backend: has no meaning here.
    """
    rule = RoiRule(form, tuple(output_size), tuple(group), spatial_scale, samples, gamma)  # type: ignore[arg-type]
    boxes, finite = finite_rois(boxes)
    if form in ("cells_first", "cells_after"):
        output = _cells(input, boxes, rule)
    elif form == "parts" or offset is not None:
        output = _moved(input, boxes, offset, rule)
    else:
        output = _align(input, boxes, rule)
    output = op.Where(finite, output, op.CastLike(0.0, output))
    return output if mask is None else op.Mul(output, op.CastLike(mask, output))


def _align(input: Value, boxes: Value, rule: RoiRule) -> Value:
    rows, columns = rule.output_size
    output = op.RoiAlign(
        input,
        op.CastLike(op.Slice(boxes, ints(1), ints(5), ints(1)), input),
        whole(column(boxes, 0)),
        coordinate_transformation_mode="half_pixel" if rule.form == "half_pixel" else "output_half_pixel",
        mode="avg",
        output_height=rows,
        output_width=columns,
        sampling_ratio=rule.samples,
        spatial_scale=float(rule.spatial_scale),
    )
    if rule.group == (1, 1):
        return output
    # Bin b of output channel d reads channel d * groups + g(b): of all channels' bins one each is taken.
    groups, bins = rule.group[0] * rule.group[1], rows * columns
    channels = int(input.shape[1]) // groups
    chosen = [g * bins + b for b, g in enumerate(_group_of_bins(rule))]
    flat = reshape(output, -1, channels, groups * bins)
    return reshape(op.Gather(flat, ints(*chosen), axis=2), -1, channels, rows, columns)


def _group_of_bins(rule: RoiRule) -> list[int]:
    """The channel group of every bin, row by row."""
    (rows, columns), (down, across) = rule.output_size, rule.group
    return [p * down // rows * across + q * across // columns for p in range(rows) for q in range(columns)]


def _round(value: Value) -> Value:
    """Halves away from zero, as C has it (ONNX's Round takes them to even numbers)."""
    size_of = op.Abs(value)
    below = op.Floor(size_of)
    up = real(op.GreaterOrEqual(op.Sub(size_of, below), 0.5))
    return op.Mul(op.Sign(value), op.Add(below, up))


def _rois(boxes: Value, rule: RoiRule) -> Rois:
    """Start and size of the RoIs on the map."""
    scale, starts, extents = float(rule.spatial_scale), [], []
    for axis in (1, 0):
        low, high = (reshape(column(boxes, 1 + axis + corner), -1, 1, 1, 1) for corner in (0, 2))
        if rule.form == "align":
            start = op.Mul(low, scale)
            extent = op.Max(op.Sub(op.Mul(high, scale), start), 1.0)
        elif rule.form == "half_pixel":
            start = op.Sub(op.Mul(low, scale), 0.5)
            extent = op.Sub(op.Sub(op.Mul(high, scale), 0.5), start)
        elif rule.form == "cells_after":
            start = _round(op.Mul(low, scale))
            extent = op.Max(op.Sub(_round(op.Mul(high, scale)), start), 1.0)
        else:
            shift = 0.5 if rule.form == "parts" else 0.0
            start = op.Sub(op.Mul(_round(low), scale), shift)
            end = op.Sub(op.Mul(op.Add(_round(high), 1.0), scale), shift)
            extent = op.Max(op.Sub(end, start), 0.1)
        starts.append(start)
        extents.append(extent)
    return Rois(whole(column(boxes, 0)), (starts[0], starts[1]), (extents[0], extents[1]))


def _channel_of_bins(channels: int, rule: RoiRule) -> Value:
    """The input channel of every output element, a constant ``[1, D, P, Q]`` int64."""
    groups = rule.group[0] * rule.group[1]
    per_bin = _group_of_bins(rule)
    values = [d * groups + g for d in range(channels // groups) for g in per_bin]
    return op.Reshape(ints(*values), ints(1, channels // groups, *rule.output_size))


def _cell_edges(rois: Rois, rule: RoiRule, axis: int, extent: Value) -> tuple[Value, Value]:
    """First cell and the one after the last of every bin, float32 ``[R, 1, P, 1]`` or ``[R, 1, 1, Q]``."""
    bins = rule.output_size[axis]
    shape = (1, 1, bins, 1) if axis == 0 else (1, 1, 1, bins)
    index, begin = constant(range(bins), *shape), rois.start[axis]
    size_of = op.Div(rois.extent[axis], float(bins))
    if rule.form == "cells_first":
        low, last = op.Floor(op.Add(op.Mul(index, size_of), begin)), extent
        high = op.Ceil(op.Add(op.Mul(op.Add(index, 1.0), size_of), begin))
    else:
        low, last = op.Add(op.Floor(op.Mul(index, size_of)), begin), op.Sub(extent, 1.0)
        high = op.Add(op.Ceil(op.Mul(op.Add(index, 1.0), size_of)), begin)
    return op.Min(op.Max(low, 0.0), last), op.Min(op.Max(high, 0.0), last)


def _cells(input: Value, boxes: Value, rule: RoiRule) -> Value:
    """The mean of whole cells from a table of sums: entry ``(y, x)`` is the sum of all cells before row y and column x.

    In float64, whose rounding is far below that of one float32 value, so that differences of sums are exact enough.
    """
    channels = int(input.shape[1])
    table = op.CumSum(op.CumSum(op.Cast(input, to=DOUBLE.dtype), op.Constant(value_int=2)), op.Constant(value_int=3))
    table = op.Pad(table, ints(0, 0, 1, 1, 0, 0, 0, 0))
    height, width = size(table, 2), size(table, 3)
    rois = _rois(boxes, rule)
    down = _cell_edges(rois, rule, 0, real(op.Sub(height, ints(1))))
    across = _cell_edges(rois, rule, 1, real(op.Sub(width, ints(1))))
    plane = op.Add(op.Mul(reshape(rois.image, -1, 1, 1, 1), ints(channels)), _channel_of_bins(channels, rule))
    flat = reshape(table, -1)

    def at(y: Value, x: Value) -> Value:
        return op.Gather(flat, op.Add(op.Mul(op.Add(op.Mul(plane, height), whole(y)), width), whole(x)), axis=0)

    upper, lower = (op.Sub(at(y, across[1]), at(y, across[0])) for y in down)
    count = op.Mul(*(op.Max(op.Sub(high, low), 0.0) for low, high in (down, across)))
    total = op.Where(op.Greater(count, 0.0), op.CastLike(op.Sub(lower, upper), input), op.CastLike(0.0, input))
    return op.Div(total, op.CastLike(op.Max(count, 1.0), input))


def _part_index(bins: int, parts: int) -> list[int]:
    """The part of every bin (:func:`dcn.kernels.roi_grid.part_index`)."""
    return [int(part) for part in part_index(bins, parts, torch.device("cpu"))]


def _shifts(rois: Rois, offset: Value, rule: RoiRule) -> tuple[Value, Value]:
    """How far each bin moves, ``[R, K, P, Q]`` map pixels (y, x); offsets are stored x first."""
    classes, parts = int(offset.shape[1]) // 2, [int(n) for n in offset.shape[2:]]
    pairs = reshape(real(offset), size(offset, 0), classes, 2, *parts)
    for axis in (0, 1):
        index = _part_index(rule.output_size[axis], parts[axis])
        if index != list(range(parts[axis])):
            pairs = op.Gather(pairs, ints(*index), axis=3 + axis)
    moves = op.Mul(pairs, float(rule.gamma))
    x, y = (op.Gather(moves, op.Constant(value_int=axis), axis=2) for axis in (0, 1))
    return op.Mul(y, rois.extent[0]), op.Mul(x, rois.extent[1])


def _moved(input: Value, boxes: Value, offset: Value | None, rule: RoiRule) -> Value:
    """Deformable pooling of both kinds, with or without offsets."""
    rois = _rois(boxes, rule)
    shifts = (None, None) if offset is None else _shifts(rois, offset, rule)
    origins, sizes = [], []
    for axis, shift in enumerate(shifts):
        bins = rule.output_size[axis]
        shape = (1, 1, bins, 1) if axis == 0 else (1, 1, 1, bins)
        bin_size = op.Div(rois.extent[axis], float(bins))
        origin = op.Add(rois.start[axis], op.Mul(constant(range(bins), *shape), bin_size))
        origins.append(origin if shift is None else op.Add(origin, shift))
        sizes.append(bin_size)
    classes = 1 if offset is None else int(offset.shape[1]) // 2
    call = _samples.Call(input, rois.image, (origins[0], origins[1]), (sizes[0], sizes[1]), rule, classes)
    if rule.samples > 0:
        return _samples.fixed(call, _channel_of_bins)
    return _samples.adaptive(call)
