"""Multi-scale deformable attention: four gathers of corners, each summed over levels and points by a matrix product."""

from __future__ import annotations

from onnxscript import opset20 as op

from dcn.export.operators._values import Value, arange, both, column, real, reshape, size, whole


def translate(
    value: Value,
    spatial_shapes: Value,
    level_start_index: Value,
    sampling_locations: Value,
    attention_weights: Value,
    backend: str | None = None,
) -> Value:
    """``dcn::ms_deform_attn``; arguments as there. The sizes of the levels may be data.

    Args:
        value: ``[N, S, M, D]``.
        spatial_shapes: ``[L, 2]``, height and width.
        level_start_index: ``[L]``.
        sampling_locations: ``[N, Q, M, L, P, 2]``, x and y.
        attention_weights: ``[N, Q, M, L, P]``.
        backend: has no meaning here.
    """
    heads, channels = int(value.shape[2]), int(value.shape[3])
    levels, points = int(attention_weights.shape[3]), int(attention_weights.shape[4])
    images, pixels, queries = size(value, 0), size(value, 1), size(attention_weights, 1)
    extents = [reshape(whole(column(spatial_shapes, axis)), levels, 1) for axis in range(2)]
    starts = reshape(whole(level_start_index), levels, 1)
    table = reshape(op.Transpose(value, perm=[0, 2, 1, 3]), -1, channels)
    maps = op.Mul(reshape(whole(arange(op.Mul(images, heads))), -1, heads, 1, 1, 1), pixels)
    weights = op.Transpose(attention_weights, perm=[0, 2, 1, 3, 4])
    sides = []
    for axis in range(2):
        share = op.Gather(real(sampling_locations), op.Constant(value_int=1 - axis), axis=5)
        share = op.Transpose(share, perm=[0, 2, 1, 3, 4])  # [N, M, Q, L, P]
        extent = real(extents[axis])
        place = op.Sub(op.Mul(share, extent), 0.5)
        # Held within two pixels of the map, where all is 0 already: an infinite coordinate has no cell.
        place = op.Min(op.Max(place, -2.0), op.Add(extent, 1.0))
        low = op.Floor(place)
        part = op.Sub(place, low)
        sides.append(((low, op.Sub(1.0, part)), (op.Add(low, 1.0), part)))
    total = None
    for rows, down in sides[0]:
        for columns, across in sides[1]:
            inside = both(
                *(op.GreaterOrEqual(place, 0.0) for place in (rows, columns)),
                *(op.Less(place, real(extent)) for place, extent in zip((rows, columns), extents, strict=True)),
            )
            pixel = op.Add(op.Add(op.Mul(whole(rows), extents[1]), whole(columns)), starts)
            index = op.Where(inside, op.Add(maps, pixel), op.Constant(value_int=0))
            weight = op.Mul(
                op.CastLike(op.Where(inside, op.Mul(down, across), 0.0), value), op.CastLike(weights, value)
            )
            row = reshape(weight, images, heads, queries, 1, levels * points)
            cells = op.Gather(table, reshape(index, images, heads, queries, levels * points), axis=0)
            part = op.MatMul(row, cells)
            total = part if total is None else op.Add(total, part)
    output = op.Transpose(reshape(total, images, heads, queries, channels), perm=[0, 2, 1, 3])
    return reshape(output, images, queries, heads * channels)
