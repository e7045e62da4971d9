"""DCNv3 and DCNv4: samples by ``GridSample``, weighted and summed over the taps."""

from __future__ import annotations

from collections.abc import Sequence

from onnxscript import opset20 as op

from dcn.export.operators._values import Value, arange, constant, ints, join, real, reshape, size
from dcn.kernels.dcnv3_geometry import Geometry


def translate(
    input: Value,
    offset: Value,
    mask: Value,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    offset_scale: float,
    remove_center: bool,
    softmax: bool,
    backend: str | None = None,
) -> Value:
    """``dcn::dcnv3``; arguments as there: ``input [N, H, W, C]``, ``offset [..., G*K*2]``, ``mask [..., G*K]``."""
    geometry = _geometry(kernel_size, stride, padding, dilation, groups, offset_scale, remove_center, softmax)
    sizes = [size(offset, axis) for axis in range(3)]
    offset = reshape(offset, *sizes, groups, geometry.taps, 2)
    return _sampled(input, offset, reshape(mask, *sizes, groups, geometry.taps), geometry)


def translate_v4(
    input: Value,
    offset_mask: Value,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    offset_scale: float,
    remove_center: bool,
    softmax: bool,
    backend: str | None = None,
) -> Value:
    """``dcn::dcnv4``; arguments as there: ``offset_mask [N, Ho, Wo, R]``, per group ``2*K`` offsets and ``K`` masks."""
    geometry = _geometry(kernel_size, stride, padding, dilation, groups, offset_scale, remove_center, softmax)
    taps = geometry.taps
    sizes = [size(offset_mask, axis) for axis in range(3)]
    used = op.Slice(offset_mask, ints(0), ints(3 * groups * taps), ints(3))
    parts = reshape(used, *sizes, groups, 3 * taps)
    offset, mask = (op.Slice(parts, ints(a * taps), ints(b * taps), ints(4)) for a, b in ((0, 2), (2, 3)))
    return _sampled(input, reshape(offset, *sizes, groups, taps, 2), mask, geometry)


def _geometry(
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    offset_scale: float,
    remove_center: bool,
    softmax: bool,
) -> Geometry:
    kernel, steps, pads, apart = ((pair[0], pair[1]) for pair in (kernel_size, stride, padding, dilation))
    return Geometry(kernel, steps, pads, apart, groups, offset_scale, remove_center, softmax)


def _sampled(input: Value, offset: Value, mask: Value, geometry: Geometry) -> Value:
    """``[N, Ho, Wo, C]`` from offsets ``[N, Ho, Wo, G, K, 2]`` (x, y) and masks ``[N, Ho, Wo, G, K]``."""
    groups, taps, channels = geometry.groups, geometry.taps, int(input.shape[3])
    images, out = size(offset, 0), (size(offset, 1), size(offset, 2))
    extents = [real(size(input, 1 + axis)) for axis in range(2)]
    grid = []
    for axis in (0, 1):
        shift = constant([step[axis] for step in geometry.shifts()], taps)
        move = op.Gather(real(offset), op.Constant(value_int=1 - axis), axis=5)
        pattern = op.Mul(op.Add(move, shift), float(geometry.offset_scale))
        centre = op.Add(op.Mul(arange(out[axis]), float(geometry.stride[axis])), float(geometry.origin(axis)))
        place = op.Add(reshape(centre, *((1, -1, 1, 1, 1) if axis == 0 else (1, 1, -1, 1, 1))), pattern)
        # Held within two pixels of the map, where all is 0 already: an infinite coordinate has no cell.
        place = op.Min(op.Max(place, -2.0), op.Add(extents[axis], 1.0))
        grid.append(op.Unsqueeze(op.Sub(op.Div(op.Add(op.Mul(place, 2.0), 1.0), extents[axis]), 1.0), ints(-1)))
    pairs = op.Transpose(op.Concat(*reversed(grid), axis=-1), perm=[0, 3, 1, 2, 4, 5])  # [N, G, Ho, Wo, K, 2]
    both_axes, locations = op.Mul(images, groups), op.Mul(*out)
    maps = op.Transpose(input, perm=[0, 3, 1, 2])
    maps = reshape(maps, both_axes, channels // groups, size(input, 1), size(input, 2))
    samples = op.GridSample(
        maps,
        op.CastLike(op.Reshape(pairs, join(both_axes, locations, taps, 2)), input),
        align_corners=0,
        mode="linear",
        padding_mode="zeros",
    )
    weights = op.Softmax(mask, axis=-1) if geometry.softmax else mask
    weights = op.CastLike(op.Transpose(weights, perm=[0, 3, 1, 2, 4]), input)
    weights = op.Reshape(weights, join(both_axes, 1, locations, taps))
    total = op.ReduceSum(op.Mul(samples, weights), ints(-1), keepdims=0)
    return op.Transpose(reshape(total, images, channels, *out), perm=[0, 2, 3, 1])
