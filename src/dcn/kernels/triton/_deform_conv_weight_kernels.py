"""Deformable convolution, backward: the gradient of the weight.

A program owns a tile of channels and outputs under one tap, for one share of the locations. Each step samples
``[locations, channels]`` into registers, turns the tile over and multiplies it with the gradient of the output there;
with all outputs in one tile every sample is made once. Nothing is added with atomics: every element of a share is
written by one program, and :func:`add`, launched behind them, sums the shares in their order, so that every run gives
the same bits.

Parameters:
    input_pointer                 [N, *size, C], channels-last
    offset_pointer, mask_pointer  [N, AXES*G*K, *out] and [N, G*K, *out] or None, any strides
    grad_pointer                  [N, *out, O], gradient of the output, channels-last
    shares_pointer                dense: [shares, O] times C/groups and taps; depthwise: [shares, O, taps]
    count, locations, pixels      output locations of the batch and of an image; pixels of an input image
    channels, outputs             of the layer; in_group, out_group: of one group; in_offset_group: channels of one
    multiplier                    outputs per channel of a depthwise layer
    taps                          K, of the kernel; a slot is offset group * taps + tap
    share, output_blocks          locations per share; blocks of outputs per slot
    channel_step, tap_step        elements from channel to channel and tap to tap within ``shares_pointer``
    depth, height, width          size of the input; out_height, out_width: of the output (1 for an axis not there)
    geometry                      ((kernel height, kernel width), stride, padding, dilation), the last three (z, y, x)
    offset_*, mask_*              elements from image to image, channel to channel, location to location
    AXES, V1                      spatial axes; boundary rule "v1"
    EVEN, EVEN_OUTPUTS            no channel (output) of a tile lies beyond the last
    MERGED                        a tile holds several groups
    WIDE                          64-bit numbers of locations
    PRECISION                     of matrix products, as _runtime.precision says
    BLOCK_*                       tile: O outputs, C channels, P locations per step
"""

from __future__ import annotations

import triton
import triton.language as tl

from dcn.kernels.triton._deform_conv_taps import (
    UNSPECIALISED,
    blended,
    connected,
    coordinate,
    corners,
    factor,
    first_shift,
    located,
    numbers,
    sides,
)
from dcn.kernels.triton._sampling import multiply, read


