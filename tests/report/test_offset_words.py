from __future__ import annotations

from typing import Any

import pytest

from dcn.report.offset_words import last_offset, near_zero


@pytest.mark.parametrize(
    ("convolutions", "pooling", "said"),
    [
        pytest.param(None, None, [], id="no-offsets"),
        pytest.param(0.3, 0.1, [], id="both-moved"),
        pytest.param(0.01, None, ["almost ordinary convolutions"], id="convolutions-stayed"),
        pytest.param(0.3, 0.004, ["RoI pooling stayed"], id="pooling-stayed"),
        pytest.param(0.01, 0.004, ["almost ordinary convolutions", "RoI pooling stayed"], id="both-stayed"),
    ],
)
def test_offsets_that_hardly_moved_are_named(
    convolutions: float | None, pooling: float | None, said: list[str]
) -> None:
    text = near_zero(convolutions, pooling)
    assert bool(text) == bool(said)
    assert ("schedule.optimizer=adamw" in text) == bool(said)
    for part in ("almost ordinary convolutions", "RoI pooling stayed"):
        assert (part in text) == (part in said)


def test_the_last_row_that_has_the_number_counts() -> None:
    history: list[dict[str, Any]] = [{"offsets/mean": 0.1}, {"offsets/mean": 0.2, "offsets/pool": None}, {"AP": 0.5}]
    assert last_offset(history, "mean") == 0.2
    assert last_offset(history, "pool") is None
