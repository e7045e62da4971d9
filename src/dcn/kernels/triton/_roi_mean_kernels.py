"""Kernels of the averaging RoI poolings: samples are placed, merged into weights of pixels, and summed in one launch.

The mean over a grid of bilinear samples is separable: the weight of pixel (y, x) in a bin is ``wy * wx``, where ``wy``
is what all samples of the bin give to row ``y``. So a bin visits each pixel that it touches once (9 reads for 4 x 4
samples half a pixel apart, not 64), and so do the atomic additions of the gradient. Where the samples lie is the rule
of ``kernels/roi_grid.py``, operation by operation; the launches switch fused multiply-add off, so that whether a sample
at the limit of the map counts is decided alike.

Tiles are ``[B, T, C]``: bins of one RoI (class and bin flattened), neighbouring columns, channels of a bin.

Parameters:
    data, boxes             [N, D*GH*GW, H, W] of any strides; [R, 5] (image, x1, y1, x2, y2) in the type of the sums
    offset, mask            [R, 2*CLASSES, parts_y, parts_x], x before y; [R, 1, P, Q]; any pointer where absent
    output, grad            [R, CLASSES*depth, P, Q], contiguous
    grad_data               the gradient of ``data``, zeros, strides to_*; grad_shift: [R, CLASSES, 2, P, Q]
    grad_mask, unit         [R, CLASSES, P, Q]; [1] what whole numbers of the deterministic mode count
    images, height, width   of the map; by_*: its elements from image to image, channel, row and column
    depth                   output channels of a class
    parts_y, parts_x        of the offset
    samples                 per bin and axis, 0 for adaptive
    scale_bits, gamma_bits  spatial scale and unit of the offsets: the bits of their numbers
    FORM                    as the constants below; P, Q: bins; GH, GW: channel groups; CLASSES: of the offset
    OFFSET, MASK            whether there is one
    DATA, SHIFT, FACTOR     which gradients to write: of the map, of the bins' shifts, of the mask
    B, T, C                 the tile
"""

from __future__ import annotations

import triton
import triton.language as tl

from dcn.kernels.triton._arithmetic import divide, finite, number, round_half_away

ALIGN = tl.constexpr(0)
HALF_PIXEL = tl.constexpr(1)
CELLS_FIRST = tl.constexpr(2)
CELLS_AFTER = tl.constexpr(3)
PARTS = tl.constexpr(4)
MOST_SAMPLES = tl.constexpr(2.0**24)
# No kernel of its own where one of these is 1 or a multiple of 16: maps have other sizes from image to image.
_ANY_NUMBER = ["images", "height", "width", "parts_y", "parts_x", "samples", "scale_bits", "gamma_bits"]


@triton.jit
def _extent(low, high, scale, FORM: tl.constexpr):
    """Start and size of a RoI on the map along one axis."""
    if FORM == ALIGN:
        start = low * scale
        size = tl.maximum(high * scale - start, 1.0)
    elif FORM == HALF_PIXEL:
        start = low * scale - 0.5
        size = high * scale - 0.5 - start
    elif FORM == CELLS_AFTER:
        start = round_half_away(low * scale)
        size = tl.maximum(round_half_away(high * scale) - start, 1.0)
    else:
        shift = 0.5 if FORM == PARTS else 0.0
        start = round_half_away(low) * scale - shift
        least = tl.full((), 0.1, scale.dtype)
        size = tl.maximum((round_half_away(high) + 1) * scale - shift - start, least)
    return start, size


@triton.jit
def _roi(boxes, images, scale, FORM: tl.constexpr):
    """Image, start and size (y, x) of the RoI at ``boxes``, and whether it is one."""
    image, x1, y1 = tl.load(boxes), tl.load(boxes + 1), tl.load(boxes + 2)  # numbers
    x2, y2 = tl.load(boxes + 3), tl.load(boxes + 4)
    top, height = _extent(y1, y2, scale, FORM)
    left, width = _extent(x1, x2, scale, FORM)
    valid = (image >= 0) & (image < images) & finite(x1) & finite(y1) & finite(x2) & finite(y2)
    valid = valid & finite(top) & finite(height) & finite(left) & finite(width)
    return tl.where(valid, image, 0.0).to(tl.int64), top, left, height, width, valid


