"""The mean of bilinear samples in the bins of RoIs that move one by one, from elementary operators.

A bin's samples are a grid of rows and columns. Each sample reads two rows and two columns of the map, so that ``s``
samples per axis are ``2s`` corners per axis with a weight each, 0 for what lies outside.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from onnxscript import opset20 as op

from dcn.export.operators._values import (
    Value,
    addable,
    arange,
    both,
    constant,
    ints,
    real,
    reshape,
    size,
    summed,
    whole,
)
from dcn.kernels.roi_grid import RoiRule

_MOST = 2.0**24
"""Samples per axis are counted in float32, which holds whole numbers up to here."""


class Call(NamedTuple):
    """What both ways of sampling need.

    Attributes:
        input: ``[N, C, H, W]``.
        image: ``[R]`` int64.
        origins: where the bins begin on the map (y, x), ``[R, K or 1, P or 1, Q or 1]`` float32.
        bins: size of the bins (y, x), ``[R, 1, 1, 1]``.
        rule: which pooling.
        classes: offset classes ``K``.
    """

    input: Value
    image: Value
    origins: tuple[Value, Value]
    bins: tuple[Value, Value]
    rule: RoiRule
    classes: int


class Corners(NamedTuple):
    """The corners of one axis, ``[R, K or 1, P or 1, Q or 1, 2s]``, and the samples that count ``[..., 1]``."""

    index: Value
    weight: Value
    count: Value


def _corners(call: Call, axis: int) -> Corners:
    samples, extent = call.rule.samples, real(size(call.input, 2 + axis))
    step = op.Div(call.bins[axis], float(samples))
    origin = call.origins[axis]
    if call.rule.form != "parts":
        origin = op.Add(origin, op.Mul(step, 0.5))
    moves = op.Mul(op.Unsqueeze(step, ints(-1)), constant(range(samples), 1, 1, 1, 1, samples))
    position = op.Add(op.Unsqueeze(origin, ints(-1)), moves)
    inside, held = _held(position, extent, 0.5 if call.rule.form == "parts" else 1.0)
    inside = real(inside)
    low = op.Floor(held)
    share = op.Sub(held, low)
    high = op.Min(op.Add(low, 1.0), op.Sub(extent, 1.0))
    weight = op.Concat(op.Mul(op.Sub(1.0, share), inside), op.Mul(share, inside), axis=-1)
    count = summed(inside, samples)
    return Corners(whole(op.Concat(low, high, axis=-1)), op.CastLike(weight, call.input), count)


def _held(position: Value, extent: Value, margin: float) -> tuple[Value, Value]:
    """Whether a sample counts, and where it is held on the map."""
    last = op.Sub(extent, 1.0)
    inside = both(op.GreaterOrEqual(position, -margin), op.LessOrEqual(position, op.Add(last, margin)))
    return inside, op.Min(op.Max(op.Where(inside, position, 0.0), 0.0), last)


def _row(value: Value, index: int) -> Value:
    """One corner, with its axis kept."""
    return op.Slice(value, ints(index), ints(index + 1), ints(-1))


def fixed(call: Call, channel_of_bins: Callable[[int, RoiRule], Value]) -> Value:
    """A known number of samples: ``[R, D, P, Q]``. One gather per row of corners keeps the memory small."""
    down, across = _corners(call, 0), _corners(call, 1)
    shared = call.rule.group == (1, 1) and call.classes == 1
    total = _by_pixel(call, down, across) if shared else _by_element(call, down, across, channel_of_bins)
    if call.rule.form != "parts":
        return op.Div(total, op.CastLike(float(call.rule.samples**2), total))
    count = op.Max(op.Squeeze(op.Mul(down.count, across.count), ints(-1)), 1.0)
    channels = int(call.input.shape[1]) // (call.rule.group[0] * call.rule.group[1])
    return op.Div(total, op.CastLike(_per_channel(count, call.classes, channels), total))


def _per_channel(value: Value, classes: int, channels: int) -> Value:
    """From classes (axis 1) to output channels; one class serves all by broadcasting."""
    if classes == 1:
        return value
    return op.Gather(value, ints(*(d * classes // channels for d in range(channels))), axis=1)


def _by_pixel(call: Call, down: Corners, across: Corners) -> Value:
    """Every bin reads all channels: whole pixels are gathered."""
    table = op.Transpose(call.input, perm=[0, 2, 3, 1])
    table = reshape(table, -1, int(call.input.shape[1]))
    height, width = size(call.input, 2), size(call.input, 3)
    first = op.Mul(reshape(call.image, -1, 1, 1, 1, 1), height)
    weights = op.Unsqueeze(across.weight, ints(-2))
    total = None
    for corner in range(2 * call.rule.samples):
        rows = op.Mul(op.Add(first, _row(down.index, corner)), width)
        pixels = op.Gather(table, op.Add(rows, across.index), axis=0)
        share = op.Mul(op.MatMul(weights, pixels), op.Unsqueeze(_row(down.weight, corner), ints(-1)))
        total = share if total is None else op.Add(total, share)
    return op.Transpose(op.Squeeze(total, ints(1, 4)), perm=[0, 3, 1, 2])  # from [R, 1, P, Q, 1, C]


def _by_element(call: Call, down: Corners, across: Corners, channel_of_bins: Callable[[int, RoiRule], Value]) -> Value:
    """Every bin reads channels of its own, and classes move on their own: single values are gathered."""
    channels = int(call.input.shape[1])
    outputs = channels // (call.rule.group[0] * call.rule.group[1])
    flat, height, width = reshape(call.input, -1), size(call.input, 2), size(call.input, 3)
    plane = op.Add(op.Mul(reshape(call.image, -1, 1, 1, 1), ints(channels)), channel_of_bins(channels, call.rule))
    first = op.Mul(op.Unsqueeze(plane, ints(-1)), height)
    rows, columns, weights, shares = (
        _per_channel(t, call.classes, outputs) for t in (down.index, across.index, across.weight, down.weight)
    )
    total = None
    for corner in range(2 * call.rule.samples):
        start = op.Mul(op.Add(first, _row(rows, corner)), width)
        values = op.Mul(op.Gather(flat, op.Add(start, columns), axis=0), weights)
        share = op.Mul(summed(values, 2 * call.rule.samples), _row(shares, corner))
        total = share if total is None else op.Add(total, share)
    return op.Squeeze(total, ints(-1))


class _Axis(NamedTuple):
    """The samples of one axis where the data give their number: ``[R, P, Q, S]``, and the divisor ``[R, 1]``."""

    held: Value
    inside: Value
    many: Value


def _adaptive_axis(call: Call, axis: int) -> _Axis:
    """``ceil(bin size)`` samples; of a RoI far larger than the map only those that can lie on it."""
    extent, origin, bin_size = real(size(call.input, 2 + axis)), call.origins[axis], call.bins[axis]
    many = op.Min(op.Max(op.Ceil(bin_size), 0.0), _MOST)
    step = op.Where(op.Greater(many, 0.0), op.Div(bin_size, op.Max(many, 1.0)), 0.0)
    most = op.Add(op.Mul(extent, 2.0), 6.0)
    skipped = op.Floor(op.Sub(op.Div(op.Sub(-1.0, origin), op.Where(op.Greater(step, 0.0), step, 1.0)), 0.5))
    first = op.Min(op.Max(skipped, 0.0), op.Max(op.Sub(many, most), 0.0))
    begin = op.Add(origin, op.Mul(op.Add(first, 0.5), step))
    count = op.Min(many, most)
    largest = op.ReduceMax(op.Concat(reshape(count, -1), constant([1], 1), axis=0), keepdims=1)
    steps = reshape(arange(whole(largest)), 1, 1, 1, 1, -1)
    position = op.Add(op.Unsqueeze(begin, ints(-1)), op.Mul(op.Unsqueeze(step, ints(-1)), steps))
    inside, held = _held(position, extent, 1.0)
    inside = op.And(inside, op.Less(steps, op.Unsqueeze(count, ints(-1))))
    return _Axis(op.Squeeze(held, ints(1)), op.Squeeze(inside, ints(1)), reshape(many, -1, 1))


def adaptive(call: Call) -> Value:
    """About one sample per map pixel: a list of all samples of all bins, which are then added up by bin."""
    down, across = _adaptive_axis(call, 0), _adaptive_axis(call, 1)
    seen = op.And(op.Unsqueeze(down.inside, ints(4)), op.Unsqueeze(across.inside, ints(3)))
    positions = op.Transpose(op.NonZero(seen), perm=[1, 0])  # [L, (roi, row, column, i, j)]
    bins = op.Slice(positions, ints(0), ints(3), ints(1))
    y = op.GatherND(down.held, op.Concat(bins, op.Slice(positions, ints(3), ints(4), ints(1)), axis=1))
    x = op.GatherND(across.held, op.Concat(bins, op.Slice(positions, ints(4), ints(5), ints(1)), axis=1))
    roi, row, column = (op.Gather(positions, op.Constant(value_int=k), axis=1) for k in range(3))
    pixels = _bilinear(call, op.Gather(call.image, roi, axis=0), y, x)
    (rows, columns), channels = call.rule.output_size, int(call.input.shape[1])
    position = op.Add(op.Mul(op.Add(op.Mul(roi, rows), row), columns), column)
    rois = size(call.image, 0)
    pixels = addable(pixels, call.input)
    empty = op.Expand(op.CastLike(0.0, pixels), op.Concat(op.Mul(rois, rows * columns), ints(channels), axis=0))
    total = op.ScatterND(empty, op.Unsqueeze(position, ints(1)), pixels, reduction="add")
    count = op.CastLike(op.Max(op.Mul(down.many, across.many), 1.0), pixels)
    means = op.Div(reshape(total, rois, rows * columns, channels), op.Unsqueeze(count, ints(2)))
    means = op.CastLike(means, call.input)
    return reshape(op.Transpose(means, perm=[0, 2, 1]), rois, channels, rows, columns)


def _bilinear(call: Call, image: Value, y: Value, x: Value) -> Value:
    """Values ``[L, C]`` at coordinates on the map ``[L]``."""
    table = reshape(op.Transpose(call.input, perm=[0, 2, 3, 1]), -1, int(call.input.shape[1]))
    height, width = size(call.input, 2), size(call.input, 3)
    corners = []
    for position, extent in ((y, height), (x, width)):
        low = op.Floor(position)
        high = op.Min(op.Add(low, 1.0), op.Sub(real(extent), 1.0))
        share = op.Sub(position, low)
        corners.append(((whole(low), op.Sub(1.0, share)), (whole(high), share)))
    total = None
    for rows, down in corners[0]:
        for columns, across in corners[1]:
            index = op.Add(op.Mul(op.Add(op.Mul(image, height), rows), width), columns)
            weight = op.CastLike(op.Unsqueeze(op.Mul(down, across), ints(1)), call.input)
            value = op.Mul(op.Gather(table, index, axis=0), weight)
            total = value if total is None else op.Add(total, value)
    return total
