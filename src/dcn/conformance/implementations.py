"""Implementations under test, all behind one signature."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from dcn import ops
from dcn.ops import deform_conv2d

Function = Callable[..., Tensor]
"""``(input, offset, weight, bias, stride, padding, dilation, mask) -> output``; numbers are pairs ``(y, x)``."""

NAMES = (
    *("torchvision", "mmcv", "onnxruntime", "onnx-reference"),
    *("dcn:cpu", "dcn:reference", "dcn:triton", "module:function"),
)


def load(name: str) -> Function:
    """The function called ``name``.

    Args:
        name: one of :data:`NAMES`; ``dcn:BACKEND`` and ``dcn:BACKEND:v1`` for this package, ``package.module:function``
            for any function that takes torchvision's arguments in torchvision's order.

    Raises:
        ValueError: the name is of no known form, or what it names cannot be imported (with the reason).
    """
    if name in ("onnxruntime", "onnx-reference"):
        return partial(_onnx, name)
    if name == "mmcv":
        _import("mmcv.ops", "modulated_deform_conv2d", name)
        return _mmcv
    if name == "torchvision":
        name = "torchvision.ops:deform_conv2d"
    module, _, function = name.partition(":")
    if module == "dcn":
        backend, _, boundary = function.partition(":")
        return partial(deform_conv2d, backend=backend, boundary=boundary or "v2")
    if not function:
        raise ValueError(f"--implementation: expected one of {', '.join(NAMES)}, got {name!r}")
    return _import(module, function, name)


def _import(module: str, function: str, name: str) -> Function:
    try:
        loaded: Function = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, RuntimeError) as error:
        raise ValueError(f"--implementation: {name!r} cannot be imported: {error}") from error
    return loaded


def offered(name: str, operator: str) -> Function | None:
    """The implementation's function for an operator of :mod:`dcn.ops`, or ``None`` if it offers none.

    Args:
        name: as for :func:`load`.
        operator: such as ``"roi_align"``; the function takes torchvision's arguments in torchvision's order.

    Raises:
        ValueError: as for :func:`load`.
    """
    if operator == "deform_conv2d":
        return load(name)
    if name == "torchvision":
        return getattr(importlib.import_module("torchvision.ops"), operator, None)
    module, _, function = name.partition(":")
    return partial(getattr(ops, operator), backend=function.partition(":")[0]) if module == "dcn" else None


def _mmcv(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    mask: Tensor | None,
) -> Tensor:
    """mmcv has one operator with and one without mask; the one without takes no bias."""
    module = importlib.import_module("mmcv.ops")
    taps = weight.shape[2] * weight.shape[3]
    groups = (input.shape[1] // weight.shape[1], offset.shape[1] // (2 * taps))
    if mask is not None:
        with_mask: Tensor = module.modulated_deform_conv2d(
            input, offset, mask, weight, bias, stride, padding, dilation, *groups
        )
        return with_mask
    output: Tensor = module.deform_conv2d(input, offset, weight, stride, padding, dilation, *groups)
    return output if bias is None else output + bias.view(1, -1, 1, 1)


def _onnx(
    engine: str,
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    mask: Tensor | None,
) -> Tensor:
    """ONNX ``DeformConv`` of opset 19; it has no gradients."""
    named = {"X": input, "W": weight, "offset": offset, "B": bias, "mask": mask}
    attributes = {
        "kernel_shape": list(weight.shape[2:]),
        "strides": list(stride),
        "pads": [*padding, *padding],
        "dilations": list(dilation),
        "group": input.shape[1] // weight.shape[1],
        "offset_group": offset.shape[1] // (2 * weight.shape[2] * weight.shape[3]),
    }
    given = {key: tensor.detach() for key, tensor in named.items() if tensor is not None}
    model = _model([key if key in given else "" for key in named], input.dtype, attributes)
    feeds = {key: tensor.numpy() for key, tensor in given.items()}
    return torch.from_numpy(_run(engine, model, feeds))


def _model(inputs: list[str], dtype: torch.dtype, attributes: dict[str, Any]) -> Any:
    onnx = importlib.import_module("onnx")
    kind = {
        torch.float16: onnx.TensorProto.FLOAT16,
        torch.float32: onnx.TensorProto.FLOAT,
        torch.float64: onnx.TensorProto.DOUBLE,
    }.get(dtype)
    if kind is None:
        raise ValueError(f"input: expected float16, float32 or float64 for ONNX, got {dtype}")
    helper = onnx.helper
    node = helper.make_node("DeformConv", inputs, ["Y"], **attributes)
    values = [helper.make_tensor_value_info(name, kind, None) for name in inputs if name]
    graph = helper.make_graph([node], "deform_conv", values, [helper.make_tensor_value_info("Y", kind, None)])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)


def _run(engine: str, model: Any, feeds: dict[str, Any]) -> Any:
    if engine == "onnx-reference":
        evaluator = importlib.import_module("onnx.reference").ReferenceEvaluator(model)
        return evaluator.run(None, feeds)[0]
    runtime = importlib.import_module("onnxruntime")
    options = runtime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    return runtime.InferenceSession(model.SerializeToString(), options).run(None, feeds)[0]
