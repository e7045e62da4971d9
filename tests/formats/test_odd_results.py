"""Every kind of odd result file is scored right or refused by an error that names file and entry."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest

from dcn.metrics import evaluate_files
from tests.formats.odd_results import ALL, OddResult


@pytest.mark.parametrize("odd", [odd for odd in ALL if not odd.refused], ids=lambda odd: odd.what)
def test_perfect_results_get_the_best_score(tmp_path: Path, odd: OddResult) -> None:
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        result = evaluate_files(odd.results(tmp_path), odd.annotations(tmp_path), **odd.options)
    assert result["AP50"] == pytest.approx(1, abs=1e-6)
    assert odd.warning in " ".join(str(warning.message) for warning in said)


@pytest.mark.parametrize("odd", [odd for odd in ALL if odd.refused], ids=lambda odd: odd.what)
def test_refused_results_are_named(tmp_path: Path, odd: OddResult) -> None:
    results, annotations = odd.results(tmp_path), odd.annotations(tmp_path)
    with pytest.raises(ValueError) as caught:
        evaluate_files(results, annotations, **odd.options)
    assert odd.refused in str(caught.value)
    assert any(path.name in str(caught.value) for path in (results, annotations, *results.rglob("*")))
