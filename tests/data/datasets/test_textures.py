from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from dcn.data.datasets.textures import add_clutter, background, occluder


def test_background_has_the_asked_size_and_contrast() -> None:
    spread = {}
    for strength in (0.1, 1.0):
        grounds = [np.asarray(background(np.random.default_rng(seed), 60, 90, strength)) for seed in range(20)]
        assert all(ground.shape == (60, 90, 3) and ground.dtype == np.uint8 for ground in grounds)
        spread[strength] = np.mean([ground.std((0, 1)).mean() for ground in grounds])
    assert spread[1.0] > 6 * spread[0.1]
    assert 10 < spread[1.0] < 50


def test_clutter_changes_more_the_more_there_is() -> None:
    changed = []
    for count in (0, 5, 40):
        canvas = Image.new("RGB", (80, 60))
        add_clutter(np.random.default_rng(1), canvas, count)
        changed.append(int(np.asarray(canvas).any(-1).sum()))
    assert changed[0] == 0 < changed[1] < changed[2]


@pytest.mark.parametrize("share", [0.1, 0.3, 0.45])
def test_occluder_covers_about_its_share(share: float) -> None:
    rng = np.random.default_rng(2)
    covers = [occluder(rng, 40, 30, share) for _ in range(100)]
    assert np.mean([cover.mean() for cover in covers]) == pytest.approx(share, rel=0.35)
    assert max(cover.mean() for cover in covers) < 2 * share
    assert all(cover.shape == (40, 30) for cover in covers)
