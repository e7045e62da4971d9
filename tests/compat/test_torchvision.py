"""``dcn.compat.torchvision`` against torchvision's recorded signatures and results."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch

from dcn.compat import torchvision
from tests.compat import record_torchvision as recorded

SIGNATURES: dict[str, Any] = json.loads((recorded.FOLDER / "torchvision_signatures.json").read_text())["signatures"]


def _arrays() -> dict[str, torch.Tensor]:
    with np.load(recorded.FOLDER / "torchvision_results.npz") as data:
        return {name: torch.from_numpy(data[name]) for name in data.files}


def _inputs() -> dict[str, torch.Tensor]:
    return {name[3:]: value for name, value in _arrays().items() if name.startswith("in_")}


def _agree(library: Any) -> None:
    expected = _arrays()
    for name, actual in recorded.run(library, _inputs()).items():
        torch.testing.assert_close(actual, expected[name], rtol=1e-5, atol=1e-5, msg=f"{name} differs")


@pytest.mark.parametrize("name", SIGNATURES)
def test_signature(name: str) -> None:
    assert recorded.signatures(torchvision)[name] == SIGNATURES[name]


def test_results() -> None:
    _agree(torchvision)


def test_record_is_of_the_installed_torchvision() -> None:
    ops = pytest.importorskip("torchvision.ops", exc_type=(ImportError, RuntimeError))  # type: ignore[arg-type]
    _agree(ops)


@pytest.mark.parametrize("bias", [True, False])
def test_deform_conv_module(bias: bool) -> None:
    layer = torchvision.DeformConv2d(6, 4, 3, stride=2, padding=1, groups=2, bias=bias)
    assert list(layer.state_dict()) == (["weight", "bias"] if bias else ["weight"])
    x, offset = torch.randn(2, 6, 7, 8), torch.zeros(2, 18, 4, 4)
    plain = torch.nn.functional.conv2d(x, layer.weight, layer.bias, 2, 1, groups=2)
    torch.testing.assert_close(layer(x, offset), plain)
    torch.testing.assert_close(layer(x, offset, torch.full((2, 9, 4, 4), 0.5)), _half(plain, layer.bias))


def _half(plain: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    constant = 0 if bias is None else bias.view(1, -1, 1, 1)
    return (plain - constant) * 0.5 + constant


MODULES: list[tuple[torch.nn.Module, str]] = [
    (torchvision.DeformConv2d(2, 2, 3), "DeformConv2d(2, 2, kernel_size=(3, 3), stride=(1, 1))"),
    (
        torchvision.RoIAlign(7, 1.0, 2),
        "RoIAlign(output_size=7, spatial_scale=1.0, sampling_ratio=2, aligned=False)",
    ),
    (torchvision.RoIPool(7, 1.0), "RoIPool(output_size=7, spatial_scale=1.0)"),
    (torchvision.PSRoIAlign(7, 1.0, 2), "PSRoIAlign(output_size=7, spatial_scale=1.0, sampling_ratio=2)"),
    (torchvision.PSRoIPool(7, 1.0), "PSRoIPool(output_size=7, spatial_scale=1.0)"),
]


@pytest.mark.parametrize(("module", "text"), MODULES, ids=[type(m).__name__ for m, _ in MODULES])
def test_modules_print_as_torchvision_does(module: torch.nn.Module, text: str) -> None:
    assert repr(module) == text


@pytest.mark.parametrize(
    ("module", "function"),
    [
        (torchvision.RoIAlign((3, 2), 0.4, 2, aligned=True), "roi_align_aligned"),
        (torchvision.RoIPool((3, 2), 0.4), "roi_pool"),
        (torchvision.PSRoIAlign(3, 0.4, 2), "ps_roi_align"),
        (torchvision.PSRoIPool(3, 0.4), "ps_roi_pool"),
    ],
    ids=["RoIAlign", "RoIPool", "PSRoIAlign", "PSRoIPool"],
)
def test_modules_take_boxes_as_lists_or_one_tensor(module: torch.nn.Module, function: str) -> None:
    arrays = _arrays()
    rois, features = arrays["in_rois"], arrays["in_map"]
    torch.testing.assert_close(module(features, rois), arrays[function], rtol=1e-5, atol=1e-5)
    order = torch.argsort(rois[:, 0], stable=True)
    lists = [rois[rois[:, 0] == image, 1:] for image in range(2)]
    torch.testing.assert_close(module(features, lists), arrays[function][order], rtol=1e-5, atol=1e-5)


def test_a_wrong_offset_is_refused() -> None:
    with pytest.raises(ValueError, match="offset: expected 2"):
        torchvision.deform_conv2d(torch.zeros(1, 2, 5, 5), torch.zeros(1, 17, 3, 3), torch.zeros(2, 2, 3, 3))


def test_indivisible_channels_are_refused() -> None:
    with pytest.raises(ValueError, match="out_channels: expected a multiple of groups=2"):
        torchvision.DeformConv2d(4, 3, 3, groups=2)
