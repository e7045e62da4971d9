"""``install()`` of several drop-ins: every case is a process of its own, since modules cannot be taken back."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

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


# BasicSR's layers can be imported without their extension, and fail when they are called.
BASICSR = {
    "__init__.py": "",
    "ops/__init__.py": "",
    "ops/dcn/__init__.py": "from .deform_conv import ModulatedDeformConv, deform_conv, modulated_deform_conv\n",
    "ops/dcn/deform_conv.py": "from torch import nn\ntry:\n    from . import deform_conv_ext\nexcept ImportError:\n"
    "    pass\n\ndef deform_conv(*tensors):\n    return deform_conv_ext.deform_conv_forward(*tensors)\n\n"
    "def modulated_deform_conv(*tensors):\n    return deform_conv_ext.modulated_deform_conv_forward(*tensors)\n\n"
    "class ModulatedDeformConv(nn.Module):\n    def forward(self, *tensors):\n"
    "        return modulated_deform_conv(*tensors)\n",
}


def test_basicsr(tmp_path: Path) -> None:
    program = """
import dcn.compat.basicsr
print(dcn.compat.basicsr.install())
from basicsr.ops.dcn import ModulatedDeformConv, deform_conv
torch.testing.assert_close(deform_conv(x, offset, weight), deform_conv2d(x, offset, weight))
torch.testing.assert_close(ModulatedDeformConv()(x, offset, mask, weight), deform_conv2d(x, offset, weight, mask=mask))
"""
    assert _run(program, _package(tmp_path, BASICSR, "basicsr")) == ["('basicsr.ops.dcn.deform_conv',)"]


def test_without_mmcv(tmp_path: Path) -> None:
    hidden = "import importlib.util\nimportlib.util.find_spec = lambda name: None\n"
    assert _run(f"{hidden}print(dcn.compat.mmcv.install())", tmp_path) == ["()"]
