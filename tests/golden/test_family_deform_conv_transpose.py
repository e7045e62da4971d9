"""Transposed deformable convolution against numbers of the original."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dcn.ops.deform_conv import BACKENDS
from tests.golden import family_deform_conv_transpose as family
from tests.golden.family_dcnv3 import available, read

FOLDER = Path(__file__).parent / "family"
FILES = sorted(path.name for path in FOLDER.glob("tdc2d_*.npz"))


def test_the_files_are_there() -> None:
    assert len(FILES) == 2


@pytest.mark.parametrize("name", FILES)
def test_every_array_is_within_the_limits(name: str) -> None:
    data = read(FOLDER / name)
    meta = json.loads(str(data.pop("meta")))
    findings = list(family.check_deform_conv_transpose2d(data, meta))
    assert {finding.backend for finding in findings} == set(available(BACKENDS))
    assert not [finding for finding in findings if finding.bad]
    assert {finding.name for finding in findings} == {
        key for key in data if key == "output" or key.startswith("grad_")
    } - {"grad_output"}
