"""Rows of measurements: what a file of them holds, and how calls are timed."""

from __future__ import annotations

import csv
from pathlib import Path

from benchmarks.record import FIELDS, Row, interleaved, store, timing


def _row(case: str, competitor: str, median: float, machine: str = "one") -> Row:
    row: Row = {"suite": "conv", "case": case, "direction": "forward", "load": "idle", "competitor": competitor}
    return row | {"median_ms": median, "machine": machine}


def test_a_new_row_takes_the_place_of_the_older_one_of_the_same_measurement(tmp_path: Path) -> None:
    path = tmp_path / "results" / "rows.csv"
    for row in (_row("a", "dcn", 1.0), _row("a", "conv2d", 2.0), _row("b", "dcn", 3.0), _row("a", "dcn", 4.0)):
        store(path, row)
    store(path, _row("a", "dcn", 5.0, "another"))
    with path.open(newline="") as file:
        reader = csv.DictReader(file)
        rows = [(row["case"], row["competitor"], row["median_ms"]) for row in reader]
    assert reader.fieldnames == list(FIELDS)
    assert rows == [("a", "conv2d", "2.0"), ("b", "dcn", "3.0"), ("a", "dcn", "4.0"), ("a", "dcn", "5.0")]


def test_calls_are_taken_in_turn_and_the_first_round_does_not_count() -> None:
    order: list[str] = []
    times = interleaved({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 2, 0.0)
    assert order == ["a", "b"] * 3
    assert {name: len(actual) for name, actual in times.items()} == {"a": 2, "b": 2}


def test_a_timing_is_the_median_with_percentiles() -> None:
    actual = timing([5.0, 1.0, 3.0, 2.0, 4.0])
    assert (actual["median_ms"], actual["repetitions"]) == (3.0, 5)
    assert float(actual["p20_ms"]) < 2.0 < 4.0 < float(actual["p80_ms"])
