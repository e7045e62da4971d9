from __future__ import annotations

from pathlib import Path

import pytest
import torch
from benchmarks.gpu import Row, Settings, networks

from dcn.bench.workload import plain_name
from dcn.models import MODELS, options_of


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(torch.device("cpu"), tmp_path, repetitions=1)


def test_a_dry_run_gives_rows_of_one_shape(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(networks, "TINY", networks.TINY[1:])
    actual = list(networks.rows(settings))
    assert [(row["case"], row["direction"]) for row in actual] == [
        ("deeplab_r18_dcn", "eager"),
        ("deeplab_r18", "eager"),
        ("deeplab_r18_dcn", "train"),
        ("deeplab_r18", "train"),
    ]
    assert len({tuple(row) for row in actual}) == 1
    assert all(row["note"] == "" for row in actual)
    assert 0 <= float(actual[0]["error"]) < 1e-5
    assert float(actual[0]["over_plain"]) == pytest.approx(
        float(actual[0]["median_ms"]) / float(actual[1]["median_ms"]), rel=0.01
    )
    assert "backbone=" in str(actual[0]["parts_ms"])


def test_what_cannot_run_says_why(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise RuntimeError("CUDA out of memory. Tried to allocate\nmore lines")

    monkeypatch.setattr(networks, "TINY", networks.TINY[1:])
    monkeypatch.setattr(networks, "measure", full)
    monkeypatch.setattr(networks, "_checked", lambda *_: ("0", "none"))
    actual = list(networks.rows(settings))
    assert {row["note"] for row in actual} == {"CUDA out of memory. Tried to allocate"}
    assert {row["images_per_second"] for row in actual} == {""}
    assert networks.summary(actual) == []


@pytest.mark.parametrize("name", [name for name, _ in networks.NETWORKS])
def test_every_network_exists_beside_its_plain_form(name: str) -> None:
    plain = plain_name(name)
    assert name in MODELS
    assert plain in MODELS
    assert "test_size" in options_of(name)


def _row(case: str, over_plain: float, speed: float, paper: float | str) -> Row:
    row: Row = {"case": case, "direction": "graph", "kind": "bfloat16", "batch": 8}
    return row | {"over_plain": over_plain, "images_per_second": speed, "paper": paper}


def test_the_summary_names_what_is_wanted() -> None:
    lines = networks.summary(
        [_row("rfcn_r101_dcn", 1.2, 9.0, 1.18), _row("faster_rcnn_r50_fpn_dconv_c3-c5", 1.05, 151.0, "")]
    )
    assert lines[0].endswith("1.2 times plain, papers 1.18, goal 1.1: missed")
    assert lines[1].endswith("151.0 images/s, goal 150: reached")
