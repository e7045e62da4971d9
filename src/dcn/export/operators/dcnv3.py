"""DCNv3 and DCNv4 as ``GridSample``, a product with the masks and a sum over the taps.

``GridSample`` pads with zeros as the operators do. Channels come first there, and the groups become images. A position
that is NaN or infinite is put outside the map before, because a runtime may turn it into any pixel.
"""

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
    """``dcn::dcnv3``; arguments as there.

    Args:
        input: ``[N, H, W, C]``.
        offset: ``[N, Ho, Wo, G*K*2]``.
        mask: ``[N, Ho, Wo, G*K]``.
        kernel_size: per axis.
        stride: per axis.
        padding: per axis.
        dilation: per axis.
        groups: ``G``.
        offset_scale: of the tap pattern.
        remove_center: whether the centre tap is left out.
        softmax: whether the masks are logits.
        backend: has no meaning here.
    """
    pairs = (kernel_size, stride, padding, dilation)
    geometry = _geometry(pairs, groups, offset_scale, remove_center, softmax)
    location = [size(offset, axis) for axis in range(3)]
    offsets = reshape(offset, *location, groups, geometry.taps, 2)
    return _sampled(input, offsets, reshape(mask, *location, groups, geometry.taps), geometry)


def translate_fused(
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
    """``dcn::dcnv4``; arguments as for :func:`translate`.

    Args:
        input: ``[N, H, W, C]``.
        offset_mask: ``[N, Ho, Wo, R]`` with ``R >= 3*G*K``.
        kernel_size: per axis.
        stride: per axis.
        padding: per axis.
        dilation: per axis.
        groups: ``G``.
        offset_scale: of the tap pattern.
        remove_center: whether the centre tap is left out.
        softmax: whether the masks are logits.
        backend: has no meaning here.
    """
    pairs = (kernel_size, stride, padding, dilation)
    geometry = _geometry(pairs, groups, offset_scale, remove_center, softmax)
    taps, location = geometry.taps, [size(offset_mask, axis) for axis in range(3)]
    owned = op.Slice(offset_mask, ints(0), ints(3 * groups * taps), ints(3))
    grouped = reshape(owned, *location, groups, 3 * taps)
    offsets = reshape(op.Slice(grouped, ints(0), ints(2 * taps), ints(4)), *location, groups, taps, 2)
    return _sampled(input, offsets, op.Slice(grouped, ints(2 * taps), ints(3 * taps), ints(4)), geometry)


def _geometry(
    pairs: Sequence[Sequence[int]], groups: int, offset_scale: float, remove_center: bool, softmax: bool
) -> Geometry:
    kernel, stride, padding, dilation = ((int(first), int(second)) for first, second in pairs)
    return Geometry(kernel, stride, padding, dilation, groups, offset_scale, remove_center, softmax)


def _grid(input: Value, offsets: Value, geometry: Geometry, axis: int) -> Value:
    """The coordinate of every sample along one axis, ``[N, Ho, Wo, G, K, 1]``, from -1 to 1 over the map."""
    moves = real(op.Gather(offsets, op.Constant(value_int=1 - axis), axis=5))
    shifts = constant([shift[axis] for shift in geometry.shifts()], geometry.taps)
    pattern = op.Mul(op.Add(moves, shifts), float(geometry.offset_scale))
    centre = op.Add(op.Mul(arange(size(offsets, 1 + axis)), float(geometry.stride[axis])), float(geometry.origin(axis)))
    position = op.Add(pattern, reshape(centre, -1, *([1, 1, 1] if axis == 0 else [1, 1])))
    extent = real(size(input, 1 + axis))
    position = op.Where(op.IsNaN(position), -2.0, op.Min(op.Max(position, -2.0), op.Add(extent, 1.0)))
    # A coordinate c of a map of s pixels is (2c + 1) / s - 1 there.
    return op.Unsqueeze(op.Sub(op.Div(op.Add(op.Mul(position, 2.0), 1.0), extent), 1.0), ints(-1))


def _sampled(input: Value, offsets: Value, masks: Value, geometry: Geometry) -> Value:
    """``[N, Ho, Wo, C]`` from offsets ``[N, Ho, Wo, G, K, 2]`` and masks ``[N, Ho, Wo, G, K]``."""
    groups, taps, channels = geometry.groups, geometry.taps, int(input.shape[3])
    batch, rows, columns = (size(offsets, axis) for axis in range(3))
    images = op.Mul(batch, groups)
    maps = op.Transpose(input, perm=[0, 3, 1, 2])
    maps = reshape(maps, images, channels // groups, size(input, 1), size(input, 2))
    grid = op.Concat(_grid(input, offsets, geometry, 1), _grid(input, offsets, geometry, 0), axis=-1)
    grid = op.Transpose(grid, perm=[0, 3, 1, 2, 4, 5])
    grid = op.Reshape(grid, join(images, rows, op.Mul(columns, taps), 2))
    samples = op.GridSample(
        maps, op.CastLike(grid, input), align_corners=0, mode="linear", padding_mode="zeros"
    )  # [N*G, D, Ho, Wo*K]
    weights = op.Softmax(real(masks), axis=-1) if geometry.softmax else masks
    weights = op.Transpose(op.CastLike(weights, input), perm=[0, 3, 1, 2, 4])
    weighted = op.Mul(samples, op.Reshape(weights, join(images, 1, rows, op.Mul(columns, taps))))
    total = op.ReduceSum(reshape(weighted, images, channels // groups, rows, columns, taps), ints(-1), keepdims=0)
    return op.Transpose(reshape(total, batch, channels, rows, columns), perm=[0, 2, 3, 1])
