"""Every family with every kind of deformable layer learns eight photographs (see ``overfit.py``): minutes each."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.slow.overfit import NETWORKS, overfit


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_learns_eight_photographs(name: str, shared: Path) -> None:
    outcome = overfit(name, shared / "data" / "coco128", shared / "weights" / "resnet50_1by2_open_nsfw.pth")
    assert outcome.passed, outcome
