"""What all kernels of deformable convolution share: locations, taps, sampled tiles, and tiles of weights and maps.

Places are counted over the whole batch, x fastest, so that a tile is full whatever the size of a map. ``size`` is
``(depth, height, width)`` of the input, ``out`` ``(height, width)`` of the output, 1 on axes that are not there;
``geometry`` is ``((kernel height, kernel width), stride, padding, dilation)``, the last three ``(z, y, x)``. It is a
constant: taps are divided by constants, and a launch has eleven numbers less to look at.
"""

from __future__ import annotations

import triton
import triton.language as tl

from dcn.kernels.triton._sampling import corner, read, side, within

# Numbers that change with the size of an image: no variant of a kernel of their own, so no compilation for a new size.
UNSPECIALISED = [
    *("count", "locations", "pixels", "taps", "slots", "share", "shares", "output_blocks"),
    *("depth", "height", "width", "out_height", "out_width"),
    *("offset_image", "offset_channel", "offset_location", "mask_image", "mask_channel", "mask_location"),
]


@triton.jit
def numbers(block, BLOCK: tl.constexpr, WIDE: tl.constexpr):
    """``[BLOCK]`` numbers of a block's locations; 64-bit where 32 bits might not address a tensor."""
    if WIDE:
        return block.to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    else:
        return block * BLOCK + tl.arange(0, BLOCK)


