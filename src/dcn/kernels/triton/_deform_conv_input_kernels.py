"""Deformable convolution, backward: the gradient of the input, gathered instead of scattered.

The usual way adds every sample's gradient to its corners with atomics: the order, and with it the last bits, change
from run to run, and half precision needs a float32 copy of the map. Here each tap lists, for every cell between grid
points, the output locations that sample in it (``count``, a running sum, ``fill``, ``settle``). ``gather`` then
owns a patch of *input* pixels. Under each tap it finds the samples that arrive there, 85 on average at 64 pixels and
stride 1, and multiplies twice, both on the matrix units: the part that each pixel has of each sample with the output
gradients of these samples, and the sums with the weight. The only atomics are integer counters, ``settle`` puts each
list in order, and so every run gives the same bits.

A list takes 8 bytes for each tap of a location and 4 for each of a pixel, whatever the number of channels. In half
precision the parts are rounded once, as samples are in the forward pass. A gradient or mask that is not finite makes
not only its corners so, but the patches they lie in.

Parameters:
    grad_pointer                  [N, *out, O], gradient of the output, channels-last
    offset_pointer, mask_pointer  [N, AXES*G*K, *out] and [N, G*K, *out] or None, any strides
    weight_pointer                [O, taps, C/groups]; DEPTHWISE: [taps, O]
    lists_pointer                 [N * slots * cells + 2] integers, where the list of each cell begins
    unsorted_pointer              [N * slots * locations], the lists as they were filled; sorted_pointer: in order
    grad_input_pointer            [N, *size, C] with LAST, else [N, C, *size]
    count, locations, pixels      output locations of the batch and of an image; pixels of an input image
    channels, outputs             of the layer; in_group, out_group: of one group; in_offset_group: channels of one
    taps, slots                   K, of the kernel; offset groups * taps, a slot is one of them
    depth, height, width          size of the input; out_height, out_width: of the output (1 for an axis not there)
    geometry                      ((kernel height, kernel width), stride, padding, dilation), the last three (z, y, x)
    offset_*, mask_*              elements from image to image, channel to channel, location to location
    AXES, V1                      spatial axes; boundary rule "v1"
    LAST                          memory format of the gradient
    EVEN, EVEN_OUTPUTS            no channel (output) of a tile lies beyond the last
    DEPTHWISE, MERGED             one channel per group; a tile holds several groups
    WIDE                          64-bit numbers of locations
    PRECISION                     of matrix products, as _runtime.precision says
    PATCH                         (depth, height, width) of the pixels of a program
    BLOCK_SAMPLES                 S samples per step; BLOCK_LOCATIONS: P pixels; BLOCK_CHANNELS: C; BLOCK_OUTPUTS: O
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
    shifted,
    sides,
    weight_start,
    write_map,
)
from dcn.kernels.triton._sampling import multiply, read


@triton.jit
def _locations(count, locations, slots, WIDE: tl.constexpr, BLOCK: tl.constexpr):
    """``(image, location, live)`` of a program's locations; its neighbours have the same ones under other slots."""
    number = numbers(tl.program_id(0) // slots, BLOCK, WIDE)
    image = number // locations
    return image, number - image * locations, number < count


@triton.jit
def _cell_of(
    shift, image, location, live, slots, slot, taps, size, out, geometry: tl.constexpr,
    AXES: tl.constexpr, V1: tl.constexpr,
):  # fmt: skip
    """``(key, valid)`` of some locations under one slot: ``key`` counts cells, slots and images.

    Cells are ``size + 1`` along every axis: the first lies below grid point 0. The kernels below read ``shift``
    themselves: a compiler that looks for what they change would take the offsets for changed if they were read here.
    """
    COMPUTE: tl.constexpr = tl.float64 if shift[0].dtype == tl.float64 else tl.float32
    x, y, z = shifted(location, slot % taps, shift, out, geometry, AXES, COMPUTE)
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
    offset_pointer, lists_pointer, count, locations, slots, taps,
    depth, height, width, out_height, out_width, geometry: tl.constexpr, offset_image, offset_channel, offset_location,
    AXES: tl.constexpr, V1: tl.constexpr, WIDE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Adds the number of samples in cell ``key`` to entry ``key + 2``."""
    slot = tl.program_id(0) % slots
    image, location, live = _locations(count, locations, slots, WIDE, BLOCK)
    at = first_shift(offset_pointer, (offset_image, offset_channel, offset_location), image, location, slot, AXES)
    x = tl.load(at + (AXES - 1) * offset_channel, mask=live, other=0.0)  # [BLOCK], as y and z
    y = tl.load(at + (AXES - 2) * offset_channel, mask=live, other=0.0) if AXES >= 2 else x
    z = tl.load(at, mask=live, other=0.0) if AXES == 3 else x
    key, valid = _cell_of(
        (x, y, z), image, location, live, slots, slot, taps, (depth, height, width), (out_height, out_width), geometry,
        AXES, V1,
    )  # fmt: skip
    tl.atomic_add(lists_pointer + key + 2, 1, mask=valid, sem="relaxed")


@triton.jit(do_not_specialize=UNSPECIALISED)
def fill(
    offset_pointer, lists_pointer, unsorted_pointer, count, locations, slots, taps,
    depth, height, width, out_height, out_width, geometry: tl.constexpr, offset_image, offset_channel, offset_location,
    AXES: tl.constexpr, V1: tl.constexpr, WIDE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Puts every location into the list of its cell; entry ``key + 1`` moves from a list's beginning to its end."""
    slot = tl.program_id(0) % slots
    image, location, live = _locations(count, locations, slots, WIDE, BLOCK)
    at = first_shift(offset_pointer, (offset_image, offset_channel, offset_location), image, location, slot, AXES)
    x = tl.load(at + (AXES - 1) * offset_channel, mask=live, other=0.0)  # [BLOCK], as y and z
    y = tl.load(at + (AXES - 2) * offset_channel, mask=live, other=0.0) if AXES >= 2 else x
    z = tl.load(at, mask=live, other=0.0) if AXES == 3 else x
    key, valid = _cell_of(
        (x, y, z), image, location, live, slots, slot, taps, (depth, height, width), (out_height, out_width), geometry,
        AXES, V1,
    )  # fmt: skip
    at = tl.atomic_add(lists_pointer + key + 1, 1, mask=valid, sem="relaxed")
    tl.store(unsorted_pointer + at, location, mask=valid)


@triton.jit(do_not_specialize=UNSPECIALISED)
def settle(
    offset_pointer, lists_pointer, unsorted_pointer, sorted_pointer, count, locations, slots, taps,
    depth, height, width, out_height, out_width, geometry: tl.constexpr, offset_image, offset_channel, offset_location,
    AXES: tl.constexpr, V1: tl.constexpr, WIDE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Every list in ascending order: a location goes where as many entries stand before it as are smaller.

    Lists are short, one entry on average; a list of n costs n * n comparisons.
    """
    slot = tl.program_id(0) % slots
    image, location, live = _locations(count, locations, slots, WIDE, BLOCK)
    at = first_shift(offset_pointer, (offset_image, offset_channel, offset_location), image, location, slot, AXES)
    x = tl.load(at + (AXES - 1) * offset_channel, mask=live, other=0.0)  # [BLOCK], as y and z
    y = tl.load(at + (AXES - 2) * offset_channel, mask=live, other=0.0) if AXES >= 2 else x
    z = tl.load(at, mask=live, other=0.0) if AXES == 3 else x
    key, valid = _cell_of(
        (x, y, z), image, location, live, slots, slot, taps, (depth, height, width), (out_height, out_width), geometry,
        AXES, V1,
    )  # fmt: skip
    first = tl.load(lists_pointer + key, mask=valid, other=0)  # [BLOCK]
    last = tl.load(lists_pointer + key + 1, mask=valid, other=0)
    rank = first
    for step in range(0, tl.max(last - first)):
        other = tl.load(unsorted_pointer + first + step, mask=first + step < last, other=0)  # [BLOCK]
        rank += tl.where((first + step < last) & (other < location), 1, 0)
    tl.store(sorted_pointer + rank, location, mask=valid)


@triton.jit
def patch_of(number, size, PATCH: tl.constexpr, AXES: tl.constexpr):
    """Patch ``number`` of the batch: its image, first pixel ``(x, y, z)``, and cells along each axis, ``(x, y, z)``.

    ``PATCH`` is ``(depth, height, width)`` of a full patch; the last ones of an axis may be smaller.
    """
    across = tl.cdiv(size[2], PATCH[2])
    down = tl.cdiv(size[1], PATCH[1])
    deep = tl.cdiv(size[0], PATCH[0])
    x = number % across * PATCH[2]
    y = number // across % down * PATCH[1]
    z = number // (across * down) % deep * PATCH[0]
    rows = tl.minimum(PATCH[1], size[1] - y) + 1 if AXES >= 2 else 1
    sheets = tl.minimum(PATCH[0], size[0] - z) + 1 if AXES == 3 else 1
    return number // (across * down * deep), (x, y, z), (tl.minimum(PATCH[2], size[2] - x) + 1, rows, sheets)


@triton.jit
def cells_of(size, AXES: tl.constexpr):
    """Cells of an image: one more than points along every axis."""
    cells = size[2] + 1
    if AXES >= 2:
        cells *= size[1] + 1
    if AXES == 3:
        cells *= size[0] + 1
    return cells


@triton.jit
def runs_of(lists_pointer, key, tap, taps, run, low, reach, cells, size):
    """Beginnings and ends of the runs of list entries that a patch looks at under a tap; 0 for runs that are not.

    The cells of a row are neighbours, and so are their lists: one run per row of cells.

    Args:
        lists_pointer: beginnings of the lists.
        key: first cell under tap 0 in the image of the patch.
        tap: the tap; there is none from ``taps`` on.
        taps: taps of the kernel.
        run: numbers of the runs; broadcasts with ``tap``.
        low: first pixel of the patch.
        reach: its cells along each axis.
        cells: cells of an image.
        size: of the input.
    """
    row = low[1] + run % reach[1]
    sheet = low[2] + run // reach[1]
    cell = key + tap * cells + (sheet * (size[1] + 1) + row) * (size[2] + 1) + low[0]
    there = (run < reach[1] * reach[2]) & (run + tap < run + taps)
    first = tl.load(lists_pointer + cell, mask=there, other=0)  # [taps, runs] or [runs]
    return first, tl.load(lists_pointer + cell + reach[0], mask=there, other=0)


@triton.jit
def listed(sorted_pointer, first, last, start, BLOCK: tl.constexpr):
    """``[BLOCK]`` locations from entry ``start`` of some runs on, taken as one list; -1 behind its end."""
    length = last - first
    end = tl.cumsum(length, 0)
    begin = end - length
    entry = start + tl.arange(0, BLOCK)
    within = (entry[:, None] >= begin[None, :]) & (entry[:, None] < end[None, :])
    at = entry + tl.sum(tl.where(within, (first - begin)[None, :], 0), 1)
    return tl.load(sorted_pointer + at, mask=entry < tl.sum(length), other=-1)  # [BLOCK]


@triton.jit
def nearness(position, low, local, size, V1: tl.constexpr):
    """``[P, S]``: the linear weight of grid points ``low + local`` for positions; 0 for those not beside a position."""
    if V1:
        position = tl.minimum(position, size - 1.0)
    away = (position - low)[None, :] - local.to(position.dtype)[:, None]
    return tl.maximum(1 - tl.abs(away), 0.0)


@triton.jit
def parts(
    x, y, z, modulation, low, size, PATCH: tl.constexpr, AXES: tl.constexpr, V1: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """``[P, S]``: the part of each modulated sample that each pixel of a patch has; most are 0.

    The compiler gives a thread all pixels of one sample, and the sides of a patch are constants: so the weights along
    an axis are made once per column or row of the patch, 16 + 4 of them, and what is left is one multiplication each.
    """
    local = tl.arange(0, BLOCK)
    others = modulation[None, :]
    if AXES >= 2:
        others *= nearness(y, low[1], local // PATCH[2] % PATCH[1], size[1], V1)
    if AXES == 3:
        others *= nearness(z, low[2], local // (PATCH[2] * PATCH[1]), size[0], V1)
    return nearness(x, low[0], local % PATCH[2], size[2], V1) * others


@triton.jit
def sample(
    offset_pointer, steps, mask_pointer, mask_steps, image, location, slot, taps, out, geometry: tl.constexpr,
    AXES: tl.constexpr, COMPUTE: tl.constexpr,
):  # fmt: skip
    """``(x, y, z, modulation)`` of some locations under a tap; the modulation of a ``location`` of -1 is 0."""
    hit = location >= 0
    x, y, z = positions(offset_pointer, steps, image, location, slot, taps, hit, out, geometry, AXES, COMPUTE)
    modulation = factor(mask_pointer, mask_steps, image, location, slot, hit, COMPUTE)
    return x, y, z, tl.where(hit, modulation, 0.0)


@triton.jit
def following(
    lists_pointer, sorted_pointer, key, tap, start, first, last, first_after, last_after, taps, run, low, reach, cells,
    size, BLOCK: tl.constexpr,
):  # fmt: skip
    """The block of samples behind the one of ``tap`` that begins at entry ``start`` of its runs, and where it is.

    Returns:
        Tap, entry and locations, the runs of that tap, and those of the tap after it.
    """
    more = start + BLOCK < tl.sum(last - first)
    start = tl.where(more, start + BLOCK, 0)
    tap = tl.where(more, tap, tap + 1)
    first = tl.where(more, first, first_after)
    last = tl.where(more, last, last_after)
    location = listed(sorted_pointer, first, last, start, BLOCK)
    first_after, last_after = runs_of(lists_pointer, key, tap + 1, taps, run, low, reach, cells, size)
    return tap, start, location, first, last, first_after, last_after


@triton.jit
def rounds_of(lists_pointer, key, taps, run, low, reach, cells, size, BLOCK: tl.constexpr):
    """Blocks of samples that arrive at a patch under all taps, at least one for each tap."""
    rounds = 0
    for several in range(0, taps, 16):
        tap = several + tl.arange(0, 16)
        first, last = runs_of(lists_pointer, key, tap[:, None], taps, run[None, :], low, reach, cells, size)
        found = tl.cdiv(tl.sum(last - first, 1), BLOCK).to(tl.int32)
        rounds += tl.sum(tl.where(tap < taps, tl.maximum(found, 1), 0))
    return rounds


@triton.jit
def outputs_of(
    start, end, in_group, out_group, DEPTHWISE: tl.constexpr, BLOCK_CHANNELS: tl.constexpr, BLOCK_OUTPUTS: tl.constexpr
):  # fmt: skip
    """First and last output that a block of channels feeds, and the turns they are taken in."""
    first = start // in_group * out_group
    last = tl.cdiv(min(start + BLOCK_CHANNELS, end), in_group) * out_group
    turns = out_group if DEPTHWISE else tl.cdiv(last - first, BLOCK_OUTPUTS)
    return first, last, turns


@triton.jit
def outputs_in(turn, channel, inside, first, last, out_group, DEPTHWISE: tl.constexpr, BLOCK: tl.constexpr):
    """The outputs of a turn, and whether they count."""
    if DEPTHWISE:
        return channel * out_group + turn % out_group, inside  # the one turn of one output is known to be 0: wide loads
    else:
        output = first + turn * BLOCK + tl.arange(0, BLOCK)
        return output, output < last


@triton.jit
def times_weight(
    total, sums, weight_pointer, output, output_inside, channel, inside, tap, taps, outputs, in_group, out_group,
    EVEN: tl.constexpr, DEPTHWISE: tl.constexpr, MERGED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """``total`` and the product of ``[P, O]`` sums with the weight of a tap."""
    if DEPTHWISE:
        weight = tl.load(weight_pointer + tap * outputs + output, mask=inside, other=0.0)  # [C]
        return total + sums * weight.to(total.dtype)[None, :]
    else:
        at = weight_start(output[:, None], channel[None, :], tap, taps, in_group)
        if EVEN and not MERGED:
            weight = tl.load(weight_pointer + at)  # [O, C]
        else:
            wanted = output_inside[:, None] & inside[None, :]
            if MERGED:
                wanted = wanted & connected(output[:, None], channel[None, :], out_group, in_group)
            weight = tl.load(weight_pointer + at, mask=wanted, other=0.0)  # [O, C]
        return multiply(sums.to(weight.dtype), weight, total, PRECISION)


@triton.jit
def write_patch(
    pointer, total, image, low, size, channel, inside, channels, pixels,
    PATCH: tl.constexpr, LAST: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Store the gradients of a patch whose first pixel is ``low``."""
    local = tl.arange(0, BLOCK)
    x = low[0] + local % PATCH[2]
    y = low[1] + local // PATCH[2] % PATCH[1]
    z = low[2] + local // (PATCH[2] * PATCH[1])
    live = (x < size[2]) & (y < size[1]) & (z < size[0])
    pixel = (z * size[1] + y) * size[2] + x
    begin = map_start(image * pixels + pixel, image, pixel, channels, pixels, LAST)
    write_map(pointer, begin, live, channel, inside, pixels, total, LAST)


@triton.jit(do_not_specialize=UNSPECIALISED)
def gather(
    grad_pointer, offset_pointer, mask_pointer, weight_pointer, lists_pointer, sorted_pointer, grad_input_pointer,
    locations, pixels, channels, outputs, in_group, out_group, in_offset_group,
    taps, depth, height, width, out_height, out_width, geometry: tl.constexpr,
    offset_image, offset_channel, offset_location, mask_image, mask_channel, mask_location,
    AXES: tl.constexpr, V1: tl.constexpr, LAST: tl.constexpr, EVEN: tl.constexpr, EVEN_OUTPUTS: tl.constexpr,
    DEPTHWISE: tl.constexpr, MERGED: tl.constexpr, WIDE: tl.constexpr, PRECISION: tl.constexpr, PATCH: tl.constexpr,
    BLOCK_SAMPLES: tl.constexpr, BLOCK_LOCATIONS: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr, BLOCK_OUTPUTS: tl.constexpr,
):  # fmt: skip
    """A patch of ``BLOCK_LOCATIONS`` input pixels and a block of channels of one offset group.

    One loop over taps, over blocks of ``BLOCK_SAMPLES`` of the samples that arrive under a tap (mostly there is one),
    and over blocks of outputs. A loop in a loop would wait for its first loads again and again. The locations of the
    next block of samples, and the lists of the tap behind it, are read a whole block ahead: each is the address of the
    next.

    DEPTHWISE: the outputs of a channel come one by one, and weights are ``[taps, O]``.
    MERGED: the channels are of several groups.
    """
    COMPUTE: tl.constexpr = tl.float64 if grad_pointer.dtype.element_ty == tl.float64 else tl.float32
    WIDTH: tl.constexpr = BLOCK_CHANNELS if DEPTHWISE else BLOCK_OUTPUTS
    size = (depth, height, width)
    out = (out_height, out_width)
    steps = (offset_image, offset_channel, offset_location)
    mask_steps = (mask_image, mask_channel, mask_location)
    blocks = tl.cdiv(in_offset_group, BLOCK_CHANNELS)
    offset_groups = channels // in_offset_group
    block = tl.program_id(0) % (blocks * offset_groups)
    image, low, reach = patch_of(tl.program_id(0) // (blocks * offset_groups), size, PATCH, AXES)
    offset_group = block // blocks
    start = offset_group * in_offset_group + block % blocks * BLOCK_CHANNELS
    end = (offset_group + 1) * in_offset_group
    channel = start + tl.arange(0, BLOCK_CHANNELS)
    inside = channel < end
    first_output, last_output, turns = outputs_of(
        start, end, in_group, out_group, DEPTHWISE, BLOCK_CHANNELS, BLOCK_OUTPUTS
    )
    slot = offset_group * taps
    cells = cells_of(size, AXES)
    if WIDE:
        image = image.to(tl.int64)
        cells = cells.to(tl.int64)
        slot = slot.to(tl.int64)
    key = (image * (offset_groups * taps) + slot) * cells

    run = tl.arange(0, 1 if AXES == 1 else 8 if AXES == 2 else 32)  # rows of cells of a patch, at most 5 * 5
    rounds = rounds_of(lists_pointer, key, taps, run, low, reach, cells, size, BLOCK_SAMPLES)
    first, last = runs_of(lists_pointer, key, 0, taps, run, low, reach, cells, size)
    first_after, last_after = runs_of(lists_pointer, key, 1, taps, run, low, reach, cells, size)
    location = listed(sorted_pointer, first, last, 0, BLOCK_SAMPLES)
    x, y, z, modulation = sample(
        offset_pointer, steps, mask_pointer, mask_steps, image, location, slot, taps, out, geometry, AXES, COMPUTE
    )
    tap = 0
    tap_next, start_next, location_next, first, last, first_after, last_after = following(
        lists_pointer, sorted_pointer, key, 0, 0, first, last, first_after, last_after, taps, run, low, reach, cells,
        size, BLOCK_SAMPLES,
    )  # fmt: skip
    turn = 0
    total = tl.zeros([BLOCK_LOCATIONS, BLOCK_CHANNELS], COMPUTE)
    for _step in range(0, rounds * turns):
        output, output_inside = outputs_in(
            turn, channel, inside, first_output, last_output, out_group, DEPTHWISE, BLOCK_OUTPUTS
        )
        begin = (image * locations + location) * outputs
        grad = read(grad_pointer, begin, location >= 0, output, output_inside, EVEN_OUTPUTS)  # [S, O or C]
        near = parts(x, y, z, modulation, low, size, PATCH, AXES, V1, BLOCK_LOCATIONS).to(grad.dtype)
        sums = multiply(near, grad, tl.zeros([BLOCK_LOCATIONS, WIDTH], COMPUTE), PRECISION)
        total = times_weight(
            total, sums, weight_pointer, output, output_inside, channel, inside, tap, taps, outputs, in_group,
            out_group, EVEN and EVEN_OUTPUTS, DEPTHWISE, MERGED, PRECISION,
        )  # fmt: skip
        turn += 1
        if turn == turns:
            turn = 0
            tap = tap_next
            location = location_next
            x, y, z, modulation = sample(
                offset_pointer, steps, mask_pointer, mask_steps, image, location, slot + tap, taps, out, geometry,
                AXES, COMPUTE,
            )  # fmt: skip
            tap_next, start_next, location_next, first, last, first_after, last_after = following(
                lists_pointer, sorted_pointer, key, tap, start_next, first, last, first_after, last_after, taps,
                run, low, reach, cells, size, BLOCK_SAMPLES,
            )  # fmt: skip
    write_patch(
        grad_input_pointer, total, image, low, size, channel, inside, channels, pixels, PATCH, LAST, BLOCK_LOCATIONS
    )
