"""The stand-in for mmcv's compiled extension: each function beside the drop-in of the same operation, and `install`."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from dcn.compat import _mmcv_extension, mmcv

ext: Any = _mmcv_extension  # its functions are called with keywords from dictionaries
ROIS = torch.tensor([[0, 1.0, 1, 6, 7], [1, 0, 2, 9, 8], [1, 3, 3, 3, 3.2], [0, -4, -4, 30, 30]])


def _random(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64)


def _close(actual: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
    for a, b in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def _gradients(output: Tensor, leaves: Sequence[Tensor]) -> tuple[Tensor, Sequence[Tensor]]:
    grad = _random(*output.shape)
    return grad, torch.autograd.grad(output, leaves, grad)


GEOMETRY = {"dW": 1, "dH": 2, "padW": 2, "padH": 1, "dilationW": 2, "dilationH": 1, "group": 2, "deformable_group": 2}


def test_deformable_convolution() -> None:
    input, weight = _random(3, 4, 9, 8).requires_grad_(), _random(6, 2, 3, 2).requires_grad_()
    offset = _random(3, 24, 5, 10).requires_grad_()
    expected = mmcv.deform_conv2d(input, offset, weight, (2, 1), (1, 2), (1, 2), 2, 2)
    grad, gradients = _gradients(expected, (input, offset, weight))
    buffer, shared = torch.empty(0), {"kW": 2, "kH": 3, **GEOMETRY, "im2col_step": 2}
    output = torch.full_like(expected, torch.nan)
    data = [t.detach() for t in (input, offset, weight)]
    ext.deform_conv_forward(data[0], data[2], data[1], output, buffer, buffer, **shared)
    filled = [torch.full_like(t, torch.nan) for t in data[:2]]
    ext.deform_conv_backward_input(data[0], data[1], grad, *filled, data[2], buffer, **shared)
    of_weight = torch.ones_like(weight)
    ext.deform_conv_backward_parameters(data[0], data[1], grad, of_weight, buffer, buffer, scale=0.5, **shared)
    _close([output, *filled, (of_weight - 1) * 2], [expected, *gradients])


@pytest.mark.parametrize("with_bias", [True, False], ids=["bias", "no-bias"])
def test_modulated_deformable_convolution(with_bias: bool) -> None:
    input, weight, bias = _random(2, 4, 9, 8), _random(6, 2, 3, 3), _random(6) if with_bias else _random(1)
    offset, mask = _random(2, 36, 9, 8), _random(2, 18, 9, 8).sigmoid()
    leaves = [t.requires_grad_() for t in (input, offset, mask, weight, bias)][: 5 if with_bias else 4]
    expected = mmcv.modulated_deform_conv2d(input, offset, mask, weight, bias if with_bias else None, 1, 1, 1, 2, 2)
    grad, gradients = _gradients(expected, leaves)
    names = ("stride_h", "stride_w", "pad_h", "pad_w", "dilation_h", "dilation_w")
    shared: dict[str, Any] = dict.fromkeys(names, 1) | {"kernel_h": 3, "kernel_w": 3, "group": 2, "deformable_group": 2}
    shared["with_bias"] = with_bias
    buffer, data = torch.empty(0), [t.detach() for t in (input, weight, bias, offset, mask)]
    output = torch.full_like(expected, torch.nan)
    ext.modulated_deform_conv_forward(*data[:3], buffer, *data[3:], output, buffer, **shared)
    _close([output], [expected])
    of = [torch.zeros_like(t) for t in data]
    ext.modulated_deform_conv_backward(
        *data[:3], buffer, *data[3:], buffer, of[0], of[1], of[2], of[3], of[4], grad, **shared
    )
    _close([of[0], of[3], of[4], of[1], *([of[2]] if with_bias else [])], gradients)


@pytest.mark.parametrize("with_offset", [True, False], ids=["offset", "no-offset"])
def test_deformable_roi_pooling(with_offset: bool) -> None:
    input, rois = _random(2, 3, 9, 11).requires_grad_(), ROIS.double()
    offset = (_random(4, 2, 3, 2) if with_offset else _random(0)).requires_grad_()
    expected = mmcv.deform_roi_pool(input, rois, offset, (3, 2), 0.7, 2, 0.2)
    leaves = [input, offset] if with_offset else [input]
    grad, gradients = _gradients(expected, leaves)
    shared = {"pooled_height": 3, "pooled_width": 2, "spatial_scale": 0.7, "sampling_ratio": 2, "gamma": 0.2}
    data, output = [input.detach(), rois, offset.detach()], torch.full_like(expected, torch.nan)
    ext.deform_roi_pool_forward(*data, output, **shared)
    of = [torch.full_like(data[0], torch.nan), torch.full_like(data[2], torch.nan)]
    ext.deform_roi_pool_backward(grad, *data, *of, **shared)
    _close([output, *of[: len(leaves)]], [expected, *gradients])


@pytest.mark.parametrize("aligned", [True, False], ids=["aligned", "not-aligned"])
@pytest.mark.parametrize("ratio", [0, 2], ids=["adaptive", "2"])
@pytest.mark.parametrize("mode", ["max", "avg"])
def test_roi_align(mode: str, ratio: int, aligned: bool) -> None:
    input, rois = _random(2, 3, 9, 11).requires_grad_(), ROIS.double()
    expected = mmcv.roi_align(input, rois, (3, 2), 0.7, ratio, mode, aligned)
    grad, gradients = _gradients(expected, [input])
    shared: dict[str, Any] = {"aligned_height": 3, "aligned_width": 2, "spatial_scale": 0.7, "sampling_ratio": ratio}
    shared |= {"pool_mode": ["max", "avg"].index(mode), "aligned": aligned}
    output, of_input = torch.full_like(expected, torch.nan), torch.zeros_like(input)
    argmax = [torch.zeros_like(expected) if mode == "max" else _random(0) for _ in range(2)]
    ext.roi_align_forward(input.detach(), rois, output, *argmax, **shared)
    ext.roi_align_backward(grad, rois, *argmax, of_input, **shared)
    _close([output, of_input], [expected, *gradients])


def test_roi_pool() -> None:
    input, rois = _random(2, 3, 9, 11).requires_grad_(), ROIS.double()
    expected = mmcv.roi_pool(input, rois, (3, 2), 0.7)
    grad, gradients = _gradients(expected, [input])
    shared = {"pooled_height": 3, "pooled_width": 2, "spatial_scale": 0.7}
    output, of_input = torch.full_like(expected, torch.nan), torch.zeros_like(input)
    argmax = torch.zeros(expected.shape, dtype=torch.int32)
    ext.roi_pool_forward(input.detach(), rois, output, argmax, **shared)
    ext.roi_pool_backward(grad, rois, argmax, of_input, **shared)
    _close([output, of_input], [expected, *gradients])
    filled = argmax >= 0
    cells = input.detach().flatten(2)[rois[:, 0].long()].gather(2, argmax.clamp(min=0).flatten(2).long())
    assert torch.equal(cells.view_as(output)[filled], output[filled])


def test_suppression() -> None:
    corners = _random(40, 2).abs() * 20
    boxes, scores = torch.cat((corners, corners + 5 + _random(40, 2).abs() * 9), 1), _random(40).sigmoid()
    expected = mmcv.nms(boxes, scores, 0.4, 1)
    assert torch.equal(ext.nms(boxes, scores, iou_threshold=0.4, offset=1), expected[1])
    for number, method in enumerate(("naive", "linear", "gaussian")):
        kept, inds = mmcv.soft_nms(boxes, scores, 0.4, 0.6, 0.05, method, 1)
        dets = boxes.new_empty(40, 5)
        result = ext.softnms(boxes, scores, dets, 0.4, 0.6, 0.05, number, 1)
        assert torch.equal(result, inds)
        assert torch.equal(dets[: len(inds)], kept)


def test_deformable_attention() -> None:
    shapes, starts = torch.tensor([[4, 6], [2, 3]]), torch.tensor([0, 24])
    value, locations = _random(2, 30, 4, 8), _random(2, 7, 4, 2, 3, 2).sigmoid()
    leaves = [t.requires_grad_() for t in (value, locations, _random(2, 7, 4, 2, 3))]
    expected = mmcv.multi_scale_deformable_attn_pytorch(leaves[0], shapes, *leaves[1:])
    grad, gradients = _gradients(expected, leaves)
    data = [t.detach() for t in leaves]
    args = (data[0], shapes, starts, *data[1:])
    of = [torch.full_like(t, torch.nan) for t in data]
    output = ext.ms_deform_attn_forward(*args, im2col_step=64)
    ext.ms_deform_attn_backward(*args, grad, *of, im2col_step=64)
    _close([output, *of], [expected, *gradients])


@pytest.mark.parametrize("weighted", [True, False], ids=["weight", "no-weight"])
def test_focal_loss(weighted: bool) -> None:
    logits, target = (_random(9, 5) * 8).requires_grad_(), torch.tensor([0, 1, 2, 3, 4, 5, 5, 0, 1])
    weight = torch.rand(6, dtype=torch.float64) if weighted else _random(0)
    hot = F.one_hot(target, 6)[:, :5].double()
    chance = logits.sigmoid() * hot + (1 - logits.sigmoid()) * (1 - hot)
    balance = 0.25 * hot + 0.75 * (1 - hot)
    entropy = F.binary_cross_entropy_with_logits(logits, hot, reduction="none")
    expected = balance * (1 - chance) ** 2 * entropy * (weight[target][:, None] if weighted else 1)
    (gradient,) = torch.autograd.grad(expected.sum(), logits)
    output, of_input = torch.empty_like(expected), torch.empty_like(expected)
    ext.sigmoid_focal_loss_forward(logits.detach(), target, weight, output, gamma=2.0, alpha=0.25)
    ext.sigmoid_focal_loss_backward(logits.detach(), target, weight, of_input, gamma=2.0, alpha=0.25)
    _close([output, of_input], [expected, gradient])


def test_masked_convolution() -> None:
    image, rows, columns = _random(1, 3, 6, 7), torch.tensor([0, 2, 5]), torch.tensor([6, 3, 0])
    expected = F.unfold(image, 3, padding=1)[0].view(27, 6, 7)[:, rows, columns]
    col = torch.empty_like(expected)
    ext.masked_im2col_forward(image, rows, columns, col, kernel_h=3, kernel_w=3, pad_h=1, pad_w=1)
    assert torch.equal(col, expected)
    placed = torch.zeros(1, 27, 6, 7, dtype=torch.float64)
    ext.masked_col2im_forward(col, rows, columns, placed, height=6, width=7, channels=27)
    assert torch.equal(placed[0][:, rows, columns], expected)
    assert placed.count_nonzero() == expected.count_nonzero()


def _run(program: str, folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=folder, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


OPS = """
import importlib
ext_module = importlib.import_module("mmcv._ext")
for name in ("deform_conv_forward", "carafe_forward"):
    assert hasattr(ext_module, name), name
