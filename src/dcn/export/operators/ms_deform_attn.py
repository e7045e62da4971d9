"""Multi-scale deformable attention as one ``GridSample`` per level.

Only the numbers of heads, channels, levels and points are fixed in the graph; batch, queries, and the sizes of the
levels are read from the tensors when the model runs.
"""

from __future__ import annotations

from onnxscript import opset20 as op

from dcn.export.operators._values import Value, both, ints, join, real, reshape, size, whole

_OUTSIDE = -9.0
"""A coordinate that lies outside of every map, for samples that do not count: NaN would end up anywhere."""


def translate(
    value: Value,
    spatial_shapes: Value,
    level_start_index: Value,
    sampling_locations: Value,
    attention_weights: Value,
    backend: str | None = None,
) -> Value:
    """``dcn::ms_deform_attn``; arguments as there.

    Args:
        value: ``[N, S, M, D]``; half precision is sampled in float32.
        spatial_shapes: ``[L, 2]``.
        level_start_index: ``[L]``.
        sampling_locations: ``[N, Q, M, L, P, 2]``.
        attention_weights: ``[N, Q, M, L, P]``.
        backend: not used.

    Returns:
        ``[N, Q, M*D]``.
    """
    heads, channels = (int(value.shape[axis]) for axis in (2, 3))
    levels, points = (int(attention_weights.shape[axis]) for axis in (3, 4))
    batch, queries = size(value, 0), size(attention_weights, 1)
    data, weights = real(value), real(attention_weights)
    shapes, starts = whole(spatial_shapes), whole(level_start_index)
    images = op.Mul(batch, ints(heads))
    total = op.Expand(0.0, join(images, channels, queries))
    for level in range(levels):
        height, width = (reshape(_entry(_entry(shapes, level, 0), k, 1), 1) for k in (0, 1))
        start = _entry(starts, level, 0)
        plane = op.Slice(data, start, op.Add(start, op.Mul(height, width)), ints(1))
        plane = reshape(op.Transpose(plane, perm=[0, 2, 3, 1]), images, channels, height, width)
        locations = op.Squeeze(_entry(real(sampling_locations), level, 3), ints(3))  # [N, Q, M, P, 2]
        grid, valid = _grid(locations, real(op.Concat(width, height, axis=0)))
        grid = reshape(op.Transpose(grid, perm=[0, 2, 1, 3, 4]), images, queries, points, 2)
        samples = op.GridSample(plane, grid, align_corners=0, mode="linear", padding_mode="zeros")  # [N*M, D, Q, P]
        factor = op.Where(valid, op.Squeeze(_entry(weights, level, 3), ints(3)), 0.0)  # [N, Q, M, P]
        factor = reshape(op.Transpose(factor, perm=[0, 2, 1, 3]), images, 1, queries, points)
        total = op.Add(total, op.ReduceSum(op.Mul(samples, factor), ints(3), keepdims=0))
    output = reshape(total, batch, heads * channels, queries)
    return op.CastLike(op.Transpose(output, perm=[0, 2, 1]), value)


def _entry(tensor: Value, index: int, axis: int) -> Value:
    """One entry of an axis, which stays."""
    return op.Slice(tensor, ints(index), ints(index + 1), ints(axis))


def _grid(locations: Value, extent: Value) -> tuple[Value, Value]:
    """Locations from -1 to 1 as ``GridSample`` wants them, and ``[N, Q, M, P]``: which samples count at all."""
    position = op.Sub(op.Mul(locations, extent), 0.5)
    inside = both(op.Greater(position, -1.0), op.Less(position, extent))  # [N, Q, M, P, 2], false for NaN
    valid = op.Greater(op.ReduceMin(real(inside), ints(4), keepdims=1), 0.5)
    return op.Where(valid, op.Sub(op.Mul(locations, 2.0), 1.0), _OUTSIDE), op.Squeeze(valid, ints(4))
