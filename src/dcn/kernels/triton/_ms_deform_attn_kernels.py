"""Kernels of multi-scale deformable attention. A program takes some queries of one head; tiles are ``[B, C]``.

``value [N, S, M, D]``, ``shapes [L, 2]`` and ``starts [L]`` (int64), ``locations [N, Q, M, L, P, 2]`` (x, y),
``weights [N, Q, M, L, P]``, ``output`` and ``grad [N, Q, M*D]``, all contiguous. ``B`` queries, ``C`` channels of the
``D``. The launches switch fused multiply-add off, so that a position is rounded as in the reference.
"""

from __future__ import annotations

import triton
import triton.language as tl

from dcn.kernels.triton._sampling import corner, read, side, slopes, within

# No kernel of its own where one of these is 1 or a multiple of 16: maps have other sizes from image to image.
_ANY_NUMBER = ["pixels", "queries", "levels", "points"]


@triton.jit
def _queries(queries, heads, B: tl.constexpr):
    """Image and head (int64) of a program, its queries ``[B]``, and whether each exists; heads are the fastest."""
    program = tl.program_id(0).to(tl.int64)
    blocks = tl.cdiv(queries, B)
    query = program // heads % blocks * B + tl.arange(0, B)
    return program // heads // blocks, program % heads, query, query < queries


@triton.jit
def _level(shapes, starts, level):
    """Height, width (int32) and first row of ``value`` of a level."""
    return (
        tl.load(shapes + 2 * level).to(tl.int32),
        tl.load(shapes + 2 * level + 1).to(tl.int32),
        tl.load(starts + level).to(tl.int64),
    )


@triton.jit
def _sample(locations, weights, at, live, height, width, dtype: tl.constexpr):
    """Sides of x and y, and the attention weight, of the samples ``at [B]``; the weight is 0 outside of the level."""
    x = tl.load(locations + 2 * at, mask=live, other=0.0).to(dtype) * width.to(dtype) - 0.5
    y = tl.load(locations + 2 * at + 1, mask=live, other=0.0).to(dtype) * height.to(dtype) - 0.5
    valid = live & within(x, width, False) & within(y, height, False)
    factor = tl.load(weights + at, mask=valid, other=0.0).to(dtype)
    return side(x, valid, width, False), side(y, valid, height, False), factor


@triton.jit
def _pixel(x, y, start, height, width, pixels, NUMBER: tl.constexpr):
    """Row of ``value`` (int64) of a corner, whether it counts, and its weight; rows that do not exist never count."""
    index, inside, weight = corner(x, y, y, height, width, NUMBER, 2)
    row = start + index
    return row, inside & (row >= 0) & (row < pixels), weight


@triton.jit(do_not_specialize=_ANY_NUMBER)
def forward(
    value, shapes, starts, locations, weights, output,
    pixels, queries, heads, channels, levels, points,
    SUMS: tl.constexpr, EVEN: tl.constexpr, B: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    """``output``: grid ``(N * Q/B * M, D/C)``. ``SUMS``: type of the sums; ``EVEN``: ``C`` divides ``D``."""
    image, head, query, live = _queries(queries, heads, B)
    channel = tl.program_id(1) * C + tl.arange(0, C)
    row = (image * queries + query) * heads + head  # [B]
    base = value + (image * pixels * heads + head) * channels
    total = tl.zeros((B, C), SUMS)
    for level in range(levels):
        height, width, start = _level(shapes, starts, level)
        for point in range(points):
            at = (row * levels + level) * points + point
            x, y, factor = _sample(locations, weights, at, live, height, width, SUMS)
            for number in tl.static_range(4):
                pixel, inside, weight = _pixel(x, y, start, height, width, pixels, number)
                data = read(base, pixel * heads * channels, inside, channel, channel < channels, EVEN)  # [B, C]
                total = tl.fma(data.to(SUMS), tl.broadcast_to((weight * factor)[:, None], (B, C)), total)
    real = live[:, None] & (channel < channels)[None, :]
    tl.store(output + row[:, None] * channels + channel[None, :], total.to(output.dtype.element_ty), mask=real)


@triton.jit(do_not_specialize=_ANY_NUMBER)
def backward(
    grad, value, shapes, starts, locations, weights, unit, grad_value, grad_locations, grad_weights,
    pixels, queries, heads, channels, levels, points,
    SUMS: tl.constexpr, VALUE: tl.constexpr, SAMPLES: tl.constexpr, EVEN: tl.constexpr,
    B: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    """Grid ``(N * Q/B * M,)``.

    ``VALUE``: parts are added to ``grad_value`` (zeros); where that is int64, whole multiples of ``1 / unit``.
    ``SAMPLES``: ``grad_locations`` and ``grad_weights`` are written.
    """
    image, head, query, live = _queries(queries, heads, B)
    row = (image * queries + query) * heads + head  # [B]
    first = (image * pixels * heads + head) * channels
    for level in range(levels):
        height, width, start = _level(shapes, starts, level)
        for point in range(points):
            at = (row * levels + level) * points + point
            x, y, factor = _sample(locations, weights, at, live, height, width, SUMS)
            by_weight = tl.zeros((B,), SUMS)
            by_x = tl.zeros((B,), SUMS)
            by_y = tl.zeros((B,), SUMS)
            for begin in range(0, channels, C):
                channel = begin + tl.arange(0, C)
                given = read(grad, row * channels, live, channel, channel < channels, EVEN).to(SUMS)  # [B, C]
                for number in tl.static_range(4):
                    pixel, inside, weight = _pixel(x, y, start, height, width, pixels, number)
                    lies = first + pixel * heads * channels
                    if SAMPLES:
                        data = read(value, lies, inside, channel, channel < channels, EVEN).to(SUMS)
                        gain = tl.where(inside, tl.sum(data * given, 1), 0.0)
                        slope_x, slope_y, _slope_z = slopes(x, y, y, number, 2)
                        by_weight += gain * weight
                        by_x += gain * slope_x
                        by_y += gain * slope_y
                    if VALUE:
                        part = given * (weight * factor)[:, None]
                        if grad_value.dtype.element_ty == tl.int64:
                            part = tl.floor(part * tl.load(unit) + 0.5).to(tl.int64)
                        real = inside[:, None] & (channel < channels)[None, :]
                        tl.atomic_add(grad_value + (lies[:, None] + channel[None, :]), part, mask=real, sem="relaxed")
            if SAMPLES:
                kind: tl.constexpr = grad_locations.dtype.element_ty
                tl.store(grad_locations + 2 * at, (by_x * factor * width).to(kind), mask=live)
                tl.store(grad_locations + 2 * at + 1, (by_y * factor * height).to(kind), mask=live)
                tl.store(grad_weights + at, by_weight.to(grad_weights.dtype.element_ty), mask=live)