@triton.jit
def _part(index, parts, BINS: tl.constexpr):
    """The part of each bin: ``floor(p / bins * parts)`` in float32."""
    share = tl.div_rn(index.to(tl.float32), tl.full(index.shape, BINS, tl.float32))
    part = tl.floor(share * (tl.zeros_like(share) + parts)).to(tl.int32)
    return tl.minimum(tl.maximum(part, 0), parts - 1)


@triton.jit
def _samples(begin, size, index, shift, samples, extent, FORM: tl.constexpr, BINS: tl.constexpr):
    """The samples of some bins along one axis: ``origin + i * step`` for ``i < count``, and what the mean divides by.

    ``origin``, ``count`` and the divisor have an entry per bin, ``step`` is one number.
    """
    dtype: tl.constexpr = begin.dtype
    bin_size = divide(size, tl.full((), BINS, dtype))
    location = index.to(dtype)
    if FORM >= CELLS_FIRST and FORM < PARTS:
        if FORM == CELLS_FIRST:
            low, high, end = tl.floor(location * bin_size + begin), tl.ceil((location + 1) * bin_size + begin), extent
        else:
            low, high = tl.floor(location * bin_size) + begin, tl.ceil((location + 1) * bin_size) + begin
            end = extent - 1
        limit = tl.zeros_like(begin) + end
        low = tl.minimum(tl.maximum(low, 0.0), limit)
        many = tl.maximum(tl.minimum(tl.maximum(high, 0.0), limit) - low, 0.0)
        origin, step, count = low, tl.full((), 1.0, dtype), many
    elif FORM == PARTS:
        many = tl.zeros_like(location) + samples
        origin, step, count = (
            begin + location * bin_size + shift,
            divide(bin_size, tl.zeros_like(begin) + samples),
            many,
        )
    else:
        if samples > 0:
            many = tl.zeros_like(bin_size) + samples
            most = many
        else:
            many = tl.minimum(tl.maximum(tl.ceil(bin_size), 0.0), MOST_SAMPLES)
            most = tl.zeros_like(bin_size) + (2 * extent + 6)
        step = tl.where(many > 0, divide(bin_size, tl.maximum(many, 1.0)), 0.0)
        origin = begin + location * bin_size + shift
        # Samples far before the map are skipped: they count as 0 unread.
        spare = tl.maximum(many - most, 0.0)
        first = tl.zeros_like(location)
        if spare > 0:
            first = tl.minimum(tl.maximum(tl.floor(divide(-1 - origin, step + first) - 0.5), 0.0), spare)
        origin = origin + (first + 0.5) * step
        many = tl.zeros_like(location) + many
        count = tl.minimum(many, most)
    return origin, step, count.to(tl.int32), many


@triton.jit
def _held(origin, step, i, count, extent, FORM: tl.constexpr):
    """Whether sample ``i`` counts and where it lies, held on the map."""
    margin = 0.5 if FORM == PARTS else (1.0 if FORM < CELLS_FIRST else 0.0)
    location = origin + i.to(origin.dtype) * step
    inside = (i < count) & (location >= -margin) & (location <= extent - 1 + margin)
    return inside, tl.minimum(tl.where(inside & (location > 0), location, 0.0), tl.zeros_like(location) + (extent - 1))


@triton.jit
def _high(held, low, extent, FORM: tl.constexpr):
    """The upper neighbour: the same pixel at whole coordinates where the slope there is 0 (all forms but RoIAlign)."""
    if FORM >= CELLS_FIRST:
        return tl.ceil(held).to(tl.int32)
    else:
        return tl.minimum(low + 1, extent - 1)


@triton.jit
def _reach(origin, step, count, extent, FORM: tl.constexpr):
    """First and last pixel that the samples of each bin can touch along one axis; those between need not count."""
    begin = origin
    end = origin + (count - 1).to(origin.dtype) * step
    limit = tl.zeros_like(origin) + (extent - 1)
    low, high = tl.where(step > 0, begin, end), tl.where(step > 0, end, begin)
    low, high = tl.minimum(tl.where(low > 0, low, 0.0), limit), tl.minimum(tl.where(high > 0, high, 0.0), limit)
    first, last = low.to(tl.int32), _high(high, high.to(tl.int32), extent, FORM)
    return tl.where(count > 0, first, extent), tl.where(count > 0, last, -1)


