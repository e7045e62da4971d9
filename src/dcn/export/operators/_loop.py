"""ONNX's ``Loop`` from a Python function."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

from onnxscript import evaluator, ir
from onnxscript import opset20 as op

from dcn.export.operators._values import Value

_NUMBERS = itertools.count()


def loop(
    trips: Value, start: Value, state: Value, body: Callable[[Value], tuple[Value, Value, Sequence[Value]]]
) -> Sequence[Value]:
    """Repeat ``body`` while it says so.

    Args:
        trips: the largest number of times, int64 without axes.
        start: whether to begin, bool without axes.
        state: what the first round gets; shape and type stay.
        body: from the state to whether to continue, the next state, and values to be stacked, one row per round. It may
            use any value from outside.

    Returns:
        The stacks.
    """
    outer = evaluator.default()
    inner = type(outer)(outer.opset, {})
    number = next(_NUMBERS)
    inputs = [
        ir.Value(name=f"loop{number}_round", shape=ir.Shape([]), type=ir.TensorType(ir.DataType.INT64)),
        ir.Value(name=f"loop{number}_go", shape=ir.Shape([]), type=ir.TensorType(ir.DataType.BOOL)),
        ir.Value(name=f"loop{number}_state", shape=state.shape, type=ir.TensorType(ir.DataType.FLOAT)),
    ]
    with evaluator.default_as(inner):
        go, following, stacked = body(inputs[2])
        outputs = [op.Identity(value) for value in (go, following, *stacked)]
    for index, node in enumerate(inner.nodes):
        for output_index, value in enumerate(node.outputs):
            value.name = f"loop{number}_{index}_{output_index}"
    graph = ir.Graph(inputs, outputs, nodes=inner.nodes, name=f"loop{number}")
    node = ir.Node("", "Loop", [trips, start, state], [ir.AttrGraph("body", graph)], num_outputs=1 + len(stacked))
    outer.nodes.append(node)
    return node.outputs[1:]
