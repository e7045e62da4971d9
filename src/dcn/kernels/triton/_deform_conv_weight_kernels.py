"""Deformable convolution, backward: the gradient of the weight.

A program owns a tile of outputs and channels under one tap, for one share of the places; the shares are summed
afterwards in a fixed order, so that every run gives the same bits.
"""

from __future__ import annotations

import triton
import triton.language as tl

from dcn.kernels.triton._deform_conv_taps import (
    UNSPECIALISED,
    connected,
    factor,
    map_start,
    positions,
    read_map,
    sampled,
    sides,
)
from dcn.kernels.triton._sampling import multiply


@triton.jit
def _samples(
    input_pointer, offset_pointer, steps, mask_pointer, mask_steps, number, count, places, pixels, channels,
    slot, taps, size, out, geometry: tl.constexpr, channel, channel_inside,
    AXES: tl.constexpr, V1: tl.constexpr, LAST: tl.constexpr, EVEN: tl.constexpr, WIDE: tl.constexpr,
    COMPUTE: tl.constexpr,
):  # fmt: skip
    """``(samples [P, C], image, place, live)`` of some places."""
    live = number < count
    image = number // places
    place = number - image * places
    x, y, z = positions(offset_pointer, steps, image, place, slot, taps, live, out, geometry, AXES, COMPUTE)
    around = sides(x, y, z, live, size, AXES, V1)
    modulation = factor(mask_pointer, mask_steps, image, place, slot, live, COMPUTE)
    samples = sampled(
        input_pointer, image * (channels * pixels), around, modulation, size, channel, channel_inside, channels, pixels,
        AXES, LAST, EVEN, WIDE, COMPUTE,
    )  # fmt: skip
    if not LAST:
        samples = tl.trans(samples)
    return samples, image, place, live


@triton.jit(do_not_specialize=UNSPECIALISED)
def dense(
    input_pointer, offset_pointer, mask_pointer, grad_pointer, shares_pointer,
    count, places, pixels, channels, outputs, in_group, out_group, in_offset_group, taps, share, output_blocks,
    depth, height, width, out_height, out_width, geometry: tl.constexpr,
    offset_image, offset_channel, offset_place, mask_image, mask_channel, mask_place,
    AXES: tl.constexpr, V1: tl.constexpr, LAST: tl.constexpr, EVEN: tl.constexpr, EVEN_OUTPUTS: tl.constexpr,
    WIDE: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_OUTPUTS: tl.constexpr, BLOCK_CHANNELS: tl.constexpr, BLOCK_PLACES: tl.constexpr,
):  # fmt: skip
    """Writes ``[shares, O, C/g, taps]``; a share is ``share`` places, a multiple of the block."""
    COMPUTE: tl.constexpr = tl.float64 if input_pointer.dtype.element_ty == tl.float64 else tl.float32
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
    output = start // in_group * out_group + output_block * BLOCK_OUTPUTS + tl.arange(0, BLOCK_OUTPUTS)
    output_inside = output < last

    total = tl.zeros([BLOCK_OUTPUTS, BLOCK_CHANNELS], COMPUTE)
    begin = part.to(tl.int64) * share if WIDE else part * share
    for at in range(begin, min(begin + share, count), BLOCK_PLACES):
        number = at + tl.arange(0, BLOCK_PLACES)
        samples, image, place, live = _samples(
            input_pointer, offset_pointer, (offset_image, offset_channel, offset_place),
            mask_pointer, (mask_image, mask_channel, mask_place), number, count, places, pixels, channels,
            slot, taps, (depth, height, width), (out_height, out_width), geometry, channel, inside,
            AXES, V1, LAST, EVEN, WIDE, COMPUTE,
        )  # fmt: skip
        grads = map_start(number, image, place, outputs, places, LAST)
        grad = read_map(grad_pointer, grads, live, output, output_inside, places, LAST, EVEN_OUTPUTS)
        total = multiply(tl.trans(grad), samples.to(grad.dtype), total, PRECISION)

    wanted = connected(output[:, None], channel[None, :], out_group, in_group)
    wanted = wanted & output_inside[:, None] & inside[None, :]
    tile = ((part * outputs + output)[:, None] * in_group + (channel % in_group)[None, :]) * taps + slot % taps
    tl.store(shares_pointer + tile, total.to(shares_pointer.dtype.element_ty), mask=wanted)


@triton.jit(do_not_specialize=UNSPECIALISED)
def depthwise(
    input_pointer, offset_pointer, mask_pointer, grad_pointer, shares_pointer,
    count, places, pixels, channels, outputs, multiplier, in_offset_group, taps, share,
    depth, height, width, out_height, out_width, geometry: tl.constexpr,
    offset_image, offset_channel, offset_place, mask_image, mask_channel, mask_place,
    AXES: tl.constexpr, V1: tl.constexpr, LAST: tl.constexpr, EVEN: tl.constexpr, WIDE: tl.constexpr,
    BLOCK_OUTPUTS: tl.constexpr, BLOCK_PLACES: tl.constexpr,
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

    total = tl.zeros([BLOCK_PLACES, BLOCK_OUTPUTS], COMPUTE)
    begin = part.to(tl.int64) * share if WIDE else part * share
    for at in range(begin, min(begin + share, count), BLOCK_PLACES):
        number = at + tl.arange(0, BLOCK_PLACES)
        samples, image, place, live = _samples(
            input_pointer, offset_pointer, (offset_image, offset_channel, offset_place),
            mask_pointer, (mask_image, mask_channel, mask_place), number, count, places, pixels, channels,
            slot, taps, (depth, height, width), (out_height, out_width), geometry, output // multiplier, inside,
            AXES, V1, LAST, EVEN, WIDE, COMPUTE,
        )  # fmt: skip
        grads = map_start(number, image, place, outputs, places, LAST)
        total += samples * read_map(grad_pointer, grads, live, output, inside, places, LAST, EVEN).to(COMPUTE)
    sums = tl.sum(total, 0)
    at = (part * outputs + output) * taps + slot % taps
    tl.store(shares_pointer + at, sums.to(shares_pointer.dtype.element_ty), mask=inside)
