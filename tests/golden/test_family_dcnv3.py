"""DCNv3 and DCNv4 against numbers of the originals."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from dcn.nn import DCNv3, DCNv4
from dcn.ops._dcnv3 import BACKENDS
from tests.golden import family_dcnv3 as family

FOLDER = Path(__file__).parent / "family"
FILES = sorted(path.name for path in FOLDER.glob("dcnv[34]_*.npz"))


def test_the_files_are_there() -> None:
    assert len(FILES) == 13


@pytest.mark.parametrize("name", FILES)
def test_every_array_is_within_the_limits(name: str) -> None:
    data = family.read(FOLDER / name)
    meta = json.loads(str(data.pop("meta")))
    check = next(check for prefix, check in family.KINDS if name.startswith(prefix))
    findings = list(check(data, meta))
    assert {finding.backend for finding in findings} == set(family.available(BACKENDS))
    assert not [finding for finding in findings if finding.bad]
    compared = {finding.name for finding in findings}
    inputs = ("input", "offset", "mask", "offset_mask", "grad_output")
    given = {key for key in data if "/param/" in key or key.split("/")[-1] in inputs}
    assert compared == {key.removesuffix("_cuda") for key in data if key not in given}


@pytest.mark.parametrize("kind", [DCNv3, DCNv4], ids=["dcnv3", "dcnv4"])
def test_keys_and_shapes_are_those_of_the_original(kind: type[torch.nn.Module]) -> None:
    data = family.read(FOLDER / f"{kind.__name__.lower()}_module.npz")
    for case in json.loads(str(data["meta"]))["cases"].values():
        state = kind(**case["options"]).state_dict()
        assert {name: list(value.shape) for name, value in state.items()} == case["keys"]
