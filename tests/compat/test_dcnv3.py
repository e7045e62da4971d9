"""Drop-ins for the packages DCNv3, ops_dcnv3 and DCNv4."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import grid_sample

from dcn import ops
from dcn.compat import convert, dcnv3, dcnv4
from tests.ops.cases import close
from tests.ops.dcnv3_cases import CASES, Case, gradients, run_v3

v3: Any = dcnv3
v4: Any = dcnv4
NAMES = ["3x3", "awkward", "remove-center", "stride-dilation"]


def _numbers(case: Case) -> tuple[int, ...]:
    return (*case.kernel, *case.stride, *case.padding, *case.dilation, case.groups, case.depth)


@pytest.mark.parametrize("name", NAMES)
def test_the_functions_of_dcnv3(name: str) -> None:
    case = CASES[name]
    tensors, numbers = case.tensors(), _numbers(case)
    expected = gradients(lambda t: run_v3(case, t), tensors)
    flag = () if not case.remove_center else (True,)
    actual = gradients(lambda t: v3.DCNv3Function.apply(*t, *numbers, case.scale, 256, *flag), tensors)
    for a, b in zip(actual, expected, strict=True):
        close(a, b, torch.float64)
    output = v3.dcnv3_forward(*tensors, *numbers, case.scale, 7, *flag)
    assert not output.requires_grad
    grad = torch.randn(output.shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    raw = [output, *v3.dcnv3_backward(*tensors, *numbers, case.scale, grad, 7, *flag)]
    for a, b in zip(raw, expected, strict=True):
        close(a, b, torch.float64)


@pytest.mark.parametrize("name", [*NAMES, "softmax"])
def test_the_functions_of_dcnv4(name: str) -> None:
    case = CASES[name]
    input, offset, mask = case.tensors()
    tensors, numbers = [input, case.fused(offset, mask)], _numbers(case)
    options: Any = case.options()
    expected = gradients(lambda t: ops.dcnv4(t[0], t[1], **options), tensors)
    flags = (case.remove_center, 8, 128, case.softmax)
    output = v4.dcnv4_forward(*tensors, *numbers, case.scale, 256, *flags)
    grad = torch.randn(output.shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    raw = [output, *v4.dcnv4_backward(*tensors, *numbers, case.scale, 256, grad, *flags)]
    for a, b in zip(raw, expected, strict=True):
        close(a, b, torch.float64)
    if not case.softmax:
        actual = gradients(
            lambda t: v4.DCNv4Function.apply(*t, *numbers, case.scale, 256, case.remove_center),
            tensors,
        )
        for a, b in zip(actual, expected, strict=True):
            close(a, b, torch.float64)


def test_flash_attention_is_attention_with_a_softmax_inside() -> None:
    """Against grid_sample, the formula that the original is compared with."""
    shapes, points = torch.tensor([[4, 5], [2, 3]]), 3
    value = torch.randn(2, 26, 2, 4, dtype=torch.float64)
    packed = torch.rand(2, 7, 2, 18, dtype=torch.float64)
    starts = torch.tensor([0, 20])
    weights = packed[..., 12:].softmax(-1).reshape(2, 7, 2, 2, points)
    locations = packed[..., :12].reshape(2, 7, 2, 2, points, 2)
    total = torch.zeros(2, 7, 2, 4, dtype=torch.float64)
    for level, (height, width) in enumerate(shapes.tolist()):
        rows = value[:, int(starts[level]) : int(starts[level]) + height * width]
        maps = rows.permute(0, 2, 3, 1).reshape(4, 4, height, width)
        grid = 2 * locations[:, :, :, level].transpose(1, 2).reshape(4, 7, points, 2) - 1
        samples = grid_sample(maps, grid, align_corners=False).reshape(2, 2, 4, 7, points)
        total += torch.einsum("nmdqp,nqmp->nqmd", samples, weights[:, :, :, level])
    actual = v4.FlashDeformAttnFunction.apply(value, shapes, starts, packed, 64, points)
    close(actual, total.flatten(2), torch.float64)


@pytest.mark.parametrize(
    ("kind", "name"), [(v3.DCNv3Function, "offset"), (v4.DCNv4Function, "mask")], ids=["dcnv3", "dcnv4"]
)
def test_maps_with_channels_first_are_refused(kind: Any, name: str) -> None:
    case = CASES["wide-groups"]
    input, offset, mask = case.tensors()
    rest = [offset, mask] if name == "offset" else [case.fused(offset, mask)]
    with pytest.raises(ValueError, match="channels-last"):
        kind.apply(input.movedim(-1, 1), *rest, *_numbers(case), 1.0, 256)


def test_offsets_of_another_type_are_cast() -> None:
    case = CASES["3x3"]
    input, offset, mask = case.tensors(torch.float32)
    output = v3.dcnv3_core_pytorch(input, offset.double(), mask.half(), *_numbers(case), 1.0)
    assert output.dtype == torch.float32


def _foreign(kind: type[nn.Module], name: str) -> type[nn.Module]:
    """A class of that name outside of this package."""
    return type(name, (kind,), {"__module__": "somewhere.modules"})


@pytest.mark.parametrize("norm", ["LN", "BN"])
@pytest.mark.parametrize("name", ["DCNv3", "DCNv3_pytorch"])
def test_convert_swaps_dcnv3(name: str, norm: str) -> None:
    options = {"group": 2, "norm_layer": norm, "act_layer": "SiLU", "center_feature_scale": True}
    model = nn.Sequential(_foreign(v3.DCNv3, name)(8, **options))
    x = torch.randn(1, 5, 6, 8)
    before = model(x)
    assert convert(model).changed == (("0", name, "dcn.nn.dcnv3.DCNv3"),)
    assert type(model[0]) is v3.DCNv3
    close(model(x), before, torch.float32)


@pytest.mark.parametrize("options", [{}, {"output_bias": False, "dw_kernel_size": 3}, {"without_pointwise": True}])
def test_convert_swaps_dcnv4(options: dict[str, Any]) -> None:
    model = nn.Sequential(_foreign(v4.DCNv4, "DCNv4")(8, group=2, remove_center=True, **options))
    nn.init.normal_(model[0].get_parameter("offset_mask.weight"))
    x = torch.randn(1, 16, 8)
    before = model(x)
    assert convert(model).changed == (("0", "DCNv4", "dcn.nn.dcnv4.DCNv4"),)
    close(model(x), before, torch.float32)


def _run(program: str, *folders: Path) -> str:
    path = [str(folder) for folder in (*folders, Path(__file__).parents[2] / "src")]
    code = f"import sys\nsys.path[:0] = {path!r}\n{program}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


# As InternImage's ops_dcnv3/functions/dcnv3_func.py begins.
ORIGINAL = """
from dcn.compat.dcnv3 import install
print(len(install()), install())
import DCNv3
from importlib.metadata import version
assert float(version("DCNv3")) > 1.0
try:
    import pkg_resources
