"""Multi-scale deformable attention against numbers of the original, and the tool that prints them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from dcn.ops.ms_deform_attn import BACKENDS
from tests.golden import check_family
from tests.golden.family_dcnv3 import available, read

FOLDER = Path(__file__).parent / "family"
FILES = sorted(path.name for path in FOLDER.glob("msda_*.npz"))


def test_the_files_are_there() -> None:
    assert len(FILES) == 3


@pytest.mark.parametrize("name", FILES)
def test_every_array_is_within_the_limits(name: str) -> None:
    findings = check_family.check(FOLDER / name)
    assert {finding.backend for finding in findings} - {""} == set(available(BACKENDS))
    assert not [finding for finding in findings if finding.bad]
    compared = {finding.name for finding in findings}
    results = {key for key in read(FOLDER / name) if key.startswith(("grad_", "output", "initial"))}
    assert compared == {key.removesuffix("_cuda") for key in results - {"grad_output"}}


def test_a_wrong_number_is_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = read(FOLDER / "msda_one_level.npz")
    data["grad_value"][0, 0, 0, 0] += 1e-3
    np.savez(tmp_path / "msda_changed.npz", **data)  # type: ignore[arg-type]
    assert check_family.main([str(tmp_path / "msda_changed.npz")]) == 1
    failed = [line for line in capsys.readouterr().out.splitlines() if line.endswith("FAIL")]
    assert failed
    assert all("grad_value" in line for line in failed)


def test_a_file_of_no_known_kind(tmp_path: Path) -> None:
    np.savez(tmp_path / "other.npz", meta=json.dumps({}))
    with pytest.raises(ValueError, match="msda_"):
        check_family.check(tmp_path / "other.npz")
