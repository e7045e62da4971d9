"""Deformable convolution, backward: the gradients of offset and mask.

A program owns a tile of places under one tap of one offset group. It makes the gradient of their samples, block of
channels by block, as a product of the output's gradient with the weight, and uses it at once: every corner of a sample
gains the dot product of its values with that gradient, and the slopes of the corners' weights turn gains into
derivatives. Nothing is shared between programs, so there are no atomics and every run gives the same bits.
"""

from __future__ import annotations

import triton
import triton.language as tl

from dcn.kernels.triton._deform_conv_taps import (
    UNSPECIALISED,
    connected,
    corner_values,
    factor,
    map_start,
    numbers,
    positions,
    read_map,
    sides,
    weight_start,
)
from dcn.kernels.triton._sampling import multiply, slopes


@triton.jit
def column_gradient(
    grad_pointer, weight_pointer, begin, live, start, end, channel, tap, taps, places, outputs, in_group, out_group,
    LAST: tl.constexpr, EVEN: tl.constexpr, PRECISION: tl.constexpr, COMPUTE: tl.constexpr,
    BLOCK_PLACES: tl.constexpr, BLOCK_CHANNELS: tl.constexpr, BLOCK_OUTPUTS: tl.constexpr,
):  # fmt: skip
    """``[P, C]``: the gradient of the modulated samples of channels ``start`` to ``end`` under one tap."""
    total = tl.zeros([BLOCK_PLACES, BLOCK_CHANNELS], COMPUTE)
    first = start // in_group * out_group
    last = tl.cdiv(min(start + BLOCK_CHANNELS, end), in_group) * out_group
    for at in range(first, last, BLOCK_OUTPUTS):
        output = at + tl.arange(0, BLOCK_OUTPUTS)
        output_inside = output < last
        grad = read_map(grad_pointer, begin, live, output, output_inside, places, LAST, EVEN)
        wanted = connected(output[:, None], channel[None, :], out_group, in_group) & (channel < end)[None, :]
        weights = weight_start(output[:, None], channel[None, :], tap, taps, in_group)
        weight = tl.load(weight_pointer + weights, mask=wanted & output_inside[:, None], other=0.0)
        total = multiply(grad, weight, total, PRECISION)
    return total


@triton.jit
def column_gradient_depthwise(
    grad_pointer, weight_pointer, begin, live, channel, inside, tap, places, outputs, multiplier,
    LAST: tl.constexpr, EVEN: tl.constexpr, COMPUTE: tl.constexpr,
    BLOCK_PLACES: tl.constexpr, BLOCK_CHANNELS: tl.constexpr,
):  # fmt: skip
    """The same where a channel feeds only its own ``multiplier`` outputs; weights are ``[taps, O]``."""
    total = tl.zeros([BLOCK_PLACES, BLOCK_CHANNELS], COMPUTE)
    for copy in range(0, multiplier):
        output = channel * multiplier + copy
        grad = read_map(grad_pointer, begin, live, output, inside, places, LAST, EVEN)
        weight = tl.load(weight_pointer + tap * outputs + output, mask=inside, other=0.0)
        total += grad.to(COMPUTE) * weight.to(COMPUTE)[None, :]
    return total


@triton.jit(do_not_specialize=UNSPECIALISED)
def offset_and_mask(
    input_pointer, offset_pointer, mask_pointer, weight_pointer, grad_pointer, grad_offset_pointer, grad_mask_pointer,
    count, places, pixels, channels, outputs, in_group, out_group, in_offset_group, taps,
    depth, height, width, out_height, out_width, geometry: tl.constexpr,
    offset_image, offset_channel, offset_place, mask_image, mask_channel, mask_place,
    AXES: tl.constexpr, V1: tl.constexpr, LAST: tl.constexpr, EVEN: tl.constexpr, EVEN_OUTPUTS: tl.constexpr,
    DEPTHWISE: tl.constexpr, WIDE: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_PLACES: tl.constexpr, BLOCK_CHANNELS: tl.constexpr, BLOCK_OUTPUTS: tl.constexpr,
):  # fmt: skip
    """Writes ``[N, AXES * slots, places]`` and, with a mask, ``[N, slots, places]``; slots = offset groups * taps."""
    COMPUTE: tl.constexpr = tl.float64 if input_pointer.dtype.element_ty == tl.float64 else tl.float32
    size = (depth, height, width)
    out = (out_height, out_width)
    slots = channels // in_offset_group * taps
    slot = tl.program_id(0) % slots
    number = numbers(tl.program_id(0) // slots, BLOCK_PLACES, WIDE)
    live = number < count
    image = number // places
    place = number - image * places
    base = image * (channels * pixels)
    begin = map_start(number, image, place, outputs, places, LAST)
    x, y, z = positions(
        offset_pointer, (offset_image, offset_channel, offset_place), image, place, slot, taps, live, out, geometry,
        AXES, COMPUTE,
    )  # fmt: skip
    around = sides(x, y, z, live, size, AXES, V1)
    by_x = tl.zeros([BLOCK_PLACES], COMPUTE)
    by_y = tl.zeros([BLOCK_PLACES], COMPUTE)
    by_z = tl.zeros([BLOCK_PLACES], COMPUTE)
    by_mask = tl.zeros([BLOCK_PLACES], COMPUTE)
    end = (slot // taps + 1) * in_offset_group
    for start in range(end - in_offset_group, end, BLOCK_CHANNELS):
        channel = start + tl.arange(0, BLOCK_CHANNELS)
        if DEPTHWISE:
            column = column_gradient_depthwise(
                grad_pointer, weight_pointer, begin, live, channel, channel < end, slot % taps, places, outputs,
                out_group, LAST, EVEN, COMPUTE, BLOCK_PLACES, BLOCK_CHANNELS,
            )  # fmt: skip
        else:
            column = column_gradient(
                grad_pointer, weight_pointer, begin, live, start, end, channel, slot % taps, taps, places, outputs,
                in_group, out_group, LAST, EVEN_OUTPUTS, PRECISION, COMPUTE,
                BLOCK_PLACES, BLOCK_CHANNELS, BLOCK_OUTPUTS,
            )  # fmt: skip
        if not LAST:
            column = tl.trans(column)
        for corner in tl.static_range(2**AXES):
            values, weight = corner_values(
                input_pointer, base, around, size, channel, channel < end, channels, pixels,
                corner, AXES, LAST, EVEN, WIDE,
            )  # fmt: skip
            gain = tl.sum(values.to(COMPUTE) * column, 1 if LAST else 0)
            slope_x, slope_y, slope_z = slopes(around[0], around[1], around[2], corner, AXES)
            by_x += gain * slope_x
            by_y += gain * slope_y
            by_z += gain * slope_z
            by_mask += gain * weight

    modulation = factor(mask_pointer, (mask_image, mask_channel, mask_place), image, place, slot, live, COMPUTE)
    at = grad_offset_pointer + (image * slots + slot) * (AXES * places) + place
    kind: tl.constexpr = grad_offset_pointer.dtype.element_ty
    tl.store(at + (AXES - 1) * places, (by_x * modulation).to(kind), mask=live)
    if AXES >= 2:
        tl.store(at + (AXES - 2) * places, (by_y * modulation).to(kind), mask=live)
    if AXES == 3:
        tl.store(at, (by_z * modulation).to(kind), mask=live)
    if grad_mask_pointer is not None:
        at = grad_mask_pointer + (image * slots + slot) * places + place
        tl.store(at, by_mask.to(grad_mask_pointer.dtype.element_ty), mask=live)