"""
"""What mmcv's modules do when they are imported."""


@pytest.mark.parametrize(
    ("extension", "filled"),
    [
        pytest.param(None, ["mmcv._ext"], id="mmcv-lite"),
        pytest.param("raise ImportError('undefined symbol')", ["mmcv._ext"], id="does-not-load"),
        pytest.param("def deform_conv_forward(): ...\ndef carafe_forward(): ...", [], id="works"),
    ],
)
def test_install_stands_in_for_an_extension_that_is_missing(
    tmp_path: Path, extension: str | None, filled: list[str]
) -> None:
    package = tmp_path / "mmcv"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "ops.py").write_text(OPS)
    if extension is not None:
        (package / "_ext.py").write_text(extension)
    program = "from dcn.compat.mmcv import install\nprint(list(install()), list(install()))\nimport mmcv.ops"
    assert _run(program, tmp_path) == f"{filled} []\n"
    again = "from dcn.compat.mmcv import install\nprint(*install(replace=True))\nimport mmcv.ops"
    assert _run(again, tmp_path) == "mmcv._ext\n"


def test_install_does_nothing_without_mmcv(tmp_path: Path) -> None:
    assert _run("from dcn.compat.mmcv import install\nprint(install())", tmp_path) == "()\n"


def test_other_functions_say_that_they_are_missing() -> None:
    with pytest.raises(NotImplementedError, match=r"mmcv\._ext\.carafe_forward: expected mmcv's compiled extension"):
        ext.missing("carafe_forward")(1, mode=2)
    with pytest.raises(AttributeError):
        ext.missing("__wrapped__")
