"""``install()`` of mmcv and detectron2: every case is a process of its own, since modules cannot be taken back."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from dcn.compat import mmcv
from dcn.compat._layers import Refused

# What matters of mmcv-lite: its operators load a compiled module that is not there, and its layers call functions of
# their own modules.
LITE = {
    "__init__.py": "",
    "ops/__init__.py": "from .corner_pool import corner_pool\n"
    "from .modulated_deform_conv import ModulatedDeformConv2dPack, modulated_deform_conv2d\n"
    "from .nms import nms\n",
    "ops/corner_pool.py": "import importlib\next = importlib.import_module('mmcv._ext')\n"
    "assert hasattr(ext, 'top_pool_forward')\n\ndef corner_pool(x):\n    return ext.top_pool_forward(x)\n",
    "ops/modulated_deform_conv.py": "import importlib\nfrom torch import nn\n"
    "ext = importlib.import_module('mmcv._ext')\nassert hasattr(ext, 'modulated_deform_conv_forward')\n\n"
    "def modulated_deform_conv2d(*tensors):\n    return ext.modulated_deform_conv_forward(*tensors)\n\n"
    "class ModulatedDeformConv2dPack(nn.Module):\n    def forward(self, *tensors):\n"
    "        return modulated_deform_conv2d(*tensors)\n",
    "ops/nms.py": "import importlib\next = importlib.import_module('mmcv._ext')\n\n"
    "def nms(*tensors):\n    return ext.nms(*tensors)\n",
}
COMPLETE = {
    **LITE,
    "_ext.py": "top_pool_forward = nms = deform_conv_forward = lambda *_: 'compiled'\n"
    "modulated_deform_conv_forward = nms\n",
}
BROKEN = {**LITE, "_ext.py": "raise ImportError('undefined symbol: _ZN2at4_ops5zeros4callE')\n"}
CALLS = """
import torch
x, offset, mask, weight = map(torch.randn, ((1, 2, 5, 5), (1, 18, 3, 3), (1, 9, 3, 3), (4, 2, 3, 3)))
import dcn.compat.mmcv
from dcn.ops import deform_conv2d
"""
USED = """
print(dcn.compat.mmcv.install())
print(dcn.compat.mmcv.install())
from mmcv.ops import ModulatedDeformConv2dPack, corner_pool, modulated_deform_conv2d
expected = deform_conv2d(x, offset, weight, mask=mask)
for call in (ModulatedDeformConv2dPack(), modulated_deform_conv2d):
    torch.testing.assert_close(call(x, offset, mask, weight), expected)
try:
    corner_pool(x)
except ValueError as error:
    print(error)
"""


def _run(program: str, folder: Path) -> list[str]:
    source = Path(__file__).parents[2] / "src"
    code = f"import sys\nsys.path[:0] = {[str(folder), str(source)]!r}\n{CALLS}\n{program}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def _package(tmp_path: Path, files: dict[str, str], package: str = "mmcv") -> Path:
    for name, text in files.items():
        (tmp_path / package / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / package / name).write_text(text)
    return tmp_path


@pytest.mark.parametrize("files", [LITE, BROKEN], ids=["without an extension", "extension that does not load"])
def test_without_a_working_extension(files: dict[str, str], tmp_path: Path) -> None:
    first, second, error = _run(USED, _package(tmp_path, files))
    assert first == "('modulated_deform_conv2d', 'nms')"
    assert second == "()"
    assert error.startswith("mmcv._ext.top_pool_forward: expected a compiled function, got none")


def test_a_working_extension_stays(tmp_path: Path) -> None:
    program = """
print(dcn.compat.mmcv.install())
import mmcv.ops
print(mmcv.ops.nms())
print(dcn.compat.mmcv.install(replace=True))
print(mmcv.ops.nms is dcn.compat.mmcv.nms, mmcv.ops.corner_pool(x))
"""
    lines = _run(program, _package(tmp_path, COMPLETE))
    assert lines == ["()", "compiled", "('modulated_deform_conv2d', 'nms')", "True compiled"]


# detectron2 has classes that raise where its extension does not load.
DETECTRON2 = {
    "__init__.py": "",
    "layers/__init__.py": "from .deform_conv import deform_conv, modulated_deform_conv, DeformConv\n",
    "layers/deform_conv.py": "from torch import nn\nfrom detectron2 import _C\n\n"
    "def deform_conv(*tensors):\n    return _C.deform_conv_forward(*tensors)\n\n"
    "def modulated_deform_conv(*tensors):\n    return _C.modulated_deform_conv_forward(*tensors)\n\n"
    "class DeformConv(nn.Module):\n    def forward(self, *tensors):\n        return deform_conv(*tensors)\n",
}


def test_detectron2(tmp_path: Path) -> None:
    program = """
import dcn.compat.detectron2
print(dcn.compat.detectron2.install())
from detectron2.layers import DeformConv, modulated_deform_conv
torch.testing.assert_close(DeformConv()(x, offset, weight), deform_conv2d(x, offset, weight))
torch.testing.assert_close(modulated_deform_conv(x, offset, mask, weight), deform_conv2d(x, offset, weight, mask=mask))
from detectron2 import _C
try:
    _C.box_iou_rotated()
except ValueError as error:
    print(error)