@triton.jit
def _around(
    pointer, strides, image, row, x, slot, taps, live, size, out, geometry: tl.constexpr,
    AXES: tl.constexpr, V1: tl.constexpr, COMPUTE: tl.constexpr,
):  # fmt: skip
    """Sides ``(x, y, z)`` of the samples of the locations at ``x`` of a ``row``; ``row`` counts all axes above x."""
    at = first_shift(pointer, strides, image, row * out[1] + x, slot, AXES)
    tap = slot % taps
    shift = tl.load(at + (AXES - 1) * strides[1], mask=live, other=0.0)
    to_x = coordinate(x, tap, shift, 0, geometry, COMPUTE)
    to_y = to_x
    to_z = to_x
    if AXES >= 2:
        shift = tl.load(at + (AXES - 2) * strides[1], mask=live, other=0.0)
        to_y = coordinate(row if AXES == 2 else row % out[0], tap, shift, 1, geometry, COMPUTE)
    if AXES == 3:
        to_z = coordinate(row // out[0], tap, tl.load(at, mask=live, other=0.0), 2, geometry, COMPUTE)
    return sides(to_x, to_y, to_z, live, size, AXES, V1)


@triton.jit
def _stepped(value, by, limit):
    """``(value + by, 1)`` less ``limit`` if that is reached, else ``(value + by, 0)``; ``by`` is below ``limit``."""
    value += by
    over = value >= limit
    return tl.where(over, value - limit, value), over.to(value.dtype)


@triton.jit(do_not_specialize=UNSPECIALISED)
def dense(
    input_pointer, offset_pointer, mask_pointer, grad_pointer, shares_pointer,
    count, locations, pixels, channels, outputs, in_group, out_group, in_offset_group, taps, share, output_blocks,
    channel_step, tap_step, depth, height, width, out_height, out_width, geometry: tl.constexpr,
    offset_image, offset_channel, offset_location, mask_image, mask_channel, mask_location,
    AXES: tl.constexpr, V1: tl.constexpr, EVEN: tl.constexpr, EVEN_OUTPUTS: tl.constexpr,
    MERGED: tl.constexpr, WIDE: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_OUTPUTS: tl.constexpr, BLOCK_CHANNELS: tl.constexpr, BLOCK_LOCATIONS: tl.constexpr,
):  # fmt: skip
    """Writes ``[shares, O]`` times ``C/g`` and taps, ``channel_step`` and ``tap_step`` elements apart.

    A share is ``share`` locations, a multiple of the block, and no share is empty. MERGED: a tile may have channels of
    several groups.
    """
    COMPUTE: tl.constexpr = tl.float64 if input_pointer.dtype.element_ty == tl.float64 else tl.float32
    size = (depth, height, width)
    out = (out_height, out_width)
    blocks = tl.cdiv(in_offset_group, BLOCK_CHANNELS)
    slots = channels // in_offset_group * taps
    program = tl.program_id(0)
    output_block = program % output_blocks
    slot = program // output_blocks % slots
    channel_block = program // (output_blocks * slots) % blocks
    part = program // (output_blocks * slots * blocks)
    end = (slot // taps + 1) * in_offset_group
    start = end - in_offset_group + channel_block * BLOCK_CHANNELS
    channel = start + tl.arange(0, BLOCK_CHANNELS)
    inside = channel < end
    last = tl.cdiv(min(start + BLOCK_CHANNELS, end), in_group) * out_group
    first_output = start // in_group * out_group + output_block * BLOCK_OUTPUTS
    output = first_output + tl.arange(0, BLOCK_OUTPUTS)
    output_inside = output < last

    begin = part.to(tl.int64) * share if WIDE else part * share
    stop = min(begin + share, count)
    # Without this a loop of no steps would define the sums, and ptxas make the matrix instructions wait for each other.
    tl.assume(begin < stop)
    # Where a location is goes along from step to step: dividing again costs a fifth of the instructions of a step.
    rows = locations // out_width
    image_step = BLOCK_LOCATIONS // locations
    row_step = BLOCK_LOCATIONS % locations // out_width
    x_step = BLOCK_LOCATIONS % locations % out_width
    number = begin + tl.arange(0, BLOCK_LOCATIONS)
    image = number // locations
    row = number % locations // out_width
    x = number % locations % out_width
    total = tl.zeros([BLOCK_CHANNELS, BLOCK_OUTPUTS], COMPUTE)
    for at in range(begin, stop, BLOCK_LOCATIONS):
        number = at + tl.arange(0, BLOCK_LOCATIONS)
        live = number < count
        location = row * out_width + x
        around = _around(
            offset_pointer, (offset_image, offset_channel, offset_location), image, row, x, slot, taps, live, size, out,
            geometry, AXES, V1, COMPUTE,
        )  # fmt: skip
        modulation = factor(
            mask_pointer, (mask_image, mask_channel, mask_location), image, location, slot, live, COMPUTE
        )
        samples = tl.zeros([BLOCK_CHANNELS, BLOCK_LOCATIONS], grad_pointer.dtype.element_ty)
        if count > 0:  # always; loads within a branch go through the first cache, where neighbours find their corners
            corner, flags, weights = corners(around, modulation, image, size, pixels, AXES)
            tile = blended(input_pointer, corner, flags, weights, size, channel, inside, channels, AXES, EVEN, COMPUTE)
            tile = tile.to(grad_pointer.dtype.element_ty)
            samples = tl.trans(tile)
        grad = read(grad_pointer, number * outputs, live, output, output_inside, EVEN_OUTPUTS)  # [P, O]
        total = multiply(samples, grad, total, PRECISION)
        x, over = _stepped(x, x_step, out_width)
        row, over = _stepped(row, row_step + over, rows)
        image += image_step + over

    _write(
        shares_pointer, total, part * outputs, first_output, last, channel, inside, in_group, out_group, taps,
        slot % taps * tap_step, channel_step, MERGED, BLOCK_OUTPUTS,
    )  # fmt: skip


@triton.jit
def _write(
    pointer, total, before, first, last, channel, inside, in_group, out_group, taps, tap_start, channel_step,
    MERGED: tl.constexpr, BLOCK_OUTPUTS: tl.constexpr,
):  # fmt: skip
    """Stores a tile ``[C, O]`` in two halves: the addresses of the whole beside its values would spill."""
    HALF: tl.constexpr = BLOCK_OUTPUTS // 2
    halves = tl.split(tl.trans(tl.reshape(total, [total.shape[0], 2, HALF]), [0, 2, 1]))
    for half in tl.static_range(2):
        output = first + half * HALF + tl.arange(0, HALF)
        wanted = (output < last)[None, :] & inside[:, None]
        if MERGED:
            wanted = wanted & connected(output[None, :], channel[:, None], out_group, in_group)
        start = (before + output) * (in_group * taps) + tap_start
        at = start[None, :] + (channel % in_group * channel_step)[:, None]
        tl.store(pointer + at, halves[half].to(pointer.dtype.element_ty), mask=wanted)


@triton.jit(do_not_specialize=UNSPECIALISED)
def depthwise(
    input_pointer, offset_pointer, mask_pointer, grad_pointer, shares_pointer,
    count, locations, pixels, channels, outputs, multiplier, in_offset_group, taps, share,
    depth, height, width, out_height, out_width, geometry: tl.constexpr,
    offset_image, offset_channel, offset_location, mask_image, mask_channel, mask_location,
    AXES: tl.constexpr, V1: tl.constexpr, EVEN: tl.constexpr, WIDE: tl.constexpr,
    BLOCK_OUTPUTS: tl.constexpr, BLOCK_LOCATIONS: tl.constexpr,
):  # fmt: skip
    """One channel per group: writes ``[shares, O, taps]``."""
    COMPUTE: tl.constexpr = tl.float64 if input_pointer.dtype.element_ty == tl.float64 else tl.float32
    blocks = tl.cdiv(in_offset_group * multiplier, BLOCK_OUTPUTS)
    slots = channels // in_offset_group * taps
    program = tl.program_id(0)
    slot = program % slots
    part = program // (slots * blocks)
    within_group = program // slots % blocks * BLOCK_OUTPUTS + tl.arange(0, BLOCK_OUTPUTS)
    inside = within_group < in_offset_group * multiplier
    output = slot // taps * in_offset_group * multiplier + within_group

    total = tl.zeros([BLOCK_LOCATIONS, BLOCK_OUTPUTS], COMPUTE)
    begin = part.to(tl.int64) * share if WIDE else part * share
    for here in range(begin, min(begin + share, count), BLOCK_LOCATIONS):
        number = here + tl.arange(0, BLOCK_LOCATIONS)
        live = number < count
        image = number // locations
        at, flags, weights = located(
            offset_pointer, (offset_image, offset_channel, offset_location),
            mask_pointer, (mask_image, mask_channel, mask_location), image, number - image * locations, slot, taps,
            live, (depth, height, width), (out_height, out_width), pixels, geometry, AXES, V1, COMPUTE,
        )  # fmt: skip
        samples = blended(
            input_pointer, at, flags, weights, (depth, height, width), output // multiplier, inside, channels,
            AXES, EVEN, COMPUTE,
        )  # fmt: skip
        total += samples * read(grad_pointer, number * outputs, live, output, inside, EVEN).to(COMPUTE)
    sums = tl.sum(total, 0)
    at = (part * outputs + output) * taps + slot % taps
    tl.store(shares_pointer + at, sums.to(shares_pointer.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=UNSPECIALISED)
def add(
    shares_pointer, grad_pointer, count, in_group, taps, shares,
    WIDE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """``[O, C/g, taps]`` from shares ``[shares, O, taps, C/g]``, added in their order; ``count`` elements each."""
    at = numbers(tl.program_id(0), BLOCK, WIDE)
    inside = at < count
    row = at // taps
    first = (row // in_group * taps + at % taps) * in_group + row % in_group
    total = tl.load(shares_pointer + first, mask=inside, other=0.0)
    for share in range(1, shares):
        total += tl.load(shares_pointer + (first + share * count), mask=inside, other=0.0)
    tl.store(grad_pointer + at, total.to(grad_pointer.dtype.element_ty), mask=inside)
