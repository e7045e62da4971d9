"""Suppression as ONNX's ``NonMaxSuppression``.

Scores are replaced by ranks first, so that every score takes part, whatever its sign, and equal ones stay in the order
given; what does not take part gets 0, below the score threshold. One more box that never stays keeps sizes above 0.
"""

from __future__ import annotations

import numpy as np
from onnxscript import opset20 as op

from dcn.export.operators._values import Value, arange, constant, ints, join, real, reshape, size, whole


def translate(
    boxes: Value,
    scores: Value,
    labels: Value | None,
    iou_threshold: float,
    plus_one: bool,
    suppress_equal: bool,
    max_output: int,
    backend: str | None = None,
) -> Value:
    """``dcn::nms``; arguments as there.

    Args:
        boxes: ``[N, 4]``.
        scores: ``[N]``.
        labels: ``[N]``.
        iou_threshold: above which a box falls.
        plus_one: widths are ``x2 - x1 + 1``.
        suppress_equal: an overlap equal to the threshold suppresses too.
        max_output: number of boxes, -1 for all.
        backend: has no meaning here.
    """
    one = [None if t is None else op.Unsqueeze(t, ints(0)) for t in (boxes, scores, labels)]
    kept, order = _suppress(one[0], one[1], one[2], None, (iou_threshold, plus_one, suppress_equal))
    order = op.Squeeze(order, ints(0))
    result = op.Compress(order, op.Gather(op.Squeeze(kept, ints(0)), order, axis=0), axis=0)
    return result if max_output < 0 else op.Slice(result, ints(0), ints(max_output), ints(0))


def translate_keep(
    boxes: Value,
    scores: Value,
    labels: Value | None,
    valid: Value | None,
    iou_threshold: float,
    plus_one: bool,
    suppress_equal: bool,
    backend: str | None = None,
) -> Value:
    """``dcn::nms_keep``; arguments as for :func:`translate`, with any leading axes, and ``valid [..., N]`` bool."""
    axes = len(scores.shape) - 1
    count = size(scores, axes)
    leading = op.ReduceProd(op.Shape(scores, start=0, end=axes), keepdims=1) if axes else ints(1)
    sets = [None if t is None else op.Reshape(t, join(leading, count), allowzero=1) for t in (scores, labels, valid)]
    flat_boxes = op.Reshape(boxes, join(leading, count, 4), allowzero=1)
    kept, _ = _suppress(flat_boxes, sets[0], sets[1], sets[2], (iou_threshold, plus_one, suppress_equal))
    return op.Reshape(kept, op.Shape(scores), allowzero=1)


def _threshold(iou_threshold: float, suppress_equal: bool) -> float:
    limit = np.float32(iou_threshold)
    if suppress_equal:
        limit = np.nextafter(limit, np.float32(-1))
    if limit < 0:
        raise ValueError(f"iou_threshold: expected one that ONNX can hold, 0 to 1, got {iou_threshold}")
    return min(float(limit), 1.0)


def _suppress(
    boxes: Value, scores: Value, labels: Value | None, valid: Value | None, rule: tuple[float, bool, bool]
) -> tuple[Value, Value]:
    """Sets side by side: whether each box stays ``[B, N]``, and the boxes from best to worst ``[B, N]`` int64."""
    iou_threshold, plus_one, suppress_equal = rule
    sets, count = size(scores, 0), size(scores, 1)
    _, order = op.TopK(real(scores), count, axis=1, largest=1, sorted=1)
    rank = op.Expand(op.Unsqueeze(op.Sub(real(count), arange(count)), ints(0)), op.Shape(scores))
    rank = op.ScatterElements(op.Mul(rank, 0.0), order, rank, axis=1)
    if valid is not None:
        rank = op.Where(valid, rank, 0.0)
    table = op.Unsqueeze(_padded(rank), ints(1))
    if labels is not None:
        names, _, inverse, _ = op.Unique(reshape(_padded(whole(labels)), -1), sorted=1)
        classes = reshape(inverse, sets, 1, -1)
        index = reshape(whole(arange(size(names, 0))), 1, -1, 1)
        table = op.Where(op.Equal(classes, index), table, 0.0)
    corners = real(boxes)
    if plus_one:
        corners = op.Add(corners, constant([0, 0, 1, 1], 1, 1, 4))
    corners = op.Concat(corners, op.Expand(op.Constant(value_float=0.0), join(sets, 1, 4)), axis=1)
    total = op.Add(count, ints(1))
    chosen = op.NonMaxSuppression(
        corners,
        table,
        total,
        op.Constant(value_floats=[_threshold(iou_threshold, suppress_equal)]),
        op.Constant(value_floats=[0.5]),
    )
    positions = op.Gather(chosen, ints(0, 2), axis=1)
    ones = op.Expand(op.Constant(value_float=1.0), size(positions, 0))
    empty = op.Expand(op.Constant(value_float=0.0), join(sets, total))
    kept = op.ScatterND(empty, positions, ones)
    return op.Greater(op.Slice(kept, ints(0), count, ints(1)), 0.5), order


def _padded(value: Value) -> Value:
    """``[B, N]`` with one more column of 0."""
    return op.Pad(value, ints(0, 0, 0, 1))
