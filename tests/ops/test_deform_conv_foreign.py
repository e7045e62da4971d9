"""Agreement with other implementations: golden files, mmcv's numbers, ONNX, trained layers."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from dcn.nn import DeformConv2d
from dcn.ops import deform_conv2d
from tests.golden import check_operator
from tests.ops.cases import BACKENDS
from tests.ops.random_calls import RandomCall, random_call

GOLDEN = Path(__file__).parents[1] / "golden"
OPERATOR_FILES = sorted(p for prefix in ("dconv", "mdconv", "boundary") for p in GOLDEN.glob(f"{prefix}*.npz"))
ONNX_FILES = sorted((GOLDEN / "foreign").glob("onnx_test_*deform_conv*.npz"))
MMCV = json.loads((GOLDEN / "foreign" / "mmcv_expected.json").read_text())
ALIKED = [f"aliked-{kind}_reference.npz" for kind in ("t16", "n16", "n16rot", "n32")]


@pytest.mark.parametrize("path", OPERATOR_FILES, ids=lambda p: p.stem)
def test_golden_file(path: Path) -> None:
    findings = check_operator.check(path)
    assert {"reference"} <= {finding.backend for finding in findings}
    assert [finding for finding in findings if finding.error > 1e-5] == []


def test_check_operator_fails_on_a_wrong_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arrays = check_operator.read(GOLDEN / "mdconv_v2_dg1.npz")
    arrays["out"] = arrays["out"] + np.float32(2e-4)
    np.savez(tmp_path / "mdconv_v2_moved.npz", allow_pickle=False, **arrays)
    assert check_operator.main([str(tmp_path / "mdconv_v2_moved.npz")]) == 1
    assert "FAIL" in capsys.readouterr().out


def _tensor(value: Any) -> torch.Tensor:
    return torch.tensor(value, dtype=torch.float32)


@pytest.mark.parametrize("backend", BACKENDS)
def test_mmcv_deform_conv(backend: str) -> None:
    case = MMCV["test_deform_conv"]
    batch = 10
    layer = DeformConv2d(1, 1, 2, bias=False, backend=backend)
    branch_bias = layer.conv_offset.bias
    assert branch_bias is not None
    with torch.no_grad():
        layer.conv_offset.weight.copy_(_tensor(case["offset_weight"]).reshape(8, 1, 2, 2))
        branch_bias.copy_(_tensor(case["offset_bias"]))
        layer.weight.copy_(_tensor(case["deform_weight"]).reshape(1, 1, 2, 2))
    x = _tensor(case["input"]).repeat(batch, 1, 1, 1).requires_grad_()
    output = layer(x)
    output.mean().backward()  # a mean over the batch of sums of four, as in the numbers' source
    expected = _tensor(case["gt_out"]).expand(batch, -1, -1, -1)
    torch.testing.assert_close(output, expected, rtol=1e-3, atol=1e-3)
    actual = [x.grad, layer.conv_offset.weight.grad, branch_bias.grad, layer.weight.grad]
    keys = ["gt_x_grad", "gt_offset_weight_grad", "gt_offset_bias_grad", "gt_deform_weight_grad"]
    scales = [4 * batch, 4, 4, 4]
    for grad, key, scale in zip(actual, keys, scales, strict=True):
        assert grad is not None
        recorded = _tensor(case[key]).squeeze(0) if key == "gt_offset_bias_grad" else _tensor(case[key])
        torch.testing.assert_close(grad * scale, recorded.expand_as(grad), rtol=1e-3, atol=6e-3)


@pytest.mark.parametrize("backend", BACKENDS)
def test_mmcv_modulated_deform_conv(backend: str) -> None:
    case = MMCV["test_modulated_deform_conv"]
    layer = DeformConv2d(1, 1, 2, padding=1, modulated=True, bias=False, backend=backend)
    torch.nn.init.ones_(layer.weight)
    branch_bias = layer.conv_offset.bias
    assert branch_bias is not None
    x = _tensor(case["input_t"]).requires_grad_()
    output = layer(x)
    output.sum().backward()
    actual = [output, x.grad, layer.weight.grad, layer.conv_offset.weight.grad, branch_bias.grad]
    keys = ["output_t", "input_grad", "dcn_w_grad", "dcn_offset_w_grad", "dcn_offset_b_grad"]
    for value, key in zip(actual, keys, strict=True):
        torch.testing.assert_close(value, _tensor(case[key]), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("path", ONNX_FILES, ids=lambda p: p.stem)
def test_onnx_node_tests(path: Path, backend: str) -> None:
    with np.load(path) as data:
        inputs = [torch.from_numpy(data[f"in_{i}"]) if f"in_{i}" in data else None for i in range(5)]
        padding = ast.literal_eval(str(data["attrs"]))["pads"][:2]
        expected = torch.from_numpy(data["out"])
    x, weight, offset, bias, mask = inputs
    assert x is not None
    assert weight is not None
    assert offset is not None
    actual = deform_conv2d(x, offset, weight, bias, padding=padding, mask=mask, backend=backend)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-6)


def onnx_model(call: RandomCall) -> onnx.ModelProto:
    names = ["X", "W", "offset", "B", "mask"]
    present = [t is not None for t in (call.x, call.weight, call.offset, call.bias, call.mask)]
    node = helper.make_node(
        "DeformConv",
        [name if there else "" for name, there in zip(names, present, strict=True)],
        ["Y"],
        kernel_shape=list(call.weight.shape[2:]),
        strides=list(call.stride),
        pads=[*call.padding, *call.padding],
        dilations=list(call.dilation),
        group=call.groups,
        offset_group=call.offset_groups,
    )
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
        for name, there in zip(names, present, strict=True)
        if there
    ]
    outputs = [helper.make_tensor_value_info("Y", TensorProto.FLOAT, None)]
    graph = helper.make_graph([node], "deform_conv", inputs, outputs)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)


def onnx_feeds(call: RandomCall) -> dict[str, npt.NDArray[np.float32]]:
    named = {"X": call.x, "W": call.weight, "offset": call.offset, "B": call.bias, "mask": call.mask}
    return {name: t.numpy() for name, t in named.items() if t is not None}


def onnxruntime_output(call: RandomCall) -> torch.Tensor:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(onnx_model(call).SerializeToString(), options)
    return torch.from_numpy(session.run(None, onnx_feeds(call))[0])


def reference_output(call: RandomCall) -> torch.Tensor:
    return torch.from_numpy(ReferenceEvaluator(onnx_model(call)).run(None, onnx_feeds(call))[0])


@pytest.mark.parametrize("seed", range(60))
def test_onnxruntime_agrees(seed: int) -> None:
    call = random_call(seed)
    expected = onnxruntime_output(call)
    for backend in ("reference", None):
        torch.testing.assert_close(call.run(backend), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("seed", range(1000, 1012))
def test_onnx_reference_evaluator_agrees(seed: int) -> None:
    # ONNX's evaluator divides by size - 1, so maps of one pixel are beyond it.
    call = random_call(seed, largest=5, smallest=2)
    torch.testing.assert_close(call.run(None), reference_output(call).float(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", ALIKED)
def test_trained_layers(name: str, backend: str, shared: Path) -> None:
    with np.load(shared / "golden" / "trained_layers" / name) as data:
        calls = [{k: data[f"call{i}_{k}"] for k in ("input", "offset", "weight", "output", "pad")} for i in range(4)]
    for call in calls:
        x, offset, weight, expected = (torch.from_numpy(call[k]) for k in ("input", "offset", "weight", "output"))
        actual = deform_conv2d(x, offset, weight, padding=call["pad"].tolist(), backend=backend)
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)
