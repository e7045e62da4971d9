"""What all kernels of deformable convolution share: places, taps, sampled tiles, and tiles of weights and maps.

Places are counted over the whole batch, x fastest, so that a tile is full whatever the size of a map. ``size`` is
``(depth, height, width)`` of the input, ``out`` ``(height, width)`` of the output, 1 on axes that are not there;
``geometry`` is ``((kernel height, kernel width), stride, padding, dilation)``, the last three ``(z, y, x)``. It is a
constant: taps are divided by constants, and a launch has eleven numbers less to look at.
"""

from __future__ import annotations

import triton
import triton.language as tl

from dcn.kernels.triton._sampling import along, corner, read, side, within

# Numbers that change with the size of an image: no variant of a kernel of their own, so no compilation for a new size.
UNSPECIALISED = [
    *("count", "places", "pixels", "taps", "slots", "share", "output_blocks"),
    *("depth", "height", "width", "out_height", "out_width"),
    *("offset_image", "offset_channel", "offset_place", "mask_image", "mask_channel", "mask_place"),
]


@triton.jit
def numbers(block, BLOCK: tl.constexpr, WIDE: tl.constexpr):
    """``[BLOCK]`` numbers of a block's places; 64-bit where 32 bits might not address a tensor."""
    if WIDE:
        return block.to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    else:
        return block * BLOCK + tl.arange(0, BLOCK)


