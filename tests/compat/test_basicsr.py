"""``dcn.compat.basicsr``: argument lists, attributes and keys, and a subclass as EDVR's alignment writes it."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dcn.compat import basicsr
from dcn.nn import OffsetMonitor

LAYER = "in_channels out_channels kernel_size stride=1 padding=0 dilation=1 groups=1 deformable_groups=1"
FUNCTION = "stride=1 padding=0 dilation=1 groups=1 deformable_groups=1"
ARGUMENTS: dict[str, tuple[Any, str]] = {
    "DeformConv": (basicsr.DeformConv, f"{LAYER} bias=False"),
    "DeformConvPack": (basicsr.DeformConvPack, f"{LAYER} bias=False"),
    "ModulatedDeformConv": (basicsr.ModulatedDeformConv, f"{LAYER} bias=True"),
    "ModulatedDeformConvPack": (basicsr.ModulatedDeformConvPack, f"{LAYER} bias=True"),
    "deform_conv": (basicsr.deform_conv, f"input offset weight {FUNCTION} im2col_step=64"),
    "modulated_deform_conv": (basicsr.modulated_deform_conv, f"input offset mask weight bias=None {FUNCTION}"),
}


@pytest.mark.parametrize("name", ARGUMENTS)
def test_arguments(name: str) -> None:
    function, expected = ARGUMENTS[name]
    parameters = inspect.signature(function).parameters.values()
    assert [p.name if p.default is p.empty else f"{p.name}={p.default!r}" for p in parameters] == expected.split()


KEYS = {
    "DeformConv": "weight",
    "DeformConvPack": "weight conv_offset.weight conv_offset.bias",
    "ModulatedDeformConv": "weight bias",
    "ModulatedDeformConvPack": "weight bias conv_offset.weight conv_offset.bias",
}


@pytest.mark.parametrize("name", KEYS)
def test_keys_and_attributes(name: str) -> None:
    layer = getattr(basicsr, name)(4, 6, 3, padding=1, deformable_groups=2)
    assert list(layer.state_dict()) == KEYS[name].split()
    assert (layer.deformable_groups, layer.groups, layer.stride, layer.padding) == (2, 1, (1, 1), (1, 1))
    assert layer.with_bias == name.startswith("Modulated")
    assert layer.weight.abs().max() <= 1 / 6  # 1 / sqrt(4 * 3 * 3)
    assert layer.weight.std().item() == pytest.approx(1 / 6 / 3**0.5, rel=0.15)


class Aligned(basicsr.ModulatedDeformConvPack):
    """Offsets from a second input, as super-resolution of videos aligns its frames."""

    def forward(self, x: Tensor, feat: Tensor) -> Tensor:  # type: ignore[override]
        first, second, mask = torch.chunk(self.conv_offset(feat), 3, dim=1)
        offset = torch.cat((first, second), dim=1)
        geometry = (self.stride, self.padding, self.dilation, self.groups, self.deformable_groups)
        return basicsr.modulated_deform_conv(x, offset, torch.sigmoid(mask), self.weight, self.bias, *geometry)


def test_a_subclass_aligns_a_shifted_frame() -> None:
    """A branch that says "one row down, two columns left" and a mask of 1: the oracle is the shifted convolution."""
    layer = Aligned(8, 4, 3, padding=1, deformable_groups=2)
    assert layer.conv_offset.bias is not None
    with torch.no_grad():
        layer.conv_offset.bias[0:36:2], layer.conv_offset.bias[1:36:2] = 1.0, -2.0
        layer.conv_offset.bias[36:] = 40.0
    frame = torch.randn(2, 8, 9, 10)
    with OffsetMonitor(nn.ModuleList([layer])) as monitor:
        aligned = layer(frame, torch.randn(2, 8, 9, 10))
    moved = F.pad(frame, (2, -2, -1, 1))
    expected = F.conv2d(moved, layer.weight, layer.bias, padding=1)
    torch.testing.assert_close(aligned[..., 1:-2, 3:-1], expected[..., 1:-2, 3:-1])
    assert [row.mean for row in monitor.report()] == [1.5]


def test_a_plain_layer_has_no_bias() -> None:
    with pytest.raises(AssertionError, match="bias: expected False"):
        basicsr.DeformConvPack(4, 4, 3, bias=True)


LAYERS = """
{extension}
import torch
from torch import nn


class DeformConvFunction:
    @staticmethod
    def apply(input, *args):
        raise NotImplementedError(input.device)


deform_conv = DeformConvFunction.apply


class DeformConv(nn.Module):
    def forward(self, x, offset, weight):
        return deform_conv(x, offset, weight, 1, 1, 1, 1, 1)
"""
"""A copy of the folder, as far as it matters: a layer calls a function of its module, which refuses the CPU."""
EXTENSIONS = {
    "basicsr": "try:\n    from . import deform_conv_ext\nexcept ImportError:\n    pass",
    "mmdet-1": "from . import deform_conv_cuda",
}
PROGRAM = """
import torch
from dcn.compat import basicsr
print(basicsr.install("copied.dcn.deform_conv"), basicsr.install("copied.dcn.deform_conv"), basicsr.install())
from copied.dcn import DeformConv, deform_conv
x, offset, weight = torch.randn(2, 4, 5, 6), torch.randn(2, 18, 5, 6), torch.randn(3, 4, 3, 3)
expected = basicsr.deform_conv(x, offset, weight, 1, 1)
assert torch.equal(DeformConv()(x, offset, weight), expected)
assert torch.equal(deform_conv(x, offset, weight, 1, 1), expected)
"""


def _copy(folder: Path, extension: str) -> None:
    package = folder / "copied" / "dcn"
    package.mkdir(parents=True)
    (package.parent / "__init__.py").touch()
    (package / "__init__.py").write_text("from .deform_conv import DeformConv, deform_conv")
    (package / "deform_conv.py").write_text(LAYERS.format(extension=extension))


def _run(program: str, folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=folder, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("extension", EXTENSIONS.values(), ids=EXTENSIONS)
def test_install_lets_a_copy_compute_here(tmp_path: Path, extension: str) -> None:
    _copy(tmp_path, extension)
    assert _run(PROGRAM, tmp_path) == "('copied.dcn.deform_conv',) () ()\n"


def test_install_leaves_a_working_extension_alone(tmp_path: Path) -> None:
    _copy(tmp_path, "from . import deform_conv_cuda")
    (tmp_path / "copied" / "dcn" / "deform_conv_cuda.py").touch()
    program = """
from dcn.compat.basicsr import install
print(install("copied.dcn.deform_conv"))
from copied.dcn.deform_conv import deform_conv
print(deform_conv.__module__, install("copied.dcn.deform_conv", replace=True))
"""
    assert _run(program, tmp_path).split() == ["()", "copied.dcn.deform_conv", "('copied.dcn.deform_conv',)"]
