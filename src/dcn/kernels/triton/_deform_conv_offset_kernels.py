"""Deformable convolution, backward: the gradients of offset and mask.

A program owns a tile of locations under one tap of one offset group. It makes the gradient of their samples, block of
channels by block, as a product of the output's gradient with the weight, and uses it at once: every corner of a sample
gains the dot product of its values with that gradient, and the slopes of the corners' weights turn gains into
derivatives. Nothing is shared between programs, so there are no atomics and every run gives the same bits.

Parameters:
    input_pointer                 [N, *size, C], channels-last
    offset_pointer, mask_pointer  [N, AXES*G*K, *out] and [N, G*K, *out] or None, any strides
    weight_pointer                [O, taps, C/groups]; DEPTHWISE: [taps, O]
    grad_pointer                  [N, *out, O], gradient of the output, channels-last
    grad_offset_pointer           [N, AXES*G*K, *out], contiguous; grad_mask_pointer: [N, G*K, *out] or None
    count, locations, pixels      output locations of the batch and of an image; pixels of an input image
    channels, outputs             of the layer; in_group, out_group: of one group; in_offset_group: channels of one
    taps                          K, of the kernel; a slot is offset group * taps + tap
    depth, height, width          size of the input; out_height, out_width: of the output (1 for an axis not there)
    geometry                      ((kernel height, kernel width), stride, padding, dilation), the last three (z, y, x)
    offset_*, mask_*              elements from image to image, channel to channel, location to location
    AXES, V1                      spatial axes; boundary rule "v1"
    EVEN, EVEN_OUTPUTS            no channel (output) of a tile lies beyond the last
    MERGED, DEPTHWISE             a tile holds several groups; one channel per group
    WIDE                          64-bit numbers of locations
    PRECISION                     of matrix products, as _runtime.precision says
    BLOCK_*                       tile: P locations, C channels, O outputs per step
"""

from __future__ import annotations

import triton
import triton.language as tl

from dcn.kernels.triton._deform_conv_taps import (
    UNSPECIALISED,
    connected,
    corner_from,
    factor,
    first_corner,
    numbers,
    positions,
    sides,
    weight_start,
)
from dcn.kernels.triton._sampling import corner, multiply, read, slopes


@triton.jit
def column_gradient(
    grad_pointer, weight_pointer, begin, live, start, end, channel, tap, taps, in_group, out_group,
    EVEN: tl.constexpr, EVEN_OUTPUTS: tl.constexpr, MERGED: tl.constexpr,
    PRECISION: tl.constexpr, COMPUTE: tl.constexpr,
    BLOCK_LOCATIONS: tl.constexpr, BLOCK_CHANNELS: tl.constexpr, BLOCK_OUTPUTS: tl.constexpr,
):  # fmt: skip
    """``[P, C]``: the gradient of the modulated samples of channels ``start`` to ``end`` under one tap."""
    total = tl.zeros([BLOCK_LOCATIONS, BLOCK_CHANNELS], COMPUTE)
    first = start // in_group * out_group
    last = first + out_group if not MERGED else tl.cdiv(min(start + BLOCK_CHANNELS, end), in_group) * out_group
    tl.assume(first < last)  # else ptxas lets the matrix instructions wait for each other
    for at in range(first, last, BLOCK_OUTPUTS):
        output = at + tl.arange(0, BLOCK_OUTPUTS)
        output_inside = output < last
        grad = read(grad_pointer, begin, live, output, output_inside, EVEN_OUTPUTS)  # [P, O]
        wanted = output_inside[:, None] & (channel < end)[None, :]
        if MERGED:
            wanted = wanted & connected(output[:, None], channel[None, :], out_group, in_group)
        elif EVEN and EVEN_OUTPUTS:
            wanted = None
        weights = weight_start(output[:, None], channel[None, :], tap, taps, in_group)
        weight = tl.load(weight_pointer + weights, mask=wanted, other=None if wanted is None else 0.0)  # [O, C]
        total = multiply(grad, weight, total, PRECISION)
    return total


