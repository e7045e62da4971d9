"""Deformable convolution, forward: one kernel samples, modulates and multiplies; no column buffer anywhere.

A program owns a tile of locations and a tile of outputs. It walks over offset groups, taps and blocks of channels; each
step samples ``[locations, channels]`` into registers and multiplies it with a tile of the weight on the matrix units.
With all outputs in one tile every sample is made once. Several small groups share a tile: their weights stand in it as
blocks on the diagonal, zeros elsewhere.

Parameters:
    input_pointer                 [N, *size, C], channels-last
    offset_pointer, mask_pointer  [N, AXES*G*K, *out] and [N, G*K, *out] or None, any strides
    weight_pointer                dense: [O, taps, C/groups]; depthwise: [taps, O]
    bias_pointer                  [O] or None
    output_pointer                [N, *out, O] with LAST, else [N, O, *out]
    count, locations, pixels      output locations of the batch and of an image; pixels of an input image
    channels, outputs             of the layer; in_group, out_group: of one group; in_offset_group: channels of one
    span                          groups that share the programs of their outputs
    multiplier                    outputs per channel of a depthwise layer
    taps                          K, of the kernel
    depth, height, width          size of the input; out_height, out_width: of the output (1 for an axis not there)
    geometry                      ((kernel height, kernel width), stride, padding, dilation), the last three (z, y, x)
    offset_*, mask_*              elements from image to image, channel to channel, location to location
    AXES, V1                      spatial axes; boundary rule "v1"
    LAST, STRIP                   memory format of the output; rows of a patch of locations (laid_out)
    EVEN, MERGED                  no channel of a tile lies beyond the last; a tile holds several groups
    WIDE                          64-bit numbers of locations
    PRECISION                     of matrix products, as _runtime.precision says
    BLOCK_*                       tile: P locations, O outputs, C channels per step
"""

from __future__ import annotations

import triton
import triton.language as tl

from dcn.kernels.triton._deform_conv_taps import (
    UNSPECIALISED,
    blended,
    connected,
    laid_out,
    located,
    map_start,
    numbers,
    weight_start,
    write_map,
)
from dcn.kernels.triton._sampling import multiply


@triton.jit
def _weights(
    pointer, output, output_inside, channel, channel_inside, tap, taps, in_group, out_group,
    EVEN: tl.constexpr, MERGED: tl.constexpr,
):  # fmt: skip
    """``[C, O]``: the weights between some channels and outputs under one tap."""
    wanted = output_inside[None, :]
    if not EVEN:
        wanted = wanted & channel_inside[:, None]
    if MERGED:
        wanted = wanted & connected(output[None, :], channel[:, None], out_group, in_group)
    at = weight_start(output[None, :], channel[:, None], tap, taps, in_group)
    return tl.load(pointer + at, mask=wanted, other=0.0)  # [C, O]


@triton.jit(do_not_specialize=UNSPECIALISED)
def dense(
    input_pointer, offset_pointer, mask_pointer, weight_pointer, bias_pointer, output_pointer,
    count, locations, pixels, channels, outputs, in_group, out_group, in_offset_group, span, taps,
    depth, height, width, out_height, out_width, geometry: tl.constexpr,
    offset_image, offset_channel, offset_location, mask_image, mask_channel, mask_location,
    AXES: tl.constexpr, V1: tl.constexpr, LAST: tl.constexpr, EVEN: tl.constexpr, MERGED: tl.constexpr,
    STRIP: tl.constexpr, WIDE: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_LOCATIONS: tl.constexpr, BLOCK_OUTPUTS: tl.constexpr, BLOCK_CHANNELS: tl.constexpr,
):  # fmt: skip
    """``span`` groups share the programs of their outputs; MERGED: more than one, and their weights are masked."""
    COMPUTE: tl.constexpr = tl.float64 if input_pointer.dtype.element_ty == tl.float64 else tl.float32
    size = (depth, height, width)
    out = (out_height, out_width)
    blocks = tl.cdiv(span * out_group, BLOCK_OUTPUTS)
    all_blocks = tl.cdiv(outputs, span * out_group) * blocks
    block = (
        tl.program_id(0) % all_blocks
    )  # the programs of one tile of locations run together and share it in the cache
    number = numbers(tl.program_id(0) // all_blocks, BLOCK_LOCATIONS, WIDE)
    live = number < count
    image, location = laid_out(number, locations, out_width, STRIP)

    group = block // blocks * span
    last_output = min((group + span) * out_group, outputs)
    output = group * out_group + block % blocks * BLOCK_OUTPUTS + tl.arange(0, BLOCK_OUTPUTS)
    output_inside = output < last_output
    first = group * in_group
    last = min((group + span) * in_group, channels)
    offset_group = first // in_offset_group
    runs = tl.cdiv(min(span * in_group, in_offset_group), BLOCK_CHANNELS)
    steps = (tl.cdiv(last, in_offset_group) - offset_group) * taps * runs

    tl.assume(steps > 0)  # or sums that no step has touched would be copied around the loop, and each product awaited
    total = tl.zeros([BLOCK_LOCATIONS, BLOCK_OUTPUTS], COMPUTE)
    none = tl.zeros([BLOCK_LOCATIONS], COMPUTE)
    at = tl.zeros([BLOCK_LOCATIONS], number.dtype)
    flags = (live,) * 2**AXES
    weights = (none,) * 2**AXES
    tap = 0
    run = 0
    for _ in range(0, steps):  # one loop, so that loads of weights run ahead from tap to tap
        if run == 0:
            slot = offset_group * taps + tap
            at, flags, weights = located(
                offset_pointer, (offset_image, offset_channel, offset_location),
                mask_pointer, (mask_image, mask_channel, mask_location), image, location, slot, taps, live, size, out,
                pixels, geometry, AXES, V1, COMPUTE,
            )  # fmt: skip
        begin = max(first, offset_group * in_offset_group)
        end = min(last, (offset_group + 1) * in_offset_group)
        channel = begin + run * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS)
        samples = tl.zeros([BLOCK_LOCATIONS, BLOCK_CHANNELS], input_pointer.dtype.element_ty)
        if count > 0:  # always. Within a branch loads go through the L1 cache, where most pixels are read many times;
            # the compiler's pipeline would copy them past it
            samples = blended(
                input_pointer, at, flags, weights, size, channel, channel < end, channels, AXES, EVEN, COMPUTE
            ).to(input_pointer.dtype.element_ty)
        weight = _weights(
            weight_pointer, output, output_inside, channel, channel < end, tap, taps, in_group, out_group, EVEN, MERGED
        )
        total = multiply(samples, weight, total, PRECISION)
        run += 1
        if run == runs:
            run = 0
            tap += 1
            if tap == taps:
                tap = 0
                offset_group += 1

    if bias_pointer is not None:
        total += tl.load(bias_pointer + output, mask=output_inside, other=0.0).to(COMPUTE)[None, :]  # [1, O]
    begin = map_start(image * locations + location, image, location, outputs, locations, LAST)
    write_map(output_pointer, begin, live, output, output_inside, locations, total, LAST)