@triton.jit
def coordinate(place, tap, shift, AXIS: tl.constexpr, out, geometry: tl.constexpr, COMPUTE: tl.constexpr):
    """The sampled coordinate on axis 0 (x), 1 (y) or 2 (z): place * stride - padding + tap * dilation + ``shift``."""
    if AXIS == 0:
        at = place % out[1]
        step = tap % geometry[0][1]
    elif AXIS == 1:
        at = (place // out[1]) % out[0]
        step = (tap // geometry[0][1]) % geometry[0][0]
    else:
        at = place // (out[1] * out[0])
        step = tap // (geometry[0][1] * geometry[0][0])
    base = at.to(tl.int32) * geometry[1][2 - AXIS] - geometry[2][2 - AXIS] + step * geometry[3][2 - AXIS]
    return base.to(COMPUTE) + shift.to(COMPUTE)


@triton.jit
def positions(
    pointer, strides, image, place, slot, taps, live, out, geometry: tl.constexpr,
    AXES: tl.constexpr, COMPUTE: tl.constexpr,
):  # fmt: skip
    """Coordinates ``(x, y, z)`` of some places under one tap of one offset group; absent axes repeat x.

    Args:
        pointer: offsets, and ``strides``, their elements from image to image, channel to channel, place to place.
        image: ``[P]``, the image of each place.
        place: ``[P]``, the place within it.
        slot: offset group * ``taps`` + tap.
        taps: taps of the kernel.
        live: ``[P]``, whether to read the offset at all.
        out: size of the output.
        geometry: of the convolution.
        AXES: number of spatial axes.
        COMPUTE: type of coordinates.
    """
    at = first_shift(pointer, strides, image, place, slot, AXES)
    shift_x = tl.load(at + (AXES - 1) * strides[1], mask=live, other=0.0)
    shift_y = shift_x
    shift_z = shift_x
    if AXES >= 2:
        shift_y = tl.load(at + (AXES - 2) * strides[1], mask=live, other=0.0)
    if AXES == 3:
        shift_z = tl.load(at, mask=live, other=0.0)
    return shifted(place, slot % taps, (shift_x, shift_y, shift_z), out, geometry, AXES, COMPUTE)


@triton.jit
def first_shift(pointer, strides, image, place, slot, AXES: tl.constexpr):
    """Where the offset of some places along their first axis is; those of the others are ``strides[1]`` apart."""
    return pointer + image * strides[0] + slot * AXES * strides[1] + place * strides[2]


@triton.jit
def shifted(place, tap, shift, out, geometry: tl.constexpr, AXES: tl.constexpr, COMPUTE: tl.constexpr):
    """Coordinates ``(x, y, z)`` of some places whose offsets are ``shift``, ``(x, y, z)`` too."""
    x = coordinate(place, tap, shift[0], 0, out, geometry, COMPUTE)
    y = x
    z = x
    if AXES >= 2:
        y = coordinate(place, tap, shift[1], 1, out, geometry, COMPUTE)
    if AXES == 3:
        z = coordinate(place, tap, shift[2], 2, out, geometry, COMPUTE)
    return x, y, z


@triton.jit
def sides(x, y, z, live, size, AXES: tl.constexpr, V1: tl.constexpr):
    """Sides ``(x, y, z)`` of positions; places that are not ``live`` or not within the map touch nothing."""
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
def factor(pointer, strides, image, place, slot, live, COMPUTE: tl.constexpr):
    """``[P]`` mask of some places under one tap of one offset group, 1 without a mask."""
    if pointer is None:
        return tl.full(place.shape, 1.0, COMPUTE)
    else:
        at = pointer + image * strides[0] + slot * strides[1] + place * strides[2]
        return tl.load(at, mask=live, other=0.0).to(COMPUTE)


@triton.jit
def corner_values(
    pointer, base, around, size, channel, channel_inside, channels, pixels,
    NUMBER: tl.constexpr, AXES: tl.constexpr, LAST: tl.constexpr, EVEN: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """The input at corner ``NUMBER`` of every place as a tile in the input's own type, and ``[P]`` weights."""
    index, inside, weight = corner(around[0], around[1], around[2], size[1], size[2], NUMBER, AXES)
    if WIDE:
        index = index.to(tl.int64)
    if LAST:
        values = read(pointer, base + index * channels, inside, channel, channel_inside, 1, LAST, EVEN)
    else:
        values = read(pointer, base + index, inside, channel, channel_inside, pixels, LAST, EVEN)
    return values, weight


@triton.jit
def sampled(
    pointer, base, around, modulation, size, channel, channel_inside, channels, pixels,
    AXES: tl.constexpr, LAST: tl.constexpr, EVEN: tl.constexpr, WIDE: tl.constexpr, COMPUTE: tl.constexpr,
):  # fmt: skip
    """Interpolated and modulated input: ``[P, C]`` where channels lie together (LAST), else ``[C, P]``.

    Args:
        pointer: the input.
        base: ``[P]`` elements before the image of each place.
        around: sides ``(x, y, z)`` of the positions.
        modulation: ``[P]`` factors.
        size: of the input.
        channel: ``[C]`` channels.
        channel_inside: ``[C]`` whether they count.
        channels: channels of the input.
        pixels: places of an image.
        AXES: number of spatial axes.
        LAST: see above.
        EVEN: all channels count.
        WIDE: 64-bit addresses.
        COMPUTE: type of the sum.
    """
    values, weight = corner_values(
        pointer, base, around, size, channel, channel_inside, channels, pixels, 0, AXES, LAST, EVEN, WIDE
    )
    total = values.to(COMPUTE) * along(weight * modulation, LAST)
    for number in tl.static_range(1, 2**AXES):
        values, weight = corner_values(
            pointer, base, around, size, channel, channel_inside, channels, pixels, number, AXES, LAST, EVEN, WIDE
        )
        total += values.to(COMPUTE) * along(weight * modulation, LAST)
    return total


@triton.jit
def map_start(number, image, place, channels, places, LAST: tl.constexpr):
    """Elements before channel 0 of each place of a dense map ``[N, channels, *places]``."""
    if LAST:
        return number * channels
    else:
        return image * (channels * places) + place


@triton.jit
def read_map(
    pointer, start, live, channel, channel_inside, places, LAST: tl.constexpr, EVEN: tl.constexpr
):  # fmt: skip
    """A tile ``[P, C]`` of a dense map, whatever its memory format."""
    if LAST:
        return read(pointer, start, live, channel, channel_inside, 1, LAST, EVEN)
    else:
        return tl.trans(read(pointer, start, live, channel, channel_inside, places, LAST, EVEN))


@triton.jit
def write_map(pointer, start, live, channel, channel_inside, places, tile, LAST: tl.constexpr):
    """Store a tile ``[P, C]`` into a dense map; transposed first where neighbouring places lie together."""
    if LAST:
        at = start[:, None] + channel[None, :]
        tl.store(pointer + at, tile.to(pointer.dtype.element_ty), mask=live[:, None] & channel_inside[None, :])
    else:
        at = start[None, :] + (channel * places)[:, None]
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
