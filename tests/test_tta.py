"""Test-time options check themselves and give the size of every pass."""

from __future__ import annotations

from typing import Any

import pytest

from dcn.tta import TTA


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({"scales": (0.0,)}, "scales: expected positive factors up to 16", id="factor-zero"),
        pytest.param({"scales": (float("nan"),)}, "scales: expected positive factors up to 16", id="factor-nan"),
        pytest.param({"scales": ((800, 600),)}, r"scales: expected pairs .* got \[800, 600\]", id="pair-order"),
        pytest.param({"flip": 3}, "flip: expected True or False, got 3", id="flip"),
        pytest.param({"iou": 1.5}, "iou: expected an overlap", id="iou"),
        pytest.param({"box_voting": -0.1}, "box_voting: expected an overlap", id="box-voting"),
        pytest.param({"sigma": 0.0}, "sigma: expected a number above 0", id="sigma"),
        pytest.param({"max_per_image": 0}, "max_per_image: expected 1 or more", id="max-per-image"),
        pytest.param({"class_thresholds": {"cat": 2.0}}, "class_thresholds.cat: expected a score", id="threshold"),
        pytest.param({"window": (100, 200)}, "window: expected sides at least 16 pixels longer", id="window"),
    ],
)
def test_a_bad_option_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TTA(**options)


def test_factors_multiply_the_test_size_and_pairs_stand() -> None:
    assert TTA(scales=(0.5, (480, 800), 1.25)).sizes((600, 1000)) == ((300, 500), (480, 800), (750, 1250))


def test_the_default_is_one_pass_at_the_test_size() -> None:
    assert TTA().is_default
    assert not TTA(flip=True).is_default
    assert TTA().sizes((600, 1000)) == ((600, 1000),)