@triton.jit
def column_gradient_depthwise(
    grad_pointer, weight_pointer, begin, live, channel, inside, tap, outputs, multiplier,
    EVEN: tl.constexpr, COMPUTE: tl.constexpr,
    BLOCK_LOCATIONS: tl.constexpr, BLOCK_CHANNELS: tl.constexpr,
):  # fmt: skip
    """The same where a channel feeds only its own ``multiplier`` outputs; weights are ``[taps, O]``."""
    total = tl.zeros([BLOCK_LOCATIONS, BLOCK_CHANNELS], COMPUTE)
    for copy in range(0, multiplier):
        output = channel * multiplier + copy
        grad = read(grad_pointer, begin, live, output, inside, EVEN)  # [P, C]
        weight = tl.load(weight_pointer + tap * outputs + output, mask=inside, other=0.0)  # [C]
        total += grad.to(COMPUTE) * weight.to(COMPUTE)[None, :]
    return total


@triton.jit
def _runs(tile, RUN: tl.constexpr):
    """``[P, C / RUN, RUN]``: the channels that a thread reads at once along an axis of their own."""
    return tl.reshape(tile, [tile.shape[0], tile.shape[1] // RUN, RUN])


@triton.jit
def _gained(
    gains, pointer, first, around, size, column, channel, channel_inside, channels,
    AXES: tl.constexpr, EVEN: tl.constexpr, COMPUTE: tl.constexpr, RUN: tl.constexpr,
):  # fmt: skip
    """The gains of all corners, a column for each run of channels, with those of a block."""
    g0, g1, g2, g3, g4, g5, g6, g7 = gains
    at = (first, around, size, channel, channel_inside, channels)
    g0 += _gain(pointer, at, column, 0, AXES, EVEN, COMPUTE, RUN)
    g1 += _gain(pointer, at, column, 1, AXES, EVEN, COMPUTE, RUN)
    if AXES >= 2:
        g2 += _gain(pointer, at, column, 2, AXES, EVEN, COMPUTE, RUN)
        g3 += _gain(pointer, at, column, 3, AXES, EVEN, COMPUTE, RUN)
    if AXES == 3:
        g4 += _gain(pointer, at, column, 4, AXES, EVEN, COMPUTE, RUN)
        g5 += _gain(pointer, at, column, 5, AXES, EVEN, COMPUTE, RUN)
        g6 += _gain(pointer, at, column, 6, AXES, EVEN, COMPUTE, RUN)
        g7 += _gain(pointer, at, column, 7, AXES, EVEN, COMPUTE, RUN)
    return g0, g1, g2, g3, g4, g5, g6, g7


@triton.jit
def _gain(
    pointer, at, column, NUMBER: tl.constexpr, AXES: tl.constexpr, EVEN: tl.constexpr,
    COMPUTE: tl.constexpr, RUN: tl.constexpr,
):  # fmt: skip
    """What corner ``NUMBER`` gains from one block of channels."""
    first, around, size, channel, channel_inside, channels = at
    values, _ = corner_from(pointer, first, around, size, channel, channel_inside, channels, NUMBER, AXES, EVEN)
    return tl.sum(_runs(values, RUN).to(COMPUTE) * column, 2)


@triton.jit
def _derivatives(gains, around, AXES: tl.constexpr):
    """``[P]`` derivatives by x, y, z and mask. Gains are put together first: three sums over threads, not four."""
    by_x = gains[0] * 0
    by_y = by_x
    by_z = by_x
    by_mask = by_x
    for number in tl.static_range(2**AXES):
        _, _, weight = corner(around[0], around[1], around[2], 1, 1, number, AXES)
        slope_x, slope_y, slope_z = slopes(around[0], around[1], around[2], number, AXES)
        by_x += gains[number] * slope_x[:, None]
        by_y += gains[number] * slope_y[:, None]
        by_z += gains[number] * slope_z[:, None]
        by_mask += gains[number] * weight[:, None]
    return tl.sum(by_x, 1), tl.sum(by_y, 1), tl.sum(by_z, 1), tl.sum(by_mask, 1)


@triton.jit(do_not_specialize=UNSPECIALISED)
def offset_and_mask(
    input_pointer, offset_pointer, mask_pointer, weight_pointer, grad_pointer, grad_offset_pointer, grad_mask_pointer,
    count, locations, pixels, channels, outputs, in_group, out_group, in_offset_group, taps,
    depth, height, width, out_height, out_width, geometry: tl.constexpr,
    offset_image, offset_channel, offset_location, mask_image, mask_channel, mask_location,
    AXES: tl.constexpr, V1: tl.constexpr, EVEN: tl.constexpr, EVEN_OUTPUTS: tl.constexpr,
    MERGED: tl.constexpr, DEPTHWISE: tl.constexpr, WIDE: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_LOCATIONS: tl.constexpr, BLOCK_CHANNELS: tl.constexpr, BLOCK_OUTPUTS: tl.constexpr,
):  # fmt: skip
    """Writes ``[N, AXES * slots, locations]`` and, with a mask, ``[N, slots, locations]``."""
    COMPUTE: tl.constexpr = tl.float64 if input_pointer.dtype.element_ty == tl.float64 else tl.float32
    size = (depth, height, width)
    out = (out_height, out_width)
    slots = channels // in_offset_group * taps
    slot = tl.program_id(0) % slots
    number = numbers(tl.program_id(0) // slots, BLOCK_LOCATIONS, WIDE)
    live = number < count
    image = number // locations
    location = number - image * locations
    begin = number * outputs
    x, y, z = positions(
        offset_pointer, (offset_image, offset_channel, offset_location), image, location, slot, taps, live, out,
        geometry, AXES, COMPUTE,
    )  # fmt: skip
    around = sides(x, y, z, live, size, AXES, V1)
    # What a thread reads at once it sums at once; threads meet after the last block of channels, not in each.
    RUN: tl.constexpr = 16 // (input_pointer.dtype.element_ty.primitive_bitwidth // 8)
    first = first_corner(around, image, channels, pixels, size, AXES, WIDE)
    zeros = tl.zeros([BLOCK_LOCATIONS, BLOCK_CHANNELS // RUN], COMPUTE)
    gains = (zeros, zeros, zeros, zeros, zeros, zeros, zeros, zeros)
    end = (slot // taps + 1) * in_offset_group
    for start in range(end - in_offset_group, end, BLOCK_CHANNELS):
        channel = start + tl.arange(0, BLOCK_CHANNELS)
        if DEPTHWISE:
            column = column_gradient_depthwise(
                grad_pointer, weight_pointer, begin, live, channel, channel < end, slot % taps, outputs,
                out_group, EVEN, COMPUTE, BLOCK_LOCATIONS, BLOCK_CHANNELS,
            )  # fmt: skip
        else:
            column = column_gradient(
                grad_pointer, weight_pointer, begin, live, start, end, channel, slot % taps, taps,
                in_group, out_group, EVEN, EVEN_OUTPUTS, MERGED, PRECISION, COMPUTE,
                BLOCK_LOCATIONS, BLOCK_CHANNELS, BLOCK_OUTPUTS,
            )  # fmt: skip
        column = _runs(column, RUN)
        if count > 0:  # always; loads within a branch go through the first cache, where neighbours find their corners
            gains = _gained(
                gains, input_pointer, first, around, size, column, channel, channel < end, channels,
                AXES, EVEN, COMPUTE, RUN,
            )  # fmt: skip
    by_x, by_y, by_z, by_mask = _derivatives(gains, around, AXES)

    modulation = factor(mask_pointer, (mask_image, mask_channel, mask_location), image, location, slot, live, COMPUTE)
    at = grad_offset_pointer + (image * slots + slot) * (AXES * locations) + location
    kind: tl.constexpr = grad_offset_pointer.dtype.element_ty
    tl.store(at + (AXES - 1) * locations, (by_x * modulation).to(kind), mask=live)
    if AXES >= 2:
        tl.store(at + (AXES - 2) * locations, (by_y * modulation).to(kind), mask=live)
    if AXES == 3:
        tl.store(at, (by_z * modulation).to(kind), mask=live)
    if grad_mask_pointer is not None:
        at = grad_mask_pointer + (image * slots + slot) * locations + location
        tl.store(at, by_mask.to(grad_mask_pointer.dtype.element_ty), mask=live)
