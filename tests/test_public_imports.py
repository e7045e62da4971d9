"""Programs of users import from these modules; a move inside of the package leaves them where they are."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module

import pytest


@pytest.mark.parametrize(
    "name",
    [
        "dcn.data.check.check_dataset",
        "dcn.data.images.read_image",
        "dcn.data.open_dataset",
        "dcn.metrics.evaluate_files",
        "dcn.models.build",
        "dcn.models.checkpoints.read_detector",
        "dcn.nn.DeformConv2d",
        "dcn.ops.deform_conv2d",
        "dcn.ops.deform_roi_pool",
        "dcn.structures.SegmentationMap",
        "dcn.structures.Target",
    ],
)
def test_a_name_stays_where_programs_import_it(name: str) -> None:
    module, _, member = name.rpartition(".")
    assert callable(getattr(import_module(module), member))


def _printed(program: str) -> str:
    return subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout.strip()


@pytest.mark.parametrize("name", ["nn.DeformConv2d", "ops.nms", "data.open_dataset", "metrics.CocoAP"])
def test_parts_are_there_after_import_dcn(name: str) -> None:
    assert _printed(f"import dcn; print(dcn.{name}.__name__)") == name.rpartition(".")[2]


def test_import_dcn_alone_imports_no_layer() -> None:
    assert _printed("import sys, dcn; print('dcn.nn' in sys.modules)") == "False"


@pytest.mark.parametrize(
    ("name", "end"),
    [
        ("DeformConv2d", "'DeformConv2d'; it is dcn.nn.DeformConv2d"),
        ("nms", "'nms'; it is dcn.ops.nms"),
        ("Deform", "'Deform'"),
    ],
)
def test_a_layer_looked_for_in_dcn_is_located(name: str, end: str) -> None:
    with pytest.raises(AttributeError, match=f"has no attribute {end}$"):
        getattr(import_module("dcn"), name)
