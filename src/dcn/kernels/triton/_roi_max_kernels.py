"""Kernel of RoI max pooling: a scan over a bin's cells gives its value or, backwards, where its gradient goes.

Parameters:
    data, boxes                        [N, channels, H, W] of any strides; [R, 5] (image, x1, y1, x2, y2)
    output, grad                       [R, channels, P, Q], contiguous
    unit, grad_data                    see :func:`largest`
    images, channels, height, width    of the map; by_*, to_*: elements from image to image, channel, row and column
    scale_bits                         the spatial scale as the bits of its number
    P, Q, BACKWARD                     bins; which direction
    B, C                               the tile: bins of one RoI, channels
"""

from __future__ import annotations

import triton
import triton.language as tl

from dcn.kernels.triton._arithmetic import divide, finite, number, round_half_away


@triton.jit
def _nan(value):
    return ~(tl.abs(value) <= float("inf"))


@triton.jit
def _span(low, size, index, end, BINS: tl.constexpr):
    """First cell and the one after the last of some bins along one axis."""
    step = divide(size, tl.full((), BINS, size.dtype))
    location = index.to(size.dtype)
    limit = tl.zeros_like(location) + end
    begin = tl.minimum(tl.maximum(tl.floor(location * step) + low, 0.0), limit)
    stop = tl.minimum(tl.maximum(tl.ceil((location + 1) * step) + low, 0.0), limit)
    return begin.to(tl.int32), stop.to(tl.int32)


@triton.jit
def _spans(boxes, bin, images, height, width, scale, P: tl.constexpr, Q: tl.constexpr):
    """Image and both spans of the bins of one RoI; a RoI that is none has no cells."""
    image = tl.load(boxes)
    left, top = round_half_away(tl.load(boxes + 1) * scale), round_half_away(tl.load(boxes + 2) * scale)
    right, bottom = round_half_away(tl.load(boxes + 3) * scale), round_half_away(tl.load(boxes + 4) * scale)
    valid = (image >= 0) & (image < images) & finite(left - right) & finite(top - bottom)
    tall, wide = tl.maximum(bottom - top + 1, 1.0), tl.maximum(right - left + 1, 1.0)
    top, left = tl.where(valid, top, 0.0), tl.where(valid, left, 0.0)
    tall, wide = tl.where(valid, tall, 0.0), tl.where(valid, wide, 0.0)
    first_row, last_row = _span(top, tall, bin // Q, height, P)
    first_column, last_column = _span(left, wide, bin % Q, width, Q)
    return tl.where(valid, image, 0.0).to(tl.int64), first_row, last_row, first_column, last_column


@triton.jit(do_not_specialize=["images", "height", "width", "scale_bits"])
def largest(
    data, boxes, output, grad, unit, grad_data,
    images, channels, height, width, by_image, by_channel, by_row, by_column, to_image, to_channel, to_row, to_column,
    scale_bits,
    P: tl.constexpr, Q: tl.constexpr, BACKWARD: tl.constexpr, B: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    """Grid ``(R, bins / B, channels / C)``, tiles ``[B, C]``.

    Forward: ``output[R, channels, P, Q]``, the largest value of each bin, NaN counting as largest, 0 without cells.
    ``BACKWARD``: ``grad[R, channels, P, Q]`` is added to ``grad_data`` (zeros, strides ``to_*``) at the first of the
    largest cells in reading order; where that is int64, whole multiples of ``1 / unit``.
    """
    roi = tl.program_id(0).to(tl.int64)
    bin, channel = tl.program_id(1) * B + tl.arange(0, B), tl.program_id(2) * C + tl.arange(0, C)
    # Half types are compared in float32, which holds all their values.
    dtype: tl.constexpr = tl.float64 if data.dtype.element_ty == tl.float64 else tl.float32
    scale = number(scale_bits, boxes.dtype.element_ty)
    image, first_row, last_row, first_column, last_column = _spans(
        boxes + roi * 5, bin, images, height, width, scale, P, Q
    )
    real = (bin < P * Q)[:, None] & (channel < channels)[None]
    data += image * by_image
    at = channel.to(tl.int64)[None] * by_channel
    best = tl.full((B, C), float("-inf"), dtype)
    where = tl.full((B, C), -1, tl.int32)
    tall, wide = tl.max(last_row - first_row, 0), tl.max(last_column - first_column, 0)
    y = tall * 0
    while y < tall:
        row = first_row + y
        x = wide * 0
        while x < wide:
            column = first_column + x
            wanted = ((row < last_row) & (column < last_column))[:, None] & real
            pixel = row.to(tl.int64) * by_row + column.to(tl.int64) * by_column
            value = tl.load(data + pixel[:, None] + at, mask=wanted, other=0.0).to(dtype)  # [B, C]
            # The first cell is taken whatever it holds; after it only what is larger, and the first NaN.
            better = wanted & ((where < 0) | (value > best) | (_nan(value) & ~_nan(best)))
            best = tl.where(better, value, best)
            where = tl.where(better, (row * width + column)[:, None], where)
            x += 1
        y += 1
    location = roi * channels * (P * Q) + channel[None] * (P * Q) + bin[:, None]
    if BACKWARD:
        gain = tl.load(grad + location, mask=real, other=0.0).to(dtype)  # [B, C]
        if grad_data.dtype.element_ty == tl.int64:
            gain = tl.floor(gain * tl.load(unit) + 0.5).to(tl.int64)
        cell = tl.maximum(where, 0)
        spot = (cell // width).to(tl.int64) * to_row + (cell % width).to(tl.int64) * to_column
        target = grad_data + image * to_image + channel.to(tl.int64)[None] * to_channel + spot
        tl.atomic_add(target, gain, mask=real & (where >= 0), sem="relaxed")
    else:
        tl.store(output + location, tl.where(where >= 0, best, 0.0).to(output.dtype.element_ty), mask=real)
