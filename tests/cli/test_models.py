from __future__ import annotations

import json
from typing import Any

import pytest

from dcn.analysis import model_costs
from dcn.cli.main import main
from dcn.models import MODELS
from dcn.models.zoo.costs import COSTS


def test_counts_are_the_published_ones() -> None:
    """Against sums over the layers; mmdetection gives 41.53 M for the plain one, without the frozen 225,344."""
    backbone = 25_557_032 - 2_049_000  # torchvision's ResNet-50 without its classifier
    neck = sum(256 * (channels + 1) + 256 * (256 * 9 + 1) for channels in (256, 512, 1024, 2048))
    proposals = 256 * (256 * 9 + 1) + 15 * 257
    head = 1024 * (256 * 49 + 1) + 1024 * 1025 + (81 + 4 * 80) * 1025
    plain = COSTS["faster_rcnn_r50_fpn"][0]
    assert plain == backbone + neck + proposals + head
    assert round((plain - 225_344) / 1e6, 2) == 41.53
    offsets = sum(18 * (9 * channels + 1) * count for channels, count in ((128, 4), (256, 6), (512, 3)))
    assert COSTS["faster_rcnn_r50_fpn_dconv_c3-c5"][0] - plain == offsets


def test_every_network_has_its_costs() -> None:
    assert COSTS.keys() == MODELS.keys()


# One of each kind; tests/slow/test_costs.py counts all.
COUNTED = ("mask_rcnn_r50_fpn_mdconv_c3-c5", "rfcn_r101_dcn", "fpn_r50_dcn", "deeplab_r101_dcn", "rpn_r50")


@pytest.mark.parametrize("name", COUNTED)
def test_the_table_of_costs_is_what_is_counted(name: str) -> None:
    parameters, count = model_costs(name)
    assert COSTS[name] == (parameters, round(count.total / 1e9, 1))


@pytest.mark.parametrize(("name", "printed"), [("faster_rcnn_r50_fpn", 207.07), ("mask_rcnn_r50_fpn", 260.14)])
def test_multiply_adds_are_those_that_mmdetection_prints(name: str, printed: float) -> None:
    """At 800 x 1280. Its counter adds batch norm and activations, 0.2 to 0.3 %, and leaves the RoI pooling out."""
    _, count = model_costs(name, (800, 1280))
    assert count.total / 1e9 == pytest.approx(printed, rel=0.004)


def test_pooling_of_a_pyramid_is_counted_once() -> None:
    """1000 regions, each on one level: pooled, through three linear layers that give offsets, and pooled again."""
    _, plain = model_costs("faster_rcnn_r50_fpn", (320, 320))
    _, deformable = model_costs("faster_rcnn_r50_fpn_dpool", (320, 320))
    linear = 256 * 49 * 1024 + 1024 * 1024 + 1024 * 2 * 49
    pooling = 256 * 49 * 4 * 4
    assert deformable.total - plain.total == 1000 * (linear + pooling)


def test_one_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "faster_rcnn_r18_fpn", "--json", "--size", "160x200"]) == 0
    row = json.loads(capsys.readouterr().out)
    assert row["options"]["depth"] == 18
    assert row["size"] == [160, 200]
    assert row["gflops"] < COSTS["faster_rcnn_r18_fpn"][1] / 4
    assert sum(row["gflops_by_part"].values()) == pytest.approx(row["gflops"], abs=0.05)
    assert set(row["gflops_by_part"]) == {"backbone", "neck", "rpn_head", "roi_head"}


def test_one_model_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "rfcn_r101_dcn"]) == 0
    text = capsys.readouterr().out
    assert "63,056,845 parameters" in text
    assert "at 600x1000" in text
    assert text.count("published: ") == 4
    assert "mAP 82.3 / 67.8 at IoU 0.5 / 0.7 (VOC 2007 test; README of the original MXNet code)" in text
    assert "anchor_scales = (4, 8, 16, 32)" in text


def test_a_filtered_list_gives_what_was_published(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "--filter", "fpn_r101_dcn", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    source = "README of the original MXNet code"
    published: list[dict[str, Any]] = [
        {"metrics": "AP 41.2", "data": "COCO minival", "source": source, "recipe": "fpn_r101_dcn_coco"},
        {
            "metrics": "AP 44.4 (multi-scale, soft-NMS)",
            "data": "COCO minival",
            "source": source,
            "recipe": "fpn_r101_dcn_coco_multiscale",
        },
    ]
    row = rows.pop("fpn_r101_dcn")
    assert rows == {}
    assert row.pop("gflops") == COSTS["fpn_r101_dcn"][1]
    assert row == {"parameters": 72_225_751, "test_size": [800, 1280], "published": published}


def test_the_list_has_a_line_per_network(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:-1]] == list(MODELS)
    (line,) = [line for line in lines if line.startswith("mask_rcnn_r50_fpn_dconv_c3-c5 ")]
    assert line.split()[1:3] == ["45.0", "M"]
    assert line.endswith("box AP 41.8, mask AP 37.4 (COCO val2017, 1x schedule; mmdetection, configs/dcn)")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--filter", "yolo"], "expected a part of the name of a model, got 'yolo'"),
        (["--size", "800x1333"], "--size: expected the name of one model"),
        (["rfcn_r11"], "did you mean 'rfcn_r101'"),
    ],
    ids=["filter", "size", "name"],
)
def test_a_wrong_call_is_an_error(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", *words]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("size", ["800", "0x5", "axb", "-1x3"])
def test_a_wrong_size_is_an_error(size: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["models", "rfcn_r101", f"--size={size}"])
    assert stopped.value.code == 2
    assert "expected height and width such as 800x1333" in capsys.readouterr().err
