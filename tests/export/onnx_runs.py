"""Export a module with ``torch.onnx.export`` alone and run the file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor, nn

import dcn  # all that a user's program needs

OPSET = 20
assert dcn


class Function(nn.Module):
    """A function of one to seven tensors as a module.

    The arguments have names: torch 2.9 gives ``*tensors`` no dynamic shapes.
    """

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(
        self,
        a: Tensor,
        b: Tensor | None = None,
        c: Tensor | None = None,
        d: Tensor | None = None,
        e: Tensor | None = None,
        f: Tensor | None = None,
        g: Tensor | None = None,
    ) -> Any:
        return self.function(*(tensor for tensor in (a, b, c, d, e, f, g) if tensor is not None))


def export(
    model: nn.Module, inputs: Sequence[Tensor], path: Path, dynamic: Sequence[dict[int, str]] | None = None
) -> onnx.ModelProto:
    """Export without a word about this package's operators; the file has operators of the standard alone."""
    shapes = None if dynamic is None else tuple(dict(axes) for axes in dynamic)
    torch.onnx.export(
        model.eval(),
        tuple(inputs),
        path,
        input_names=[f"in{i}" for i in range(len(inputs))],
        dynamic_shapes=shapes,
        opset_version=OPSET,
        verbose=False,
        external_data=False,
    )
    proto = onnx.load(path)
    onnx.checker.check_model(proto, full_check=True)
    assert [(entry.domain, entry.version) for entry in proto.opset_import] == [("", OPSET)]
    assert {node.domain for node in proto.graph.node} == {""}
    assert not proto.functions
    return proto


def run(path: Path, inputs: Sequence[Tensor]) -> list[Tensor]:
    """The outputs of onnxruntime on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_inputs()]
    feeds = {name: tensor.detach().numpy() for name, tensor in zip(names, inputs, strict=True)}
    return [torch.from_numpy(np.asarray(value)) for value in session.run(None, feeds)]


def check(
    model: nn.Module,
    path: Path,
    inputs: Sequence[Tensor],
    dynamic: Sequence[dict[int, str]] | None = None,
    others: Sequence[Sequence[Tensor]] = (),
    tolerance: float = 1e-5,
) -> onnx.ModelProto:
    """Export with ``inputs`` and compare on them and on ``others``, which may have other sizes."""
    proto = export(model, inputs, path, dynamic)
    for case in (inputs, *others):
        with torch.no_grad():
            expected = model(*case)
        expected = expected if isinstance(expected, tuple) else (expected,)
        for actual, value in zip(run(path, case), expected, strict=True):
            torch.testing.assert_close(actual, value, rtol=tolerance, atol=tolerance)
    return proto
