"""Kernels of DCNv3 and DCNv4: a program takes ``P`` output locations and one group, and walks over its taps.

Shapes: map ``[N, H, W, C]``, ``C = G * DEPTH``; ``L`` output locations in all images together; ``TAPS`` samples per
location and group. Offsets (x, y) of a tap lie at ``location * offset_row + group * offset_group + 2 * k``, its mask at
``location * mask_row + group * mask_group + k``: DCNv3 and DCNv4 differ in these four numbers. Tiles are ``[P, D]``.

The launches switch fused multiply-add off: positions round as in the reference, so that whether one lies exactly on an
edge is decided alike.
"""

from __future__ import annotations

import triton
import triton.language as tl

from dcn.kernels.triton._arithmetic import number
from dcn.kernels.triton._sampling import corner, read, side, slopes, within

# No kernel of its own where one of these is 1 or a multiple of 16: maps have other sizes from image to image.
_ANY_NUMBER = ["locations", "height", "width", "rows", "columns", "origin_y", "origin_x", "scale_bits"]


@triton.jit
def _place(location, rows, columns, stride_y, stride_x, origin_y, origin_x, dtype: tl.constexpr):
    """Image of some locations and, per axis, the centre of their tap pattern: ``[P]`` each."""
    image = location // (rows * columns)
    inner = location % (rows * columns)
    y = (inner // columns) * stride_y + origin_y
    x = (inner % columns) * stride_x + origin_x
    return image, y.to(dtype), x.to(dtype)


@triton.jit
def _sides(offset, shifts, k, centre_y, centre_x, scale, wanted, height, width):
    """Both sides of tap ``k``, x first, and whether it is evaluated. ``offset``: ``[P]`` pointers to tap 0."""
    dtype: tl.constexpr = centre_y.dtype
    by_x = tl.load(offset + 2 * k, mask=wanted, other=0.0).to(dtype)
    by_y = tl.load(offset + 2 * k + 1, mask=wanted, other=0.0).to(dtype)
    y = centre_y + scale * (tl.load(shifts + 2 * k).to(dtype) + by_y)
    x = centre_x + scale * (tl.load(shifts + 2 * k + 1).to(dtype) + by_x)
    valid = wanted & within(y, height, False) & within(x, width, False)
    return side(x, valid, width, False), side(y, valid, height, False), valid


@triton.jit
def _normaliser(mask, wanted, dtype: tl.constexpr, TAPS: tl.constexpr, ROOM: tl.constexpr):
    """Largest logit and the sum of exponentials below it, ``[P]`` each, of the taps at the pointers ``mask [P]``."""
    tap = tl.arange(0, ROOM)
    here = wanted[:, None] & (tap < TAPS)[None, :]
    logits = tl.load(mask[:, None] + tap[None, :], mask=here, other=float("-inf")).to(dtype)
    # Rows beyond the last location hold nothing: their largest logit is 0 and the sum 1, for a division without NaN.
    most = tl.where(wanted, tl.max(logits, 1), 0.0)
    return most, tl.where(wanted, tl.sum(tl.where(here, tl.exp(logits - most[:, None]), 0.0), 1), 1.0)


@triton.jit(do_not_specialize=_ANY_NUMBER)
def forward(
    data, offset, mask, shifts, output,
    locations, height, width, channels, rows, columns, stride_y, stride_x, origin_y, origin_x,
    offset_row, offset_group, mask_row, mask_group, scale_bits,
    TAPS: tl.constexpr, ROOM: tl.constexpr, DEPTH: tl.constexpr, SOFTMAX: tl.constexpr,
    P: tl.constexpr, D: tl.constexpr,
):  # fmt: skip
    """Grid ``(L / P, G, DEPTH / D)``: ``output [L, C]``, the sum over taps of mask * sampled map."""
    dtype: tl.constexpr = tl.float64 if data.dtype.element_ty == tl.float64 else tl.float32
    location = tl.program_id(0).to(tl.int64) * P + tl.arange(0, P)
    group = tl.program_id(1).to(tl.int64)
    depth = tl.program_id(2) * D + tl.arange(0, D)
    wanted = location < locations
    image, y, x = _place(location, rows, columns, stride_y, stride_x, origin_y, origin_x, dtype)
    scale = number(scale_bits, dtype)
    offset += location * offset_row + group * offset_group
    mask += location * mask_row + group * mask_group
    if SOFTMAX:
        most, total_weight = _normaliser(mask, wanted, dtype, TAPS, ROOM)
    # The first pixel of the image, at the group's first channel.
    base = image * height * width * channels + group * DEPTH
    total = tl.zeros((P, D), dtype)
    for k in range(TAPS):
        side_x, side_y, _valid = _sides(offset, shifts, k, y, x, scale, wanted, height, width)
        factor = tl.load(mask + k, mask=wanted, other=0.0).to(dtype)
        if SOFTMAX:
            factor = tl.exp(factor - most) / total_weight
        for NUMBER in tl.static_range(4):
            index, inside, weight = corner(side_x, side_y, side_y, height, width, NUMBER, 2)
            start = base + index.to(tl.int64) * channels
            value = read(data, start, inside, depth, depth < DEPTH, DEPTH % D == 0).to(dtype)
            total += value * tl.where(inside, weight * factor, 0.0)[:, None]
    place = location[:, None] * channels + group * DEPTH + depth[None, :]
    tl.store(output + place, total.to(output.dtype.element_ty), mask=wanted[:, None] & (depth < DEPTH)[None, :])


@triton.jit(do_not_specialize=_ANY_NUMBER)
def backward(  # noqa: PLR0915
    grad, data, offset, mask, shifts, unit, grad_data, grad_offset, grad_mask,
    locations, height, width, channels, rows, columns, stride_y, stride_x, origin_y, origin_x,
    offset_row, offset_group, mask_row, mask_group, scale_bits,
    TAPS: tl.constexpr, ROOM: tl.constexpr, DEPTH: tl.constexpr, SOFTMAX: tl.constexpr,
    DATA: tl.constexpr, PLACES: tl.constexpr, P: tl.constexpr, D: tl.constexpr,
):  # fmt: skip
    """Grid ``(L / P, G)``: the gradients, from ``grad [L, C]``.

    ``DATA``: added to ``grad_data [N, H, W, C]`` (zeros); where that is int64, whole multiples of ``1 / unit``.
    ``PLACES``: written to ``grad_offset`` and ``grad_mask``, laid out as ``offset`` and ``mask``.
    """
    dtype: tl.constexpr = tl.float64 if data.dtype.element_ty == tl.float64 else tl.float32
    location = tl.program_id(0).to(tl.int64) * P + tl.arange(0, P)
    group = tl.program_id(1).to(tl.int64)
    wanted = location < locations
    image, y, x = _place(location, rows, columns, stride_y, stride_x, origin_y, origin_x, dtype)
    scale = number(scale_bits, dtype)
    by_pair = location * offset_row + group * offset_group
    by_tap = location * mask_row + group * mask_group
    tap = tl.arange(0, ROOM)
    if SOFTMAX:
        most, total_weight = _normaliser(mask + by_tap, wanted, dtype, TAPS, ROOM)
        gains = tl.zeros((P, ROOM), dtype)
    base = image * height * width * channels + group * DEPTH
    grad_base = location * channels + group * DEPTH
    for k in range(TAPS):
        side_x, side_y, valid = _sides(offset + by_pair, shifts, k, y, x, scale, wanted, height, width)
        factor = tl.load(mask + by_tap + k, mask=wanted, other=0.0).to(dtype)
        if SOFTMAX:
            factor = tl.exp(factor - most) / total_weight
        factor = tl.where(valid, factor, 0.0)
        along_x = tl.zeros((P,), dtype)
        along_y = tl.zeros((P,), dtype)
        gain = tl.zeros((P,), dtype)
        for NUMBER in tl.static_range(4):
            index, inside, weight = corner(side_x, side_y, side_y, height, width, NUMBER, 2)
            slope_x, slope_y, _z = slopes(side_x, side_y, side_y, NUMBER, 2)
            start = base + index.to(tl.int64) * channels
            product = tl.zeros((P,), dtype)
            for first in range(0, DEPTH, D):
                depth = first + tl.arange(0, D)
                gradient = read(grad, grad_base, wanted, depth, depth < DEPTH, DEPTH % D == 0).to(dtype)
                if PLACES:
                    value = read(data, start, inside, depth, depth < DEPTH, DEPTH % D == 0).to(dtype)
                    product += tl.sum(tl.where(inside[:, None], value * gradient, 0.0), 1)
                if DATA:
                    part = gradient * (weight * factor)[:, None]
                    if grad_data.dtype.element_ty == tl.int64:
                        part = tl.floor(part * tl.load(unit) + 0.5).to(tl.int64)
                    real = inside[:, None] & (depth < DEPTH)[None, :]
                    tl.atomic_add(grad_data + (start[:, None] + depth[None, :]), part, mask=real, sem="relaxed")
            gain += product * tl.where(inside, weight, 0.0)
            along_x += product * tl.where(inside, slope_x, 0.0)
            along_y += product * tl.where(inside, slope_y, 0.0)
        if PLACES:
            kind: tl.constexpr = grad_offset.dtype.element_ty
            tl.store(grad_offset + by_pair + 2 * k, (along_x * factor * scale).to(kind), mask=wanted)
            tl.store(grad_offset + by_pair + 2 * k + 1, (along_y * factor * scale).to(kind), mask=wanted)
            if SOFTMAX:
                gains = tl.where((tap == k)[None, :], gain[:, None], gains)
            else:
                tl.store(grad_mask + by_tap + k, gain.to(grad_mask.dtype.element_ty), mask=wanted)
    if PLACES and SOFTMAX:
        here = wanted[:, None] & (tap < TAPS)[None, :]
        logits = tl.load(mask + (by_tap[:, None] + tap[None, :]), mask=here, other=0.0).to(dtype)
        share = tl.where(here, tl.exp(logits - most[:, None]) / total_weight[:, None], 0.0)
        mean = tl.sum(share * gains, 1)
        result = (share * (gains - mean[:, None])).to(grad_mask.dtype.element_ty)
        tl.store(grad_mask + (by_tap[:, None] + tap[None, :]), result, mask=here)
