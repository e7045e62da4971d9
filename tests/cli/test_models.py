from __future__ import annotations

import json

import pytest

from dcn.cli.main import main
from dcn.cli.models import parameter_count


def test_counts_are_the_published_ones() -> None:
    """Against sums over the layers; mmdetection gives 41.53 M for the plain one, without the frozen 225,344."""
    backbone = 25_557_032 - 2_049_000  # torchvision's ResNet-50 without its classifier
    neck = sum(256 * (channels + 1) + 256 * (256 * 9 + 1) for channels in (256, 512, 1024, 2048))
    proposals = 256 * (256 * 9 + 1) + 15 * 257
    head = 1024 * (256 * 49 + 1) + 1024 * 1025 + (81 + 4 * 80) * 1025
    plain = parameter_count("faster_rcnn_r50_fpn")
    assert plain == backbone + neck + proposals + head
    assert round((plain - 225_344) / 1e6, 2) == 41.53
    offsets = sum(18 * (9 * channels + 1) * count for channels, count in ((128, 4), (256, 6), (512, 3)))
    assert parameter_count("faster_rcnn_r50_fpn_dconv_c3-c5") - plain == offsets


def test_options_of_one_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "faster_rcnn_r50_fpn", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["depth"] == 50


def test_a_filtered_list_gives_what_was_published(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "--filter", "fpn_r101_dcn", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    published = {"figure": "AP 41.2", "data": "COCO minival", "source": "README of the original MXNet code"}
    assert rows == {"fpn_r101_dcn": {"parameters": 72_225_751, "test_size": [800, 1280], "published": published}}


def test_a_filter_without_a_match_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "--filter", "yolo"]) == 2
    assert "no model has 'yolo'" in capsys.readouterr().err
