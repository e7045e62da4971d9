"""Programs of users import from these modules; a move inside of the package leaves them where they are."""

from __future__ import annotations

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