@triton.jit
def _used(origin, step, count, extent, FORM: tl.constexpr):
    """How many samples of each bin count along one axis."""
    most = tl.max(count, 0)
    used = tl.zeros_like(count)
    i = most * 0
    while i < most:
        inside, _location = _held(origin, step, tl.zeros_like(count) + i, count, extent, FORM)
        used += inside.to(tl.int32)
        i += 1
    return used


@triton.jit
def _weights(pixel, origin, step, count, most, extent, FORM: tl.constexpr):
    """What all samples of a bin give to ``pixel`` along one axis, and the change of that when the bin moves up by 1.

    Only the samples near a pixel are looked at: ``2 / |step| + 3`` of them cover all within one pixel of it.
    """
    weight = tl.zeros_like(origin + pixel.to(origin.dtype))
    slope = tl.zeros_like(weight)
    near = most
    if most > 3:
        near = tl.minimum(divide(tl.full((), 2.0, step.dtype), tl.abs(step)) + 3, most.to(step.dtype)).to(tl.int32)
    base = pixel * 0
    if near < most:
        behind = tl.where(step > 0, -1.0, 1.0).to(step.dtype)
        start = tl.floor(divide(pixel.to(origin.dtype) + behind - origin, step + weight))
        base = tl.minimum(tl.maximum(start, 0.0), most.to(step.dtype)).to(tl.int32)
    centre = pixel.to(origin.dtype)
    i = most * 0
    while i < near:
        inside, held = _held(origin, step, base + i, count, extent, FORM)
        # No grid points are made of the sample: a conversion to integer costs as much as eight additions.
        ahead = centre - held
        weight += tl.where(inside, tl.maximum(1 - tl.abs(ahead), 0.0), 0.0)
        # A sample that is held at the border does not move.
        moves = inside & (held > 0) & (held < extent - 1)
        if FORM >= CELLS_FIRST:
            moves = moves & (tl.abs(ahead) < 1) & (ahead != 0)
        else:
            moves = moves & (ahead > -1) & (ahead <= 1)
        slope += tl.where(moves, tl.where(ahead > 0, 1.0, -1.0), 0.0).to(weight.dtype)
        i += 1
    return weight, slope


@triton.jit
def _axis(begin, size, index, shift, samples, extent, FORM: tl.constexpr, BINS: tl.constexpr):
    """One axis of bins: ``(origin, step, count, most samples, first pixel, last pixel)``, and the mean's divisor."""
    origin, step, count, many = _samples(begin, size, index, shift, samples, extent, FORM, BINS)
    first, last = _reach(origin, step, count, extent, FORM)
    if FORM == PARTS:
        many = _used(origin, step, count, extent, FORM).to(origin.dtype)
    return (origin, step, count, tl.max(count, 0), first, last), many


@triton.jit
def _plan(
    top, left, tall, wide, offset, bin, height, width, parts_y, parts_x, samples, gamma,
    FORM: tl.constexpr, P: tl.constexpr, Q: tl.constexpr, CLASSES: tl.constexpr, OFFSET: tl.constexpr,
):  # fmt: skip
    """Both axes of the bins of one RoI, and the factor of the mean."""
    p, q = bin % (P * Q) // Q, bin % Q
    down = tl.zeros_like(p).to(gamma.dtype)
    right = down
    if OFFSET:
        k = bin // (P * Q)
        exists = k < CLASSES
        at = offset + (k * 2 * parts_y + _part(p, parts_y, P)) * parts_x + _part(q, parts_x, Q)
        right = tl.load(at, mask=exists, other=0.0).to(gamma.dtype) * gamma * wide  # [B], as down
        down = tl.load(at + parts_y * parts_x, mask=exists, other=0.0).to(gamma.dtype) * gamma * tall
    rows, many_rows = _axis(top, tall, p, down, samples, height, FORM, P)
    columns, many_columns = _axis(left, wide, q, right, samples, width, FORM, Q)
    number_of = many_rows * many_columns
    mean = divide(tl.zeros_like(number_of) + 1, tl.maximum(number_of, 1.0))
    return rows, columns, mean


