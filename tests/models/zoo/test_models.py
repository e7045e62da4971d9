from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from dcn.models import MODELS, build, options_of

COUNTS = {
    "faster_rcnn_r50_fpn_dconv_c3-c5": 42_333_898,
    "faster_rcnn_r50_fpn_mdconv_c3-c5": 42_624_319,
    "faster_rcnn_r50_fpn_mdconv_c3-c5_group4": 45_238_108,
    "faster_rcnn_r50_fpn_dpool": 97_737_576,
    "faster_rcnn_r50_fpn_mdpool": 149_322_796,
    "faster_rcnn_r101_fpn_dconv_c3-c5": 62_031_356,
    "faster_rcnn_x101_32x4d_fpn_dconv_c3-c5": 62_945_532,
    "mask_rcnn_r50_fpn_dconv_c3-c5": 44_977_178,
    "mask_rcnn_r50_fpn_mdconv_c3-c5": 45_267_599,
    "mask_rcnn_r50_fpn_fp16_dconv_c3-c5": 44_977_178,
    "mask_rcnn_r50_fpn_fp16_mdconv_c3-c5": 45_267_599,
    "mask_rcnn_r101_fpn_dconv_c3-c5": 64_674_636,
    "cascade_rcnn_r50_fpn_dconv_c3-c5": 69_975_608,
    "cascade_rcnn_r101_fpn_dconv_c3-c5": 89_673_066,
    "cascade_mask_rcnn_r50_fpn_dconv_c3-c5": 77_905_448,
    "cascade_mask_rcnn_r101_fpn_dconv_c3-c5": 97_602_906,
    "cascade_mask_rcnn_x101_32x4d_fpn_dconv_c3-c5": 98_517_082,
}


def _on_meta(name: str, num_classes: int = 80) -> nn.Module:
    with torch.device("meta"):
        return MODELS[name](num_classes)


@pytest.mark.parametrize("name", COUNTS)
def test_published_parameter_count(name: str) -> None:
    assert sum(parameter.numel() for parameter in _on_meta(name).parameters()) == COUNTS[name]


@pytest.mark.parametrize("name", MODELS)
def test_every_entry_builds_and_keeps_the_contract(name: str) -> None:
    model: Any = _on_meta(name, 3)
    assert len(model.classes) == 3
    assert len(model.test_size) == 2
    assert name.startswith("deeplab") or 0 <= model.score_threshold < 1
    assert options_of(name)


# Names of SPEC 7.5; a trailing dot stands for everything below.
_NAMES = {
    "faster_rcnn_r50_fpn_mdconv_c3-c5": (
        "backbone.conv1.weight",
        "backbone.bn1.running_mean",
        "backbone.layer1.0.conv2.weight",
        "backbone.layer1.0.downsample.1.bias",
        "backbone.layer2.0.conv2.conv_offset.weight",
        "backbone.layer4.2.conv2.conv_offset.bias",
        "neck.lateral_convs.3.conv.weight",
        "neck.fpn_convs.0.conv.bias",
        "rpn_head.rpn_conv.weight",
        "rpn_head.rpn_cls.weight",
        "rpn_head.rpn_reg.bias",
        "roi_head.bbox_head.shared_fcs.0.weight",
        "roi_head.bbox_head.fc_cls.weight",
        "roi_head.bbox_head.fc_reg.bias",
    ),
    "mask_rcnn_r50_fpn": (
        "roi_head.mask_head.convs.3.conv.weight",
        "roi_head.mask_head.upsample.weight",
        "roi_head.mask_head.conv_logits.bias",
    ),
    "cascade_mask_rcnn_r50_fpn": (
        "roi_head.bbox_head.2.shared_fcs.1.weight",
        "roi_head.mask_head.1.convs.0.conv.weight",
    ),
    "faster_rcnn_r50_fpn_dpool": ("roi_head.bbox_roi_extractor.roi_layers.3.offset_fc.4.weight",),
    "faster_rcnn_r50_fpn_mdpool": (
        "roi_head.bbox_roi_extractor.roi_layers.0.offset_fc.0.weight",
        "roi_head.bbox_roi_extractor.roi_layers.2.mask_fc.2.bias",
    ),
}


@pytest.mark.parametrize("name", _NAMES)
def test_parameter_names_of_the_later_zoo(name: str) -> None:
    assert set(_NAMES[name]) <= set(_on_meta(name).state_dict())


def test_no_name_outside_the_four_parts() -> None:
    names = _on_meta("cascade_mask_rcnn_x101_32x4d_fpn_dconv_c3-c5").state_dict()
    assert {name.split(".")[0] for name in names} == {"backbone", "neck", "rpn_head", "roi_head"}


def test_build_sets_the_classes_and_passes_options() -> None:
    model: Any = build("faster_rcnn_r18_fpn", ["ace", "king"], width=0.125, fc_channels=8, test_size=(300, 500))
    assert model.classes == ("ace", "king")
    assert model.test_size == (300, 500)
    assert model.roi_head.bbox_head.fc_cls.weight.shape == (3, 8)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (
            "faster_rcnn_r50_fp",
            {},
            "model: expected the name of a model, got 'faster_rcnn_r50_fp'; did you mean .*'faster_rcnn_r50_fpn'.*",
        ),
        (
            "faster_rcnn_r50_fpn",
            {"widht": 1},
            "faster_rcnn_r50_fpn: expected an option of the model, got 'widht'; did you mean 'width'",
        ),
    ],
    ids=["model", "option"],
)
def test_a_wrong_name_gets_the_nearest(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(name, ["a"], **options)


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ([], "classes: expected at least one name and none twice"),
        (["a", "b", "a"], "classes: expected at least one name and none twice"),
        (80, r"classes: expected the names of the classes, got 80; without names write \[str\(i\) for i in range"),
        ("cat", r"classes: expected a list of names, got the text 'cat'; write \['cat'\]"),
    ],
    ids=["none", "twice", "number", "text"],
)
def test_wrong_classes(classes: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build("faster_rcnn_r18_fpn", classes)
