"""How the translations reach torch's table: after ``import dcn``, whatever was imported before, at no cost."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from dcn.export import hook, onnx_translations

EXPORT = """
import torch
class Model(torch.nn.Module):
    def forward(self, x, offset, weight):
        from dcn.ops import deform_conv2d
        return deform_conv2d(x, offset, weight)
program = torch.onnx.export(
    Model(), (torch.zeros(1, 2, 5, 5), torch.zeros(1, 18, 3, 3), torch.zeros(2, 2, 3, 3)), opset_version={opset},
    verbose=False, dynamo=True,
)
print([node.op_type for node in program.model.graph])
"""


def _run(code: str) -> str:
    source = Path(__file__).parents[2] / "src"
    program = f"import sys\nsys.path.insert(0, {str(source)!r})\n{code}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_import_dcn_imports_nothing_of_torch_or_onnx() -> None:
    assert (
        _run("import dcn, sys; print([m for m in sys.modules if m.split('.')[0] in ('torch', 'onnx', 'onnxscript')])")
        == "[]"
    )


@pytest.mark.parametrize(
    "first", ["import dcn", "import torch.onnx, dcn", "from torch.onnx import export\nimport dcn"], ids=repr
)
def test_export_works_whatever_came_first(first: str) -> None:
    assert _run(first + EXPORT.format(opset=20)) == "['DeformConv']"


def test_a_deformable_convolution_needs_the_opset_of_its_node() -> None:
    assert _run("import dcn\n" + EXPORT.format(opset=19)) == "['DeformConv']"


def test_an_old_opset_is_refused_with_the_remedy() -> None:
    code = "import dcn\ntry:" + EXPORT.format(opset=18).replace("\n", "\n ") + "\nexcept Exception as e:\n print(e)"
    assert "call torch.onnx.export(..., opset_version=20)" in _run(code)


def test_other_models_need_no_new_opset() -> None:
    code = (
        "import dcn, torch\np = torch.onnx.export(torch.nn.ReLU(), (torch.zeros(2),), opset_version=18, verbose=False)"
    )
    assert _run(f"{code}\nprint(p.model.opset_imports)") == "{'': 18}"


def test_the_callers_own_table_goes_first() -> None:
    code = """
import dcn, torch
from onnxscript import opset20 as op
from dcn.ops import nms
class Model(torch.nn.Module):
    def forward(self, boxes, scores):
        return nms(boxes, scores, 0.5)
table = {torch.ops.dcn.nms.default: lambda boxes, scores, *rest: op.Cast(scores, to=7)}
p = torch.onnx.export(
    Model(), (torch.zeros(3, 4), torch.zeros(3)), opset_version=20, verbose=False, custom_translation_table=table
)
print([node.op_type for node in p.model.graph])
"""
    assert _run(code) == "['Cast']"


def test_watching_twice_changes_nothing() -> None:
    from torch.onnx._internal.exporter import _registration

    before = _registration.ONNXRegistry.from_torchlib
    hook.watch()
    hook.extend(_registration)
    assert _registration.ONNXRegistry.from_torchlib == before
    assert not any(getattr(finder, "name", None) == hook.MODULE for finder in sys.meta_path)


def test_an_unknown_torch_is_left_alone() -> None:
    module = ModuleType("unknown")
    hook.extend(module)
    assert [name for name in vars(module) if not name.startswith("__")] == []


def test_every_operator_of_the_package_has_a_translation() -> None:
    import dcn.ops

    names = {str(target) for target in onnx_translations()}
    actual: set[Any] = {
        f"dcn.{name}.default"
        for name in (
            schema.name.split("::")[1] for schema in torch._C._jit_get_all_schemas() if schema.name.startswith("dcn::")
        )
        if not name.endswith("_backward")
    }
    assert dcn.ops
    assert actual
    assert actual <= names