@triton.jit(do_not_specialize=UNSPECIALISED)
def depthwise(
    input_pointer, offset_pointer, mask_pointer, weight_pointer, bias_pointer, output_pointer,
    count, locations, pixels, channels, outputs, multiplier, in_offset_group, taps,
    depth, height, width, out_height, out_width, geometry: tl.constexpr,
    offset_image, offset_channel, offset_location, mask_image, mask_channel, mask_location,
    AXES: tl.constexpr, V1: tl.constexpr, LAST: tl.constexpr, EVEN: tl.constexpr, STRIP: tl.constexpr,
    WIDE: tl.constexpr, BLOCK_LOCATIONS: tl.constexpr, BLOCK_OUTPUTS: tl.constexpr,
):  # fmt: skip
    """One channel per group, ``multiplier`` outputs each: no matrices to multiply; weights are ``[taps, O]``."""
    COMPUTE: tl.constexpr = tl.float64 if input_pointer.dtype.element_ty == tl.float64 else tl.float32
    size = (depth, height, width)
    out = (out_height, out_width)
    blocks = tl.cdiv(in_offset_group * multiplier, BLOCK_OUTPUTS)
    all_blocks = channels // in_offset_group * blocks
    block = tl.program_id(0) % all_blocks
    number = numbers(tl.program_id(0) // all_blocks, BLOCK_LOCATIONS, WIDE)
    live = number < count
    image, location = laid_out(number, locations, out_width, STRIP)

    offset_group = block // blocks
    within_group = block % blocks * BLOCK_OUTPUTS + tl.arange(0, BLOCK_OUTPUTS)
    output_inside = within_group < in_offset_group * multiplier
    output = offset_group * in_offset_group * multiplier + within_group
    channel = output // multiplier

    total = tl.zeros([BLOCK_LOCATIONS, BLOCK_OUTPUTS], COMPUTE)
    for tap in range(0, taps):
        at, flags, weights = located(
            offset_pointer, (offset_image, offset_channel, offset_location),
            mask_pointer, (mask_image, mask_channel, mask_location), image, location, offset_group * taps + tap, taps,
            live, size, out, pixels, geometry, AXES, V1, COMPUTE,
        )  # fmt: skip
        samples = blended(
            input_pointer, at, flags, weights, size, channel, output_inside, channels, AXES, EVEN, COMPUTE
        )
        weight = tl.load(weight_pointer + tap * outputs + output, mask=output_inside, other=0.0).to(COMPUTE)  # [O]
        total += samples * weight[None, :]

    if bias_pointer is not None:
        total += tl.load(bias_pointer + output, mask=output_inside, other=0.0).to(COMPUTE)[None, :]  # [1, O]
    begin = map_start(image * locations + location, image, location, outputs, locations, LAST)
    write_map(output_pointer, begin, live, output, output_inside, locations, total, LAST)