@triton.jit
def _length(axis):
    """The largest number of pixels that any of the bins touches along an axis."""
    return tl.max(axis[5] - axis[4], 0) + 1


@triton.jit
def _row(axis, y, extent, FORM: tl.constexpr):
    """The ``y``-th row that each bin touches ``[B, 1]``, its weight and the weight's slope, 0 beyond the last."""
    row = axis[4] + y
    weight, slope = _weights(row, axis[0], axis[1], axis[2], axis[3], extent, FORM)
    reached = row <= axis[5]
    return row[:, None], tl.where(reached, weight, 0.0)[:, None], tl.where(reached, slope, 0.0)[:, None]


@triton.jit
def _columns(axis, x, extent, FORM: tl.constexpr, T: tl.constexpr):
    """Columns ``x`` to ``x + T - 1`` of those that each bin touches ``[B, T]``, otherwise as :func:`_row`."""
    column = axis[4][:, None] + x + tl.arange(0, T)[None]
    weight, slope = _weights(column, axis[0][:, None], axis[1], axis[2][:, None], axis[3], extent, FORM)
    reached = column <= axis[5][:, None]
    return column, tl.where(reached, weight, 0.0), tl.where(reached, slope, 0.0)


@triton.jit
def _spot(row, column, by_row, by_column):
    """``[B, T, 1]`` int64: where the pixels of a tile lie in memory."""
    return (row.to(tl.int64) * by_row + column.to(tl.int64) * by_column)[:, :, None]


