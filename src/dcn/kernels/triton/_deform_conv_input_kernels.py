"""Deformable convolution, backward: the gradient of the input, gathered instead of scattered.

The usual way adds every sample's gradient to its corners with atomics: the order, and with it the last bits, change
from run to run, and half precision needs a float32 copy of the map. Here each tap lists, for every cell between grid
points, the output places that sample in it (``count``, a running sum, ``fill``, ``settle``). The kernel ``gather`` then
owns a tile of *input* places: it adds up the output gradients that arrive there under one tap and multiplies the sums
with the weight, the mirror image of the forward kernel. The only atomics are integer counters, ``settle`` puts each
list in order, and so every run gives the same bits.

A list takes 8 bytes for each tap of a place and 4 for each of a pixel, whatever the number of channels.
"""

from __future__ import annotations

import triton
import triton.language as tl

from dcn.kernels.triton._deform_conv_taps import (
    UNSPECIALISED,
    connected,
    factor,
    first_shift,
    map_start,
    numbers,
    positions,
    read_map,
    shifted,
    sides,
    weight_start,
    write_map,
)
from dcn.kernels.triton._sampling import multiply


@triton.jit
def _places(count, places, slots, WIDE: tl.constexpr, BLOCK: tl.constexpr):
    """``(image, place, live)`` of a program's places: neighbouring programs have the same ones under other slots."""
    number = numbers(tl.program_id(0) // slots, BLOCK, WIDE)
    image = number // places
    return image, number - image * places, number < count


@triton.jit
def _cell_of(
    shift, image, place, live, slots, slot, taps, size, out, geometry: tl.constexpr,
    AXES: tl.constexpr, V1: tl.constexpr,
):  # fmt: skip
    """``(key, valid)`` of some places under one slot: ``key`` counts cells, slots and images.

    Cells are ``size + 1`` along every axis: the first lies below grid point 0. The kernels below read ``shift``
    themselves: a compiler that looks for what they change would take the offsets for changed if they were read here.
    """
    COMPUTE: tl.constexpr = tl.float64 if shift[0].dtype == tl.float64 else tl.float32
    x, y, z = shifted(place, slot % taps, shift, out, geometry, AXES, COMPUTE)
    side_x, side_y, side_z = sides(x, y, z, live, size, AXES, V1)
    cell = side_x[0] + 1
    cells = size[2] + 1
    if AXES >= 2:
        cell += (side_y[0] + 1) * cells
        cells *= size[1] + 1
    if AXES == 3:
        cell += (side_z[0] + 1) * cells
        cells *= size[0] + 1
    return (image * slots + slot) * cells + cell, side_x[3] | side_x[4]


@triton.jit(do_not_specialize=UNSPECIALISED)
def count(
    offset_pointer, lists_pointer, count, places, slots, taps,
    depth, height, width, out_height, out_width, geometry: tl.constexpr, offset_image, offset_channel, offset_place,
    AXES: tl.constexpr, V1: tl.constexpr, WIDE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Adds the number of samples in cell ``key`` to entry ``key + 2``."""
    slot = tl.program_id(0) % slots
    image, place, live = _places(count, places, slots, WIDE, BLOCK)
    at = first_shift(offset_pointer, (offset_image, offset_channel, offset_place), image, place, slot, AXES)
    x = tl.load(at + (AXES - 1) * offset_channel, mask=live, other=0.0)
    y = tl.load(at + (AXES - 2) * offset_channel, mask=live, other=0.0) if AXES >= 2 else x
    z = tl.load(at, mask=live, other=0.0) if AXES == 3 else x
    key, valid = _cell_of(
        (x, y, z), image, place, live, slots, slot, taps, (depth, height, width), (out_height, out_width), geometry,
        AXES, V1,
    )  # fmt: skip
    tl.atomic_add(lists_pointer + key + 2, 1, mask=valid, sem="relaxed")


@triton.jit(do_not_specialize=UNSPECIALISED)
def fill(
    offset_pointer, lists_pointer, unsorted_pointer, count, places, slots, taps,
    depth, height, width, out_height, out_width, geometry: tl.constexpr, offset_image, offset_channel, offset_place,
    AXES: tl.constexpr, V1: tl.constexpr, WIDE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Puts every place into the list of its cell; entry ``key + 1`` moves from the beginning of a list to its end."""
    slot = tl.program_id(0) % slots
    image, place, live = _places(count, places, slots, WIDE, BLOCK)
    at = first_shift(offset_pointer, (offset_image, offset_channel, offset_place), image, place, slot, AXES)
    x = tl.load(at + (AXES - 1) * offset_channel, mask=live, other=0.0)
    y = tl.load(at + (AXES - 2) * offset_channel, mask=live, other=0.0) if AXES >= 2 else x
    z = tl.load(at, mask=live, other=0.0) if AXES == 3 else x
    key, valid = _cell_of(
        (x, y, z), image, place, live, slots, slot, taps, (depth, height, width), (out_height, out_width), geometry,
        AXES, V1,
    )  # fmt: skip
    at = tl.atomic_add(lists_pointer + key + 1, 1, mask=valid, sem="relaxed")
    tl.store(unsorted_pointer + at, place, mask=valid)


@triton.jit(do_not_specialize=UNSPECIALISED)
def settle(
    offset_pointer, lists_pointer, unsorted_pointer, sorted_pointer, count, places, slots, taps,
    depth, height, width, out_height, out_width, geometry: tl.constexpr, offset_image, offset_channel, offset_place,
    AXES: tl.constexpr, V1: tl.constexpr, WIDE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Every list in ascending order: a place goes where as many entries stand before it as are smaller.

    Lists are short, one entry on average; a list of n costs n * n comparisons.
    """
    slot = tl.program_id(0) % slots
    image, place, live = _places(count, places, slots, WIDE, BLOCK)
    at = first_shift(offset_pointer, (offset_image, offset_channel, offset_place), image, place, slot, AXES)
    x = tl.load(at + (AXES - 1) * offset_channel, mask=live, other=0.0)
    y = tl.load(at + (AXES - 2) * offset_channel, mask=live, other=0.0) if AXES >= 2 else x
    z = tl.load(at, mask=live, other=0.0) if AXES == 3 else x
    key, valid = _cell_of(
        (x, y, z), image, place, live, slots, slot, taps, (depth, height, width), (out_height, out_width), geometry,
        AXES, V1,
    )  # fmt: skip
    first = tl.load(lists_pointer + key, mask=valid, other=0)
    last = tl.load(lists_pointer + key + 1, mask=valid, other=0)
    rank = first
    for step in range(0, tl.max(last - first)):
        other = tl.load(unsorted_pointer + first + step, mask=first + step < last, other=0)
        rank += tl.where((first + step < last) & (other < place), 1, 0)
    tl.store(sorted_pointer + rank, place, mask=valid)


@triton.jit
def nearness(position, point, size, V1: tl.constexpr):
    """The linear weight of a grid point for a position in a cell beside it."""
    if V1:
        position = tl.minimum(position, size - 1.0)
    return 1 - tl.abs(point.to(position.dtype) - position)


@triton.jit
def arriving(
    grad_pointer, offset_pointer, steps, mask_pointer, mask_steps, lists_pointer, sorted_pointer,
    image, point, live, key, slot, taps, size, out, geometry: tl.constexpr, places, outputs, output, output_inside,
    AXES: tl.constexpr, V1: tl.constexpr, LAST: tl.constexpr, EVEN: tl.constexpr, COMPUTE: tl.constexpr,
    BLOCK_PLACES: tl.constexpr, BLOCK_OUTPUTS: tl.constexpr,
):  # fmt: skip
    """``[P, O]``: the output gradients that samples of one tap hand to each input place, weighted and modulated.

    ``point`` is ``(x, y, z)`` of the input places, ``key`` the first cell of the slot in their image. Along x the two
    cells beside a point are neighbours, and so are their lists: one run per row of cells.
    """
    total = tl.zeros([BLOCK_PLACES, BLOCK_OUTPUTS], COMPUTE)
    for row in tl.static_range(2 ** (AXES - 1)):
        cell = key + point[0]
        if AXES >= 2:
            cell += (point[1] + row % 2) * (size[2] + 1)
        if AXES == 3:
            cell += (point[2] + row // 2) * (size[2] + 1) * (size[1] + 1)
        first = tl.load(lists_pointer + cell, mask=live, other=0)
        last = tl.load(lists_pointer + cell + 2, mask=live, other=0)
        for step in range(0, tl.max(last - first)):
            hit = first + step < last
            place = tl.load(sorted_pointer + first + step, mask=hit, other=0)
            x, y, z = positions(offset_pointer, steps, image, place, slot, taps, hit, out, geometry, AXES, COMPUTE)
            weight = nearness(x, point[0], size[2], V1)
            if AXES >= 2:
                weight *= nearness(y, point[1], size[1], V1)
            if AXES == 3:
                weight *= nearness(z, point[2], size[0], V1)
            weight *= factor(mask_pointer, mask_steps, image, place, slot, hit, COMPUTE)
            begin = map_start(image * places + place, image, place, outputs, places, LAST)
            grad = read_map(grad_pointer, begin, hit, output, output_inside, places, LAST, EVEN)
            total += grad.to(COMPUTE) * weight[:, None]
    return total


@triton.jit(do_not_specialize=UNSPECIALISED)
def gather(
    grad_pointer, offset_pointer, mask_pointer, weight_pointer, lists_pointer, sorted_pointer, grad_input_pointer,
    count, places, pixels, channels, outputs, in_group, out_group, in_offset_group, taps,
    depth, height, width, out_height, out_width, geometry: tl.constexpr,
    offset_image, offset_channel, offset_place, mask_image, mask_channel, mask_place,
    AXES: tl.constexpr, V1: tl.constexpr, LAST: tl.constexpr, EVEN_OUTPUTS: tl.constexpr, DEPTHWISE: tl.constexpr,
    WIDE: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_PLACES: tl.constexpr, BLOCK_CHANNELS: tl.constexpr, BLOCK_OUTPUTS: tl.constexpr,
):  # fmt: skip
    """A tile of input places and channels of one offset group; ``count``: input places of the batch.

    DEPTHWISE: ``BLOCK_OUTPUTS`` is ``BLOCK_CHANNELS``, and weights are ``[taps, O]``.
    """
    COMPUTE: tl.constexpr = tl.float64 if grad_pointer.dtype.element_ty == tl.float64 else tl.float32
    size = (depth, height, width)
    out = (out_height, out_width)
    steps = (offset_image, offset_channel, offset_place)
    mask_steps = (mask_image, mask_channel, mask_place)
    blocks = tl.cdiv(in_offset_group, BLOCK_CHANNELS)
    offset_groups = channels // in_offset_group
    block = tl.program_id(0) % (blocks * offset_groups)
    number = numbers(tl.program_id(0) // (blocks * offset_groups), BLOCK_PLACES, WIDE)
    live = number < count
    image = number // pixels
    pixel = number - image * pixels
    point = (pixel % width, pixel // width % height, pixel // (width * height))
    cells = width + 1
    if AXES >= 2:
        cells *= height + 1
    if AXES == 3:
        cells *= depth + 1

    offset_group = block // blocks
    start = offset_group * in_offset_group + block % blocks * BLOCK_CHANNELS
    end = (offset_group + 1) * in_offset_group
    channel = start + tl.arange(0, BLOCK_CHANNELS)
    inside = channel < end
    first = start // in_group * out_group
    last = tl.cdiv(min(start + BLOCK_CHANNELS, end), in_group) * out_group
    total = tl.zeros([BLOCK_PLACES, BLOCK_CHANNELS], COMPUTE)
    for tap in range(0, taps):
        slot = offset_group * taps + tap
        key = (image * (offset_groups * taps) + slot) * cells
        if DEPTHWISE:
            for copy in range(0, out_group):
                output = channel * out_group + copy
                sums = arriving(
                    grad_pointer, offset_pointer, steps, mask_pointer, mask_steps, lists_pointer, sorted_pointer,
                    image, point, live, key, slot, taps, size, out, geometry, places, outputs, output, inside,
                    AXES, V1, LAST, EVEN_OUTPUTS, COMPUTE, BLOCK_PLACES, BLOCK_CHANNELS,
                )  # fmt: skip
                weight = tl.load(weight_pointer + tap * outputs + output, mask=inside, other=0.0)
                total += sums * weight.to(COMPUTE)[None, :]
        else:
            for at in range(first, last, BLOCK_OUTPUTS):
                output = at + tl.arange(0, BLOCK_OUTPUTS)
                output_inside = output < last
                sums = arriving(
                    grad_pointer, offset_pointer, steps, mask_pointer, mask_steps, lists_pointer, sorted_pointer,
                    image, point, live, key, slot, taps, size, out, geometry, places, outputs, output, output_inside,
                    AXES, V1, LAST, EVEN_OUTPUTS, COMPUTE, BLOCK_PLACES, BLOCK_OUTPUTS,
                )  # fmt: skip
                wanted = connected(output[:, None], channel[None, :], out_group, in_group) & inside[None, :]
                weights = weight_start(output[:, None], channel[None, :], tap, taps, in_group)
                weight = tl.load(weight_pointer + weights, mask=wanted & output_inside[:, None], other=0.0)
                total = multiply(sums.to(grad_pointer.dtype.element_ty), weight, total, PRECISION)
    begin = map_start(number, image, pixel, channels, pixels, LAST)
    write_map(grad_input_pointer, begin, live, channel, inside, pixels, total, LAST)
