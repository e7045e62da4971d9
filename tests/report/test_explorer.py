"""What the explorer's page carries; how it behaves is tested in a browser (tests/browser)."""

from __future__ import annotations

import base64
import json
import re
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dcn.models import build
from dcn.nn import DeformConv2d
from dcn.nn.convert import deformify
from dcn.report import Observation, explorer_page, observe
from dcn.report.explorer import RoIOffsets
from dcn.structures import Detections

SMALL = {"width": 0.125, "stem_channels": 8}
PYRAMID = SMALL | {"fpn_channels": 16, "fc_channels": 16, "test_proposals": (50, 20)}


def content(page: str) -> dict[str, Any]:
    """The data of a page."""
    actual = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)
    assert actual is not None
    data: dict[str, Any] = json.loads(actual[1])
    return data


def decoded(text: str, shape: list[int]) -> Tensor:
    return torch.from_numpy(np.frombuffer(base64.b64decode(text), dtype="<f4").copy()).reshape(shape)


@pytest.mark.parametrize(
    ("name", "options", "rois"),
    [
        pytest.param("faster_rcnn_r18_fpn_mdconv_c3-c5", PYRAMID, False, id="pyramid"),
        pytest.param("faster_rcnn_r50_fpn_mdpool", PYRAMID | {"deform_stages": ("c5",)}, True, id="modulated-pooling"),
        pytest.param("rcnn_r50_dcn", SMALL | {"head_channels": 16, "fc_channels": 16}, True, id="original-pooling"),
        pytest.param("rfcn_r50_dcn", SMALL | {"head_channels": 16}, True, id="class-specific-parts"),
        pytest.param("deeplab_r18_dcn", SMALL | {"head_channels": 16}, False, id="segmentation"),
    ],
)
def test_any_model_is_observed(name: str, options: dict[str, Any], rois: bool) -> None:
    torch.manual_seed(0)
    model = build(name, ("cat", "dog"), **options).eval()
    image = torch.randint(0, 256, (3, 64, 96), dtype=torch.uint8)
    seen = observe(model, image, name="a photo", min_score=0.0)
    assert bool(seen.rois) == rois
    data = content(explorer_page([seen]))["images"][0]
    assert (data["name"], data["width"], data["height"]) == ("a photo", 96, 64)
    assert [layer["name"] for layer in data["layers"]] == [layer.name for layer in seen.layers]
    for row, layer in zip(data["layers"], seen.layers, strict=True):
        assert torch.equal(decoded(row["offset"], list(layer.offset.shape)), layer.offset)
        assert (row["mask"] is None) == bool((layer.mask == 1).all())
    assert (data["detections"] is None) == (name == "deeplab_r18_dcn")
    assert {row["label"] for row in data["detections"] or []} <= {"cat", "dog"}
    assert any(row["parts"] for row in data["detections"] or []) == rois


def test_a_network_of_ones_own_is_observed() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1))
    deformify(net, layers=["2"])
    seen = observe(net, torch.rand(1, 3, 20, 30))
    assert [layer.name for layer in seen.layers] == ["2"]
    assert seen.detections is None
    assert seen.picture.shape == (3, 20, 30)


def test_text_cannot_end_the_script() -> None:
    layer = DeformConv2d(3, 1, 3, padding=1)
    page = explorer_page([observe(layer, torch.rand(1, 3, 8, 8), name="</script><b>")], title="<i>title</i>")
    assert content(page)["images"][0]["name"] == "</script><b>"
    assert "<b>" not in page
    assert "<title>&lt;i&gt;title&lt;/i&gt;</title>" in page


def test_offsets_that_are_not_finite_are_shown_as_none() -> None:
    layer = DeformConv2d(3, 1, 3, padding=1)
    with torch.no_grad():
        assert layer.conv_offset.bias is not None
        layer.conv_offset.bias[0] = float("nan")
    row = content(explorer_page([observe(layer, torch.rand(1, 3, 8, 8))]))["images"][0]["layers"][0]
    assert decoded(row["offset"], [-1]).eq(0).all()


@pytest.mark.parametrize(("label", "shift"), [(0, 1.0), (1, 2.0)], ids=["first-class", "second-class"])
def test_the_offsets_of_the_class_are_taken(label: int, shift: float) -> None:
    """Position-sensitive pooling has offsets for background and for every class."""
    offset = torch.zeros(1, 6, 1, 1)
    offset[0, 2], offset[0, 4] = 1.0, 2.0  # x of the first and of the second class
    box = torch.tensor([[0.0, 0.0, 10.0, 20.0]])
    actual = Detections(box, torch.ones(1), torch.tensor([label]))
    seen = Observation(
        "a",
        torch.zeros(3, 32, 32, dtype=torch.uint8),
        [],
        actual,
        ("x", "y"),
        [RoIOffsets(box, offset, None, (1, 1), 0.1)],
    )
    parts = content(explorer_page([seen]))["images"][0]["detections"][0]["parts"]
    assert parts["boxes"] == [[pytest.approx(shift), 0.0, pytest.approx(10.0 + shift), 20.0]]


def test_a_picture_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match=r"picture: expected the image's size \[8, 8\], got \[9, 8\]"):
        observe(DeformConv2d(3, 1, 3), torch.rand(1, 3, 8, 8), picture=torch.zeros(3, 9, 8, dtype=torch.uint8))


def test_no_observation_is_refused() -> None:
    with pytest.raises(ValueError, match="observations: expected one or more, got none"):
        explorer_page([])
