"""The one multilinear sampler of all kernels: from real positions to grid points, weights, slopes and values.

The rules are those of ``kernels/reference/_sampling.py``. Positions are compared as floats before they become integers,
because the cast of NaN or 1e30 is undefined. A position is a vector, one entry per sampled location; a side is what one
axis contributes to it:

    ``(low, fraction, slope, low_inside, high_inside)``

with ``low`` the grid point at or below it (int32), ``fraction`` the way to the next one, ``slope`` the derivative of
``fraction`` by the position (1, or 0 on the flat end of rule v1), and whether each of both grid points counts.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def within(position, size, V1: tl.constexpr):
    """Whether a tap is evaluated on this axis: rule v1 from 0 on, v2 beyond -1; below ``size``; false for NaN."""
    above = position >= 0 if V1 else position > -1
    return above & (position < size)


@triton.jit
def side(position, valid, size, V1: tl.constexpr):
    """The side of one axis. ``valid``: :func:`within` on every axis; elsewhere neither grid point counts.

    ``V1`` keeps the value constant from the last grid point on. For positions that were clamped to ``[0, size - 1]``
    both rules are the same, but that the slope at the last grid point is 0 under v1.
    """
    safe = tl.where(valid, position, 0.0)
    floor = tl.floor(safe)
    low = floor.to(tl.int32)
    fraction = safe - floor
    slope = fraction * 0 + 1
    if V1:
        flat = low >= size - 1
        fraction = tl.where(flat, 0.0, fraction)
        slope = tl.where(flat, 0.0, slope)
    return low, fraction, slope, valid & (low >= 0), valid & (low + 1 < size)


@triton.jit
def end(sides, HIGH: tl.constexpr):
    """One of the two grid points of a side: ``(index, inside, weight, slope of the weight)``."""
    low, fraction, slope, low_inside, high_inside = sides
    if HIGH:
        return low + 1, high_inside, fraction, slope
    else:
        return low, low_inside, 1 - fraction, -slope


@triton.jit
def corner(x, y, z, height, width, NUMBER: tl.constexpr, AXES: tl.constexpr):
    """Grid point ``NUMBER`` of the ``2**AXES`` around a position: ``(index, inside, weight)``.

    Bit 0 of ``NUMBER`` is the x axis, bit 1 y, bit 2 z; set: the upper one. ``index`` counts within the map, x fastest
    (int32), and is valid only where ``inside``. Sides of axes that are not there are not looked at.
    """
    index, inside, weight, _ = end(x, NUMBER % 2 == 1)
    if AXES >= 2:
        at, inside_y, weight_y, _ = end(y, (NUMBER // 2) % 2 == 1)
        if AXES == 3:
            at_z, inside_z, weight_z, _ = end(z, NUMBER // 4 == 1)
            at += at_z * height
            inside_y = inside_y & inside_z
            weight_y *= weight_z
        index += at * width
        inside = inside & inside_y
        weight *= weight_y
    return index, inside, weight


@triton.jit
def slopes(x, y, z, NUMBER: tl.constexpr, AXES: tl.constexpr):
    """The derivatives of the weight of corner ``NUMBER`` by the positions x, y and z (0 for an axis not there)."""
    _, _, weight_x, slope_x = end(x, NUMBER % 2 == 1)
    by_y = slope_x * 0
    by_z = slope_x * 0
    by_x = slope_x
    if AXES >= 2:
        _, _, weight_y, slope_y = end(y, (NUMBER // 2) % 2 == 1)
        by_x = slope_x * weight_y
        by_y = slope_y * weight_x
        if AXES == 3:
            _, _, weight_z, slope_z = end(z, NUMBER // 4 == 1)
            by_z = slope_z * weight_x * weight_y
            by_x *= weight_z
            by_y *= weight_z
    return by_x, by_y, by_z


@triton.jit
def read(pointer, start, inside, channel, channel_inside, EVEN: tl.constexpr):
    """``[P, C]``: the channels of some locations of a channels-last tensor; 0 where one of both is not ``inside``.

    Args:
        pointer: the tensor.
        start: ``[P]`` elements from ``pointer`` to channel 0 of each location.
        inside: ``[P]`` whether the location counts.
        channel: ``[C]`` channels to read, neighbours, so that rows are read as vectors.
        channel_inside: ``[C]`` whether the channel counts.
        EVEN: every channel counts, ``channel_inside`` is not looked at.
    """
    wanted = inside[:, None]
    if not EVEN:
        wanted = wanted & channel_inside[None, :]
    return tl.load(pointer + (start[:, None] + channel[None, :]), mask=wanted, other=0.0)  # [P, C]


@triton.jit
def multiply(a, b, total, PRECISION: tl.constexpr):
    """``total + a @ b`` on the matrix units, in the type of ``total``; ``PRECISION`` as ``_runtime.precision`` says."""
    if PRECISION == "interpreter":  # it keeps bfloat16 as integers and would multiply those
        return total + tl.dot(a.to(total.dtype), b.to(total.dtype), out_dtype=total.dtype)
    else:
        return tl.dot(a, b, total, input_precision=PRECISION, out_dtype=total.dtype)
