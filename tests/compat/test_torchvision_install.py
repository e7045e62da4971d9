"""``install()``: every case is a Python process of its own, since operators cannot be taken back."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

# What matters of torchvision's import where its library does not load: fake kernels are registered for operators that
# may not exist, and every function asks whether the library is there.
BROKEN = {
    "__init__.py": "from torchvision import extension, _meta_registrations, ops",
    "extension.py": "def _has_ops():\n    return False\n\n"
    "def _assert_has_ops():\n    if not _has_ops():\n        raise RuntimeError('no ops')\n",
    "_meta_registrations.py": "import torch\n\n@torch.library.register_fake('torchvision::nms')\n"
    "def fake(dets, scores, iou_threshold):\n"
    "    return dets.new_empty(torch.library.get_ctx().new_dynamic_size(), dtype=torch.int64)\n\n"
    "@torch.library.register_fake('torchvision::qnms')\ndef fake_q(dets, scores, iou_threshold):\n    return dets\n",
    "ops.py": "import torch\nfrom torchvision.extension import _assert_has_ops\n\n"
    "def nms(boxes, scores, iou_threshold):\n    _assert_has_ops()\n"
    "    return torch.ops.torchvision.nms(boxes, scores, iou_threshold)\n",
}
COMPLETE = {
    "__init__.py": "import torch\nlibrary = torch.library.Library('torchvision', 'DEF')\n"
    "for name in 'nms roi_align roi_pool ps_roi_align ps_roi_pool deform_conv2d'.split():\n"
    "    library.define(name + '(Tensor x) -> Tensor')\n"
    "    library.impl(name, lambda x: x + 1, 'CompositeImplicitAutograd')\n",
}
CALLS = """
import torch
boxes = torch.tensor([[0.0, 0, 10, 10], [1, 1, 10, 10], [20, 20, 30, 30]])
scores = torch.tensor([0.5, 0.9, 0.7])
"""


def _run(program: str, *folders: Path) -> str:
    source = Path(__file__).parents[2] / "src"
    path = [str(folder) for folder in (*folders, source)]
    code = f"import sys\nsys.path[:0] = {path!r}\n{CALLS}\n{program}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


HIDDEN = """
import importlib.util
find = importlib.util.find_spec
importlib.util.find_spec = lambda name: None if name == "torchvision" else find(name)
"""


def _package(tmp_path: Path, files: dict[str, str]) -> Path:
    (tmp_path / "torchvision").mkdir()
    for name, text in files.items():
        (tmp_path / "torchvision" / name).write_text(text)
    return tmp_path


def test_without_torchvision() -> None:
    program = """
from dcn.compat.torchvision import install
from dcn import ops
assert install() == ('nms', 'roi_align', 'roi_pool', 'ps_roi_align', 'ps_roi_pool', 'deform_conv2d')
assert install() == ()
tv = torch.ops.torchvision
print(tv.nms(boxes, scores, 0.5).tolist())
x = torch.randn(1, 8, 9, 9, requires_grad=True)
rois = torch.tensor([[0.0, 1, 1, 7, 6]])
for name, own in (('roi_align', ops.roi_align), ('ps_roi_align', ops.ps_roi_align)):
    more = (2, False) if name == 'roi_align' else (2,)
    result = getattr(tv, name)(x, rois, 0.5, 2, 2, *more)
    result = result if name == 'roi_align' else result[0]
    torch.testing.assert_close(result, own(x, rois, 2, 0.5, 2))
torch.testing.assert_close(tv.roi_pool(x, rois, 0.5, 2, 2)[0], ops.roi_pool(x, rois, 2, 0.5))
pooled, channels = tv.ps_roi_pool(x, rois, 0.5, 2, 2)
torch.testing.assert_close(pooled, ops.ps_roi_pool(x, rois, 2, 0.5, rounding='after_scale'))
assert channels.flatten().tolist() == list(range(8))
offset, weight = torch.randn(1, 18, 7, 7), torch.randn(4, 8, 3, 3)
out = tv.deform_conv2d(x, weight, offset, torch.zeros(0), torch.zeros(4), 1, 1, 0, 0, 1, 1, 1, 1, False)
torch.testing.assert_close(out, ops.deform_conv2d(x, offset, weight, torch.zeros(4)))
out.sum().backward()
assert x.grad.abs().sum() > 0
"""
    assert _run(HIDDEN + program).split() == ["[1,", "2]"]


def test_exported_programs_load_and_run(tmp_path: Path) -> None:
    program = f"""
from dcn.compat.torchvision import install
install()
class Model(torch.nn.Module):
    def forward(self, boxes, scores, x, rois):
        keep = torch.ops.torchvision.nms(boxes, scores, 0.5)
        return keep, torch.ops.torchvision.roi_align(x, rois, 0.5, 2, 2, 2, False)
args = (boxes, scores, torch.randn(1, 2, 9, 9), torch.tensor([[0.0, 1, 1, 7, 6]]))
torch.export.save(torch.export.export(Model(), args), {str(tmp_path / "m.pt2")!r})
keep, pooled = torch.export.load({str(tmp_path / "m.pt2")!r}).module()(*args)
print(keep.tolist(), list(pooled.shape))
"""
    assert _run(HIDDEN + program).strip() == "[1, 2] [1, 2, 2, 2]"


def test_a_torchvision_that_does_not_import_is_revived(tmp_path: Path) -> None:
    program = """
import pytest
with pytest.raises(RuntimeError, match='torchvision::nms does not exist'):
    import torchvision
from dcn.compat.torchvision import install
assert 'nms' in install()
import torchvision
print(torchvision.ops.nms(boxes, scores, 0.5).tolist())
"""
    assert _run(program, _package(tmp_path, BROKEN)).strip() == "[1, 2]"


@pytest.mark.parametrize("first", ["import torchvision", ""], ids=["imported before", "not imported"])
def test_a_complete_torchvision_is_not_touched(tmp_path: Path, first: str) -> None:
    program = f"""
{first}
from dcn.compat.torchvision import install
assert install() == ()
print(torch.ops.torchvision.nms(torch.ones(2)).tolist())
"""
    assert _run(program, _package(tmp_path, COMPLETE)).strip() == "[2.0, 2.0]"
