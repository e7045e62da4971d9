"""Soft suppression as a ``Loop``: one round selects one box."""

from __future__ import annotations

import math

from onnxscript import opset20 as op

from dcn.export.operators._loop import loop
from dcn.export.operators._values import Value, constant, ints, real, scalar, size


def translate(
    boxes: Value,
    scores: Value,
    labels: Value | None,
    gaussian: bool,
    sigma: float,
    iou_threshold: float,
    least: float,
    max_output: int,
    plus_one: bool,
    backend: str | None = None,
) -> tuple[Value, Value]:
    """``dcn::soft_nms``; arguments as there.

    Args:
        boxes: ``[N, 4]``.
        scores: ``[N]``.
        labels: ``[N]``.
        gaussian: scores fall by ``exp(-overlap² / sigma)``, otherwise by ``1 - overlap`` above the threshold.
        sigma: width of the Gaussian.
        iou_threshold: see ``gaussian``.
        least: a box whose score is below this is not selected.
        max_output: number of selections, -1 for all.
        plus_one: widths are ``x2 - x1 + 1``.
        backend: has no meaning here.
    """
    scores, corners = real(scores), real(boxes)
    scores = op.Where(op.IsNaN(scores), -math.inf, scores)
    low, high = (op.Slice(corners, ints(a), ints(a + 2), ints(1)) for a in (0, 2))
    high = op.Add(high, 1.0 if plus_one else 0.0)
    count = size(scores, 0)
    trips = count if max_output < 0 else op.Min(count, ints(max_output))
    best_of_all = op.ReduceMax(op.Concat(scores, constant([-math.inf], 1), axis=0), keepdims=0)

    def select(left: Value) -> tuple[Value, Value, tuple[Value, Value]]:
        best = op.ArgMax(left, axis=0, keepdims=1)
        shared = _overlap(low, high, best)
        if gaussian:
            decay = op.Exp(op.Div(op.Mul(shared, shared), -float(sigma)))
        else:
            decay = op.Sub(1.0, op.Mul(shared, real(op.Greater(shared, float(iou_threshold)))))
        if labels is not None:
            decay = op.Where(op.Equal(labels, op.Gather(labels, best, axis=0)), decay, 1.0)
        # A box that is taken stays at -infinity: times a decay of 0 it would become NaN.
        taken = op.Equal(left, -math.inf)
        rest = op.ScatterElements(op.Where(taken, left, op.Mul(left, decay)), best, constant([-math.inf], 1), axis=0)
        go = op.GreaterOrEqual(op.ReduceMax(rest, keepdims=0), float(least))
        return go, rest, (scalar(best), scalar(op.Gather(left, best, axis=0)))

    chosen, values = loop(scalar(trips), op.GreaterOrEqual(best_of_all, float(least)), scores, select)
    return chosen, values


def _overlap(low: Value, high: Value, best: Value) -> Value:
    """``[N]``: intersection over union of one box with all; 0 where it is not a number."""
    first, last = op.Gather(low, best, axis=0), op.Gather(high, best, axis=0)
    sides = op.Max(op.Sub(op.Min(high, last), op.Max(low, first)), 0.0)
    shared = op.ReduceProd(sides, ints(1), keepdims=0)
    areas = op.Add(
        op.ReduceProd(op.Sub(high, low), ints(1), keepdims=0), op.ReduceProd(op.Sub(last, first), ints(1), keepdims=0)
    )
    ratio = op.Div(shared, op.Sub(areas, shared))
    return op.Where(op.Or(op.IsNaN(ratio), op.IsInf(ratio)), 0.0, ratio)