@triton.jit
def _channels(
    bin, channel, depth, P: tl.constexpr, Q: tl.constexpr, GH: tl.constexpr, GW: tl.constexpr, CLASSES: tl.constexpr
):
    """``[B, 1, C]`` int64: the channel of the map that each bin reads for each of its output channels.

    Zeros are left out: the compiler must see that the channels of a bin begin at a multiple of 16 to read vectors.
    """
    own = (channel * (GH * GW)).to(tl.int64)[None, None, :]
    if CLASSES > 1:
        own += (bin // (P * Q) * depth * (GH * GW)).to(tl.int64)[:, None, None]
    if GH * GW > 1:
        group = (bin % (P * Q) // Q) * GH // P * GW + bin % Q * GW // Q
        own += group.to(tl.int64)[:, None, None]
    return own


@triton.jit
def _pooled(bin, channel, depth, CELLS: tl.constexpr):
    """``[B, C]``: where output channels of bins lie in one RoI's ``[CLASSES * depth, P, Q]``.

    Written so that neighbouring bins are seen to be neighbours in memory when a class has one channel.
    """
    return bin[:, None] + (bin // CELLS * (depth - 1))[:, None] * CELLS + channel[None] * CELLS


@triton.jit
def _means(
    data, rows, columns, mean, at, real, height, width, by_row, by_column,
    FORM: tl.constexpr, B: tl.constexpr, T: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    """``[B, C]``: the means of the bins for a block of channels, which lie ``at [B, 1, C]``."""
    dtype: tl.constexpr = mean.dtype
    total = tl.zeros((B, T, C), dtype)
    wide, tall = _length(columns), _length(rows)
    x = wide * 0
    while x < wide:
        column, across, _across_slope = _columns(columns, x, width, FORM, T)
        y = tall * 0
        while y < tall:
            row, down, _down_slope = _row(rows, y, height, FORM)
            weight = down * across
            # Not simply a weight of 0: 0 times a NaN of the map would spread it to bins that do not touch it.
            wanted = (weight != 0)[:, :, None] & real
            value = tl.load(data + _spot(row, column, by_row, by_column) + at, mask=wanted, other=0.0)  # [B, T, C]
            total = tl.fma(value.to(dtype), tl.broadcast_to(weight[:, :, None], (B, T, C)), total)
            y += 1
        x += T
    return tl.sum(total, 1) * mean[:, None]


@triton.jit(do_not_specialize=_ANY_NUMBER)
def forward(
    data, boxes, offset, mask, output,
    images, height, width, by_image, by_channel, by_row, by_column,
    depth, parts_y, parts_x, samples, scale_bits, gamma_bits,
    FORM: tl.constexpr, P: tl.constexpr, Q: tl.constexpr, GH: tl.constexpr, GW: tl.constexpr,
    CLASSES: tl.constexpr, OFFSET: tl.constexpr, MASK: tl.constexpr,
    B: tl.constexpr, T: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    """``output[R, CLASSES * depth, P, Q]``: grid ``(R, bins / B, depth / C)``; ``data`` has any strides."""
    roi = tl.program_id(0).to(tl.int64)
    bin, channel = tl.program_id(1) * B + tl.arange(0, B), tl.program_id(2) * C + tl.arange(0, C)
    exists, inside = bin < CLASSES * P * Q, channel < depth
    dtype: tl.constexpr = boxes.dtype.element_ty
    scale, gamma = number(scale_bits, dtype), number(gamma_bits, dtype)
    image, top, left, tall, wide, valid = _roi(boxes + roi * 5, images, scale, FORM)
    result = tl.zeros((B, C), dtype)
    # What is no RoI, or is another level's, costs its zeros only.
    if valid:
        offset += roi * (2 * CLASSES) * parts_y * parts_x
        rows, columns, mean = _plan(
            top, left, tall, wide, offset, bin, height, width, parts_y, parts_x, samples, gamma,
            FORM, P, Q, CLASSES, OFFSET,
        )  # fmt: skip
        at = _channels(bin, channel, depth, P, Q, GH, GW, CLASSES) * by_channel
        real = exists[:, None, None] & inside[None, None, :]
        result = _means(
            data + image * by_image, rows, columns, mean, at, real, height, width, by_row, by_column, FORM, B, T, C
        )
        if MASK:
            factor = tl.load(mask + roi * (P * Q) + bin % (P * Q), mask=exists, other=0.0)  # [B]
            result *= factor.to(dtype)[:, None]
    target = output + roi * (CLASSES * P * Q) * depth + _pooled(bin, channel, depth, P * Q)
    tl.store(target, result.to(output.dtype.element_ty), mask=exists[:, None] & inside[None])


@triton.jit
def _gains(
    data, grad_data, rows, columns, share, at, to, real, height, width, by_row, by_column, to_row, to_column,
    FORM: tl.constexpr, DATA: tl.constexpr, LOCATIONS: tl.constexpr, B: tl.constexpr, T: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    """Add a block of channels' gradient ``share [B, C]`` to the map, and read the map for the other gradients.

    Returns ``[B, C]``: the sums of the map's values times their weights, and times the weights' slopes down and right.
    """
    dtype: tl.constexpr = columns[0].dtype
    by_weight, by_down, by_right = tl.zeros((B, T, C), dtype), tl.zeros((B, T, C), dtype), tl.zeros((B, T, C), dtype)
    wide, tall = _length(columns), _length(rows)
    x = wide * 0
    while x < wide:
        column, across, across_slope = _columns(columns, x, width, FORM, T)
        y = tall * 0
        while y < tall:
            row, down, down_slope = _row(rows, y, height, FORM)
            weight = down * across
            if DATA:
                part = share[:, None, :] * weight[:, :, None]
                if grad_data.dtype.element_ty == tl.int64:
                    part = tl.floor(part + 0.5)
                tl.atomic_add(
                    grad_data + _spot(row, column, to_row, to_column) + to,
                    part.to(grad_data.dtype.element_ty),
                    mask=(weight != 0)[:, :, None] & real,
                    sem="relaxed",
                )
            if LOCATIONS:
                slope_down, slope_right = down_slope * across, down * across_slope
                wanted = (weight != 0) | (slope_down != 0) | (slope_right != 0)
                source = data + _spot(row, column, by_row, by_column) + at
                value = tl.load(source, mask=wanted[:, :, None] & real, other=0.0).to(dtype)  # [B, T, C]
                by_weight = tl.fma(value, tl.broadcast_to(weight[:, :, None], (B, T, C)), by_weight)
                by_down = tl.fma(value, tl.broadcast_to(slope_down[:, :, None], (B, T, C)), by_down)
                by_right = tl.fma(value, tl.broadcast_to(slope_right[:, :, None], (B, T, C)), by_right)
            y += 1
        x += T
    return tl.sum(by_weight, 1), tl.sum(by_down, 1), tl.sum(by_right, 1)


@triton.jit(do_not_specialize=_ANY_NUMBER)
def backward(
    grad, data, boxes, offset, mask, unit, grad_data, grad_shift, grad_mask,
    images, height, width, by_image, by_channel, by_row, by_column, to_image, to_channel, to_row, to_column,
    depth, parts_y, parts_x, samples, scale_bits, gamma_bits,
    FORM: tl.constexpr, P: tl.constexpr, Q: tl.constexpr, GH: tl.constexpr, GW: tl.constexpr,
    CLASSES: tl.constexpr, OFFSET: tl.constexpr, MASK: tl.constexpr,
    DATA: tl.constexpr, SHIFT: tl.constexpr, FACTOR: tl.constexpr,
    B: tl.constexpr, T: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    """All gradients in one launch, grid ``(R, bins / B, programs that share the channels)``.

    ``DATA`` adds to ``grad_data`` (zeros, strides ``to_*``); where that is int64, whole multiples of ``1 / unit``, so
    that the order of the additions does not matter. ``SHIFT`` writes ``grad_shift[R, CLASSES, 2, P, Q]``, the gradients
    of each bin's own offset (x, y), ``FACTOR`` ``grad_mask[R, CLASSES, P, Q]``; they want one program for all channels.
    """
    roi = tl.program_id(0).to(tl.int64)
    bin = tl.program_id(1) * B + tl.arange(0, B)
    exists = bin < CLASSES * P * Q
    dtype: tl.constexpr = boxes.dtype.element_ty
    scale, gamma = number(scale_bits, dtype), number(gamma_bits, dtype)
    image, top, left, tall, wide, valid = _roi(boxes + roi * 5, images, scale, FORM)
    sum_right, sum_down, sum_mask = tl.zeros((B,), dtype), tl.zeros((B,), dtype), tl.zeros((B,), dtype)
    # As forward: what is no RoI adds nothing.
    if valid:
        offset += roi * (2 * CLASSES) * parts_y * parts_x
        rows, columns, mean = _plan(
            top, left, tall, wide, offset, bin, height, width, parts_y, parts_x, samples, gamma,
            FORM, P, Q, CLASSES, OFFSET,
        )  # fmt: skip
        factor = mean
        if MASK:
            factor *= tl.load(mask + roi * (P * Q) + bin % (P * Q), mask=exists, other=0.0).to(dtype)  # [B]
        multiple = tl.full((), 1.0, dtype)
        if grad_data.dtype.element_ty == tl.int64:
            multiple = tl.load(unit)
        grad += roi * (CLASSES * P * Q) * depth
        begin = tl.program_id(2) * C
        while begin < depth:
            channel = begin + tl.arange(0, C)
            inside = channel < depth
            wanted = exists[:, None] & inside[None]
            gain = tl.load(grad + _pooled(bin, channel, depth, P * Q), mask=wanted, other=0.0).to(dtype)  # [B, C]
            own = _channels(bin, channel, depth, P, Q, GH, GW, CLASSES)
            by_weight, by_down, by_right = _gains(
                data + image * by_image, grad_data + image * to_image, rows, columns,
                gain * factor[:, None] * multiple, own * by_channel, own * to_channel,
                exists[:, None, None] & inside[None, None, :], height, width, by_row, by_column, to_row, to_column,
                FORM, DATA, SHIFT or FACTOR, B, T, C,
            )  # fmt: skip
            sum_mask += tl.sum(by_weight * gain, 1)
            sum_down += tl.sum(by_down * gain, 1)
            sum_right += tl.sum(by_right * gain, 1)
            begin += C * tl.num_programs(2)
        sum_right, sum_down = sum_right * factor * (wide * gamma), sum_down * factor * (tall * gamma)
        sum_mask *= mean
    if SHIFT:
        at = grad_shift + roi * (2 * CLASSES) * (P * Q) + bin + bin // (P * Q) * (P * Q)
        tl.store(at, sum_right, mask=exists)
        tl.store(at + P * Q, sum_down, mask=exists)
    if FACTOR:
        tl.store(grad_mask + roi * CLASSES * (P * Q) + bin, sum_mask, mask=exists)