@triton.jit
def laid_out(number, locations, width, STRIP: tl.constexpr):
    """``(image, location)`` of the locations of a batch, counted along strips of ``STRIP`` rows, column by column.

    Consecutive numbers are then a patch of the map, whose samples share pixels along both axes: with unit offsets 128
    locations of one row read 520 pixels under all taps of 3x3, 16 x 8 locations 209. The last strip has what rows are
    left. ``STRIP`` 1 is the plain order. ``width``: of the map, ``locations`` a multiple of it.
    """
    image = number // locations
    location = number - image * locations
    if STRIP > 1:
        strip = location // (STRIP * width)
        inside = location - strip * (STRIP * width)
        rows = tl.minimum(locations // width - strip * STRIP, STRIP)
        location = (strip * STRIP + inside % rows) * width + inside // rows
    return image, location


@triton.jit
def coordinate(at, tap, shift, AXIS: tl.constexpr, geometry: tl.constexpr, COMPUTE: tl.constexpr):
    """Where output location ``at`` of an axis samples: at * stride - padding + step of the tap * dilation + ``shift``.

    ``AXIS`` is 0 (x), 1 (y) or 2 (z); ``at`` counts along it.
    """
    if AXIS == 0:
        step = tap % geometry[0][1]
    elif AXIS == 1:
        step = (tap // geometry[0][1]) % geometry[0][0]
    else:
        step = tap // (geometry[0][1] * geometry[0][0])
    base = at.to(tl.int32) * geometry[1][2 - AXIS] - geometry[2][2 - AXIS] + step * geometry[3][2 - AXIS]
    return base.to(COMPUTE) + shift.to(COMPUTE)


@triton.jit
def positions(
    pointer, strides, image, location, slot, taps, live, out, geometry: tl.constexpr,
    AXES: tl.constexpr, COMPUTE: tl.constexpr,
):  # fmt: skip
    """Coordinates ``(x, y, z)`` of some locations under one tap of one offset group; absent axes repeat x.

    Args:
        pointer: offsets, and ``strides``, their elements from image to image, channel to channel, location to location.
        image: ``[P]``, the image of each location.
        location: ``[P]``, the location within it.
        slot: offset group * ``taps`` + tap.
        taps: taps of the kernel.
        live: ``[P]``, whether to read the offset at all.
        out: size of the output.
        geometry: of the convolution.
        AXES: number of spatial axes.
        COMPUTE: type of coordinates.
    """
    at = first_shift(pointer, strides, image, location, slot, AXES)
    shift_x = tl.load(at + (AXES - 1) * strides[1], mask=live, other=0.0)  # [P], as those of y and z
    shift_y = shift_x
    shift_z = shift_x
    if AXES >= 2:
        shift_y = tl.load(at + (AXES - 2) * strides[1], mask=live, other=0.0)
    if AXES == 3:
        shift_z = tl.load(at, mask=live, other=0.0)
    return shifted(location, slot % taps, (shift_x, shift_y, shift_z), out, geometry, AXES, COMPUTE)


@triton.jit
def first_shift(pointer, strides, image, location, slot, AXES: tl.constexpr):
    """Where the offset of some locations along their first axis is; those of the others are ``strides[1]`` apart."""
    return pointer + image * strides[0] + slot.to(location.dtype) * AXES * strides[1] + location * strides[2]


@triton.jit
def shifted(location, tap, shift, out, geometry: tl.constexpr, AXES: tl.constexpr, COMPUTE: tl.constexpr):
    """Coordinates ``(x, y, z)`` of some locations whose offsets are ``shift``, ``(x, y, z)`` too."""
    if AXES == 1:
        x = coordinate(location, tap, shift[0], 0, geometry, COMPUTE)
        y = x
        z = x
    else:
        row = location // out[1]
        x = coordinate(location - row * out[1], tap, shift[0], 0, geometry, COMPUTE)
        z = x
        if AXES == 2:
            y = coordinate(row, tap, shift[1], 1, geometry, COMPUTE)
        else:
            y = coordinate(row % out[0], tap, shift[1], 1, geometry, COMPUTE)
            z = coordinate(row // out[0], tap, shift[2], 2, geometry, COMPUTE)
    return x, y, z


@triton.jit
def sides(x, y, z, live, size, AXES: tl.constexpr, V1: tl.constexpr):
    """Sides ``(x, y, z)`` of positions; locations that are not ``live`` or not within the map touch nothing."""
    valid = live & within(x, size[2], V1)
    if AXES >= 2:
        valid = valid & within(y, size[1], V1)
    if AXES == 3:
        valid = valid & within(z, size[0], V1)
    side_x = side(x, valid, size[2], V1)
    side_y = side_x
    side_z = side_x
    if AXES >= 2:
        side_y = side(y, valid, size[1], V1)
    if AXES == 3:
        side_z = side(z, valid, size[0], V1)
    return side_x, side_y, side_z


@triton.jit
def factor(pointer, strides, image, location, slot, live, COMPUTE: tl.constexpr):
    """``[P]`` mask of some locations under one tap of one offset group, 1 without a mask."""
    if pointer is None:
        return tl.full(location.shape, 1.0, COMPUTE)
    else:
        at = pointer + image * strides[0] + slot.to(location.dtype) * strides[1] + location * strides[2]
        return tl.load(at, mask=live, other=0.0).to(COMPUTE)  # [P]


@triton.jit
def located(
    offset_pointer, offset_steps, mask_pointer, mask_steps, image, location, slot, taps, live, size, out, pixels,
    geometry: tl.constexpr, AXES: tl.constexpr, V1: tl.constexpr, COMPUTE: tl.constexpr,
):  # fmt: skip
    """The corners of some locations under one tap: ``(at, flags, weights)``, the last two of ``2**AXES`` vectors each.

    ``at`` is the pixel of corner 0, counted over the batch; only where its flag says so a corner counts. Weights hold
    the modulation already.
    """
    x, y, z = positions(offset_pointer, offset_steps, image, location, slot, taps, live, out, geometry, AXES, COMPUTE)
    around = sides(x, y, z, live, size, AXES, V1)
    modulation = factor(mask_pointer, mask_steps, image, location, slot, live, COMPUTE)
    return corners(around, modulation, image, size, pixels, AXES)


@triton.jit
def corners(around, modulation, image, size, pixels, AXES: tl.constexpr):
    """What :func:`located` gives, from the sides ``(x, y, z)`` of positions."""
    index, inside, weight = corner(around[0], around[1], around[2], size[1], size[2], 0, AXES)
    flags = (inside,)
    weights = (weight * modulation,)
    for number in tl.static_range(1, 2**AXES):
        _, inside, weight = corner(around[0], around[1], around[2], size[1], size[2], number, AXES)
        flags = flags + (inside,)  # type: ignore[assignment]  # noqa: RUF005  Triton knows no stars
        weights = weights + (weight * modulation,)  # type: ignore[assignment]  # noqa: RUF005
    return image * pixels + index, flags, weights


@triton.jit
def corner_step(size, like, NUMBER: tl.constexpr):
    """Pixels from corner 0 to corner ``NUMBER``; 64 bits where addresses ``like`` these have them."""
    row = size[2].to(like.dtype)
    return NUMBER % 2 + (NUMBER // 2 % 2) * row + (NUMBER // 4) * (row * size[1])


@triton.jit
def _corner_part(
    pointer, at, flags, weights, size, channel, channel_inside, channels,
    NUMBER: tl.constexpr, EVEN: tl.constexpr, COMPUTE: tl.constexpr,
):  # fmt: skip
    """What corner ``NUMBER`` adds to a sample. Multiplied by ``channels`` here, an index keeps its divisibility."""
    start = pointer + corner_step(size, at, NUMBER) * channels
    values = read(start, at * channels, flags[NUMBER], channel, channel_inside, EVEN)
    return values.to(COMPUTE) * weights[NUMBER][:, None]


@triton.jit
def blended(
    pointer, at, flags, weights, size, channel, channel_inside, channels,
    AXES: tl.constexpr, EVEN: tl.constexpr, COMPUTE: tl.constexpr,
):  # fmt: skip
    """``[P, C]``: the interpolated and modulated channels-last input.

    ``at``, ``flags`` and ``weights`` as :func:`located` gave them.
    """
    total = _corner_part(pointer, at, flags, weights, size, channel, channel_inside, channels, 0, EVEN, COMPUTE)
    for number in tl.static_range(1, 2**AXES):
        total += _corner_part(
            pointer, at, flags, weights, size, channel, channel_inside, channels, number, EVEN, COMPUTE
        )
    return total


@triton.jit
def first_corner(around, image, channels, pixels, size, AXES: tl.constexpr, WIDE: tl.constexpr):
    """Element of channel 0 of the lowest corner of every location: the one address of a location."""
    index = around[0][0]
    if AXES >= 2:
        index += around[1][0] * size[2]
    if AXES == 3:
        index += around[2][0] * (size[1] * size[2])
    if WIDE:
        index = index.to(tl.int64)
    return (image * pixels + index) * channels


@triton.jit
def corner_from(
    pointer, first, around, size, channel, channel_inside, channels,
    NUMBER: tl.constexpr, AXES: tl.constexpr, EVEN: tl.constexpr,
):  # fmt: skip
    """The input at corner ``NUMBER`` as a tile in the input's own type, and its ``[P]`` weights.

    ``first`` is what :func:`first_corner` gives; every corner is a fixed step away from it.
    """
    _, inside, weight = corner(around[0], around[1], around[2], size[1], size[2], NUMBER, AXES)
    start = pointer + corner_step(size, first, NUMBER) * channels
    return read(start, first, inside, channel, channel_inside, EVEN), weight


@triton.jit
def map_start(number, image, location, channels, locations, LAST: tl.constexpr):
    """Elements before channel 0 of each location of a dense map ``[N, channels, *locations]``."""
    if LAST:
        return number * channels
    else:
        return image * channels * locations + location


@triton.jit
def write_map(pointer, start, live, channel, channel_inside, locations, tile, LAST: tl.constexpr):
    """Store a tile ``[P, C]`` into a dense map; transposed first where neighbouring locations lie together."""
    if LAST:
        at = start[:, None] + channel[None, :]
        tl.store(pointer + at, tile.to(pointer.dtype.element_ty), mask=live[:, None] & channel_inside[None, :])
    else:
        at = start[None, :] + (channel.to(start.dtype) * locations)[:, None]
        tile = tl.trans(tile.to(pointer.dtype.element_ty))
        tl.store(pointer + at, tile, mask=live[None, :] & channel_inside[:, None])


@triton.jit
def weight_start(output, channel, tap, taps, in_group):
    """Element of output ``output`` and channel ``channel`` in the packed weight ``[O, taps, C/g]``; they broadcast."""
    return (output * taps + tap) * in_group + channel % in_group


@triton.jit
def connected(output, channel, out_group, in_group):
    """Whether an output and a channel are of one group; they broadcast."""
    return output // out_group == channel // in_group