except ImportError:
    pass
else:
    assert float(pkg_resources.get_distribution("DCNv3").version) > 1.0
from ops_dcnv3 import modules as opsm
import ops_dcnv3.functions.dcnv3_func
layer = getattr(opsm, "DCNv3")(channels=8, group=2)
import torch
assert layer(torch.zeros(1, 4, 4, 8)).shape == (1, 4, 4, 8)
assert callable(DCNv3.dcnv3_forward) and callable(DCNv3.dcnv3_backward)
"""


def test_install_fills_in_the_packages_of_internimage() -> None:
    assert _run(ORIGINAL) == "6 ()\n"


def test_install_leaves_a_working_extension_alone(tmp_path: Path) -> None:
    (tmp_path / "DCNv3.py").write_text("def dcnv3_forward():\n    return 'theirs'\n")
    program = """
from dcn.compat.dcnv3 import install
print("DCNv3" in install())
import DCNv3
print(DCNv3.dcnv3_forward())
print("DCNv3" in install(replace=True))
import DCNv3
print(DCNv3.dcnv3_forward.__module__)
"""
    assert _run(program, tmp_path).split() == ["False", "theirs", "True", "dcn.compat.dcnv3"]


def test_install_fills_in_dcnv4() -> None:
    program = """
from dcn.compat.dcnv4 import install
print(len(install()), install())
from DCNv4 import DCNv4, DCNv4Function, FlashDeformAttn, FlashDeformAttnFunction, ext
from DCNv4.modules.dcnv4 import DCNv4 as same
from DCNv4.functions.dcnv4_func import DCNv4Function
import torch
assert same is DCNv4
assert DCNv4(channels=16, group=2)(torch.zeros(1, 16, 16)).shape == (1, 16, 16)
assert callable(ext.dcnv4_forward) and callable(ext.dcnv4_backward)
"""
    assert _run(program) == "8 ()\n"


def test_install_gives_a_package_without_its_extension_what_it_lacks(tmp_path: Path) -> None:
    (tmp_path / "DCNv4").mkdir()
    (tmp_path / "DCNv4" / "__init__.py").write_text("from DCNv4 import ext\n\nclass DCNv4Function:\n    pass\n")
    program = """
from dcn.compat.dcnv4 import install
print(install())
import DCNv4
print(DCNv4.DCNv4Function.__module__, DCNv4.ext.dcnv4_forward.__module__)
"""
    assert _run(program, tmp_path) == "('DCNv4.ext',)\nDCNv4 dcn.compat.dcnv4\n"