"""
    first, error = _run(program, _package(tmp_path, DETECTRON2, "detectron2"))
    assert first == "('deform_conv', 'modulated_deform_conv')"
    assert error.startswith("detectron2._C.box_iou_rotated: expected a compiled function, got none")


def test_without_mmcv(tmp_path: Path) -> None:
    hidden = "import importlib.util\nimportlib.util.find_spec = lambda name: None\n"
    assert _run(f"{hidden}print(dcn.compat.mmcv.install())", tmp_path) == ["()"]


def _loss_of_one(logit: float, is_target: bool, gamma: float, alpha: float) -> float:
    """Equation 5 of the paper."""
    p = 1 / (1 + math.exp(-logit))
    return -alpha * (1 - p) ** gamma * math.log(p) if is_target else -(1 - alpha) * p**gamma * math.log(1 - p)


@pytest.mark.parametrize("weight", [None, [2.0, 0.5, 1.0]], ids=["plain", "weighted"])
def test_focal_loss(weight: list[float] | None) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(5, 3, generator=generator, dtype=torch.float32, requires_grad=True)
    target = torch.tensor([0, 2, 3, 1, 3])
    weights = None if weight is None else torch.tensor(weight)
    got = mmcv.sigmoid_focal_loss(logits, target, 1.5, 0.3, weights, "none")
    for n, c in ((n, c) for n in range(5) for c in range(3)):
        factor = 1.0 if weight is None or target[n] == 3 else weight[int(target[n])]
        expected = factor * _loss_of_one(logits[n, c].item(), target[n].item() == c, 1.5, 0.3)
        assert abs(got[n, c].item() - expected) < 1e-6
    mean = mmcv.sigmoid_focal_loss(logits, target, 1.5, 0.3, weights)
    torch.testing.assert_close(mean, got.sum() / 5)
    torch.testing.assert_close(mmcv.sigmoid_focal_loss(logits, target, 1.5, 0.3, weights, "sum"), got.sum())
    assert torch.autograd.grad(mean, logits)[0].isfinite().all()
    far = mmcv.sigmoid_focal_loss(torch.tensor([[-200.0, 200.0]]), torch.tensor([0]), reduction="none")
    torch.testing.assert_close(far, torch.tensor([[50.0, 150.0]]))


def test_masked_convolution() -> None:
    generator = torch.Generator().manual_seed(0)
    x, weight, bias = (torch.randn(*shape, generator=generator) for shape in ((1, 2, 5, 6), (3, 2, 3, 3), (3,)))
    mask = torch.randint(-1, 2, (1, 5, 6), generator=generator)
    got = mmcv.masked_conv2d(x, mask, weight, bias, 1)
    full = F.conv2d(x, weight, bias, padding=1)
    assert torch.equal(got[:, :, mask[0] > 0], full[:, :, mask[0] > 0])
    assert (got[:, :, mask[0] <= 0] == 0).all()
    with pytest.raises(Refused, match="mask: expected"):
        mmcv.masked_conv2d(x, mask, weight, bias)
    with pytest.raises(Refused, match="stride: expected 1"):
        mmcv.masked_conv2d(x, mask, weight, bias, 1, 2)


def _by_memory(maps: Tensor, rows: int, columns: int) -> Tensor:
    """What mmcv's kernel reads: the number at ``(channel * rows + row) * columns + column`` of an image's memory."""
    result = np.zeros((maps.shape[0], maps.shape[1], rows, columns))
    for image in range(maps.shape[0]):
        memory = maps[image].numpy().ravel()
        for channel in range(maps.shape[1]):
            for row in range(rows):
                for column in range(columns):
                    result[image, channel, row, column] = memory[(channel * rows + row) * columns + column]
    return torch.from_numpy(result)


def test_an_offset_that_is_larger_than_the_output() -> None:
    """DyHead gives the layer of a coarser map the offsets of a finer one."""
    generator = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(*s, generator=generator, dtype=torch.float64) for s in ((2, 4, 3, 4), (4, 2, 3, 3)))
    offset, mask = (torch.randn(2, c, 6, 8, generator=generator, dtype=torch.float64) for c in (36, 18))
    expected = mmcv.modulated_deform_conv2d(
        x, _by_memory(offset, 3, 4), _by_memory(mask, 3, 4), weight, None, 1, 1, 1, 2, 2
    )
    offset.requires_grad_()
    with pytest.warns(UserWarning, match=r"the offset is \[6, 8\] and the output \[3, 4\]; it is read by its memory"):
        got = mmcv.modulated_deform_conv2d(x, offset, mask, weight, None, 1, 1, 1, 2, 2)
    torch.testing.assert_close(got, expected)
    (grad,) = torch.autograd.grad(got.sum(), offset)
    assert grad.flatten(1)[:, : 36 * 12].abs().sum() > 0
    assert grad.flatten(1)[:, 36 * 12 :].abs().sum() == 0
    with pytest.raises(ValueError, match="offset: expected shape"):
        mmcv.modulated_deform_conv2d(x, offset[..., :2, :2], mask[..., :2, :2], weight, None, 1, 1, 1, 2, 2)
    with pytest.raises(ValueError, match="offset: expected shape"):
        mmcv.modulated_deform_conv2d(x, offset, mask[..., :3, :4], weight, None, 1, 1, 1, 2, 2)
