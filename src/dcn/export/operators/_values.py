"""Small expressions over ONNX values that the translations share.

A value is what torch's exporter traces with (an ``ir.Value``), typed ``Any``: the ONNX packages are imported only when
a model is exported.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

from onnxscript import BFLOAT16, FLOAT, FLOAT16, INT64
from onnxscript import opset20 as op

Value: TypeAlias = Any


def ints(*values: int) -> Value:
    """A constant vector of int64."""
    return op.Constant(value_ints=list(values))


def size(value: Value, axis: int) -> Value:
    """The size of one axis as a vector of one int64."""
    return op.Shape(value, start=axis, end=axis + 1)


def scalar(vector: Value) -> Value:
    """The one entry of a vector, without axes."""
    return op.Squeeze(vector, [0])


def join(*parts: Value | int) -> Value:
    """A shape from vectors and numbers."""
    return op.Concat(*(ints(part) if isinstance(part, int) else part for part in parts), axis=0)


def reshape(value: Value, *parts: Value | int) -> Value:
    """Reshape to sizes that are vectors of one entry, numbers, or -1 once. A size of 0 means 0."""
    if all(isinstance(part, int) for part in parts):
        return op.Reshape(value, ints(*parts), allowzero=1 if 0 in parts else None)
    return op.Reshape(value, join(*parts))


def real(value: Value) -> Value:
    """As float32."""
    return op.Cast(value, to=FLOAT.dtype)


def whole(value: Value) -> Value:
    """As int64, fractions cut off."""
    return op.Cast(value, to=INT64.dtype)


def arange(count: Value | int) -> Value:
    """``0, 1, ... count - 1`` in float32; ``count`` a vector of one entry or a number."""
    end = op.Constant(value_int=count) if isinstance(count, int) else scalar(count)
    return real(op.Range(op.Constant(value_int=0), end, op.Constant(value_int=1)))


def column(value: Value, index: int) -> Value:
    """One column of a table ``[R, columns]``, as a vector."""
    return op.Gather(value, op.Constant(value_int=index), axis=1)


def both(*conditions: Value) -> Value:
    """All conditions at once."""
    result = conditions[0]
    for condition in conditions[1:]:
        result = op.And(result, condition)
    return result


def constant(values: Sequence[float], *shape: int) -> Value:
    """A constant float32 array."""
    return op.Reshape(op.Constant(value_floats=[float(value) for value in values]), ints(*shape))


def summed(value: Value, count: int) -> Value:
    """The sum over the last axis, kept; not by ReduceSum, to which onnxruntime gives a wrong shape without any RoI."""
    return op.MatMul(value, op.CastLike(constant([1] * count, count, 1), value))


def addable(value: Value, like: Value) -> Value:
    """In float32 where ``like`` is in half precision: onnxruntime's ``ScatterND`` adds no halves."""
    return real(value) if like.dtype in (FLOAT16.dtype, BFLOAT16.dtype) else value


def finite_rois(boxes: Value) -> tuple[Value, Value]:
    """RoIs ``[R, 5]`` in float32 without NaN and infinity, and ``[R, 1, 1, 1]`` bool: which had none before.

    Here such a RoI gives zeros; models mark empty slots by it. Runtimes refuse it.
    """
    boxes = real(boxes)
    largest = 3.0e38
    finite = op.GreaterOrEqual(summed(real(op.LessOrEqual(op.Abs(boxes), largest)), 5), 4.5)
    return op.Where(finite, boxes, 0.0), reshape(finite, -1, 1, 1, 1)
