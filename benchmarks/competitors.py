"""The implementations that are compared, each behind the same small face."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.cases import ConvCase
from dcn.ops import deform_conv2d

Operator = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Competitor:
    name: str
    prepare: Callable[[ConvCase, Tensor], Operator]  # given the weight, which some implementations pack beforehand
    deformable: bool = True
    trains: bool = True
    dtypes: tuple[torch.dtype, ...] = (torch.float32, torch.bfloat16)


def _ours(case: ConvCase, weight: Tensor) -> Operator:
    padding = case.kernel // 2
    return lambda x, offset, w: deform_conv2d(x, offset, w, None, case.stride, padding, backend="cpu")


def _conv2d(case: ConvCase, weight: Tensor) -> Operator:
    return lambda x, offset, w: F.conv2d(x, w, None, case.stride, case.kernel // 2, 1, case.groups)


def _torchvision(case: ConvCase, weight: Tensor) -> Operator:
    from torchvision.ops import deform_conv2d as theirs

    return lambda x, offset, w: theirs(x, offset, w, None, case.stride, case.kernel // 2)


def _onnxruntime(case: ConvCase, weight: Tensor) -> Operator:
    import onnx
    import onnxruntime

    node = onnx.helper.make_node(
        "DeformConv",
        ["x", "weight", "offset"],
        ["y"],
        kernel_shape=[case.kernel] * 2,
        pads=[case.kernel // 2] * 4,
        strides=[case.stride] * 2,
        group=case.groups,
    )
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [node],
        "deform_conv",
        [value(name, onnx.TensorProto.FLOAT, [None] * 4) for name in ("x", "offset")],
        [value("y", onnx.TensorProto.FLOAT, [None] * 4)],
        [onnx.numpy_helper.from_array(weight.numpy(), "weight")],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 19)], ir_version=9)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    # A spinning pool of one competitor would slow down the next.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return lambda x, offset, w: torch.from_numpy(session.run(None, {"x": x.numpy(), "offset": offset.numpy()})[0])


def available() -> list[Competitor]:
    """Ours, conv2d, and those of the others that are installed here."""
    competitors = [Competitor("dcn", _ours), Competitor("conv2d", _conv2d, deformable=False)]
    if importlib.util.find_spec("onnxruntime") and importlib.util.find_spec("onnx"):
        competitors.append(Competitor("onnxruntime", _onnxruntime, trains=False, dtypes=(torch.float32,)))
    if importlib.util.find_spec("torchvision"):
        competitors.append(Competitor("torchvision", _torchvision, dtypes=(torch.float32,)))
    return competitors


def run(competitor: Competitor, operator: Operator, tensors: tuple[Tensor, ...], train: bool) -> list[Tensor]:
    """One forward pass, or forward and all gradients: what is timed."""
    x, offset, weight, grad = tensors
    if not train:
        with torch.no_grad():
            return [operator(x, offset, weight)]
    inputs = [t.detach().requires_grad_() for t in ((x, offset, weight) if competitor.deformable else (x, weight))]
    first, last = inputs[0], inputs[-1]
    output = operator(first, inputs[1] if competitor.deformable else offset, last)
    return [output, *torch.autograd.grad(output, inputs, grad)]


def largest_error(competitor: Competitor, case: ConvCase, train: bool) -> float:
    """Largest error over largest value, on one image, against the same in float64 by plain PyTorch."""
    small = case.in_batch(1)
    tensors = small.tensors()
    actual = run(competitor, competitor.prepare(small, tensors[2]), tensors, train)
    wide = tuple(t.double() for t in tensors)
    plain = Competitor("reference", lambda c, w: _reference(c)) if competitor.deformable else competitor
    expected = run(plain, plain.prepare(small, wide[2]), wide, train)
    return max(
        float((a.double() - e).abs().max() / e.abs().max().clamp_min(1e-30))
        for a, e in zip(actual, expected, strict=True)
    )


def _reference(case: ConvCase) -> Operator:
    padding = case.kernel // 2
    return lambda x, offset, w: deform_conv2d(x, offset, w, None, case.stride, padding, backend="reference")
