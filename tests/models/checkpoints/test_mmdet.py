from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dcn.class_names import COCO_CLASSES
from dcn.models import build
from dcn.models.checkpoints import StateFile, load_state, mmdet, read_detector

OPTIONS = {"width": 1 / 16, "stem_channels": 4, "fpn_channels": 8, "fc_channels": 8}


def _old_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.replace("conv2.conv_offset.", "conv2_offset."): value for name, value in state.items()}


@pytest.mark.parametrize("old", [False, True], ids=["new-names", "old-names"])
@pytest.mark.parametrize("name", ["mask_rcnn_r50_fpn_mdconv_c3-c5", "cascade_mask_rcnn_r50_fpn_dconv_c3-c5"])
def test_whole_detector(name: str, old: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    source, copy = (build(name, ["a", "b"], **OPTIONS) for _ in range(2))
    with torch.no_grad():
        for parameter in source.parameters():
            parameter.uniform_(-1, 1)
    state = source.state_dict()
    saved = _old_names(state) if old else dict(state)
    assert (saved.keys() != state.keys()) == old
    meta = {"CLASSES": ("a", "b"), "mmdet_version": "2.0.0", "epoch": 12}
    torch.save({"meta": meta, "state_dict": OrderedDict(saved), "optimizer": {}}, tmp_path / "x.pth")
    tensors, classes = read_detector(tmp_path / "x.pth")
    assert classes == ("a", "b")
    assert load_state(copy, tensors, "x.pth") == []
    torch.testing.assert_close(dict(copy.state_dict()), dict(state))


def test_no_detector(tmp_path: Path) -> None:
    torch.save({"layer1.0.conv1.weight": torch.zeros(1)}, tmp_path / "x.pth")
    with pytest.raises(ValueError, match="expected a detector of mmdetection"):
        read_detector(tmp_path / "x.pth")


def test_only_offset_branches_are_renamed() -> None:
    names = ["backbone.layer4.0.conv2_offset.weight", "backbone.layer4.0.conv2.weight", "x.offset_fc.0.bias"]
    got = mmdet.rename({name: torch.zeros(1) for name in names})
    assert list(got) == ["backbone.layer4.0.conv2.conv_offset.weight", *names[1:]]


def test_a_tensor_under_both_names_is_refused() -> None:
    names = ["backbone.layer4.0.conv2.conv_offset.weight", "backbone.layer4.0.conv2_offset.weight"]
    for order in (names, names[::-1]):
        with pytest.raises(
            ValueError, match=r"conv2\.conv_offset\.weight: expected once, got it under its old and its new"
        ):
            mmdet.rename({name: torch.zeros(1) for name in order})


def test_averages_beside_the_weights_are_left_out_and_new_meta_is_read(tmp_path: Path) -> None:
    state = {"backbone.conv1.weight": torch.ones(1), "ema_backbone_conv1_weight": torch.zeros(1)}
    meta = {"dataset_meta": {"CLASSES": ("cat", "dog"), "PALETTE": None}}
    torch.save({"state_dict": state | {"ema_other": torch.zeros(1)}, "meta": meta}, tmp_path / "x.pth")
    tensors, classes = read_detector(tmp_path / "x.pth")
    assert list(tensors) == ["backbone.conv1.weight", "ema_other"]  # what mirrors nothing stays, to be refused by name
    assert classes == ("cat", "dog")


@pytest.mark.parametrize(
    ("rows", "first"),
    [(81, "person"), (21, "aeroplane"), (4, "class_0"), (None, None)],
    ids=["coco", "voc", "other", "no-classifier"],
)
def test_classes_without_names(rows: int | None, first: str | None, tmp_path: Path) -> None:
    state = {"backbone.conv1.weight": torch.zeros(1)}
    if rows is not None:
        state |= {f"roi_head.bbox_head.{stage}.fc_cls.bias": torch.zeros(rows) for stage in range(3)}
    torch.save({"state_dict": state}, tmp_path / "x.pth")
    _, classes = read_detector(tmp_path / "x.pth")
    assert classes is None if rows is None else classes is not None and (len(classes), classes[0]) == (rows - 1, first)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (tuple(name.replace(" ", "_") for name in COCO_CLASSES), COCO_CLASSES),
        (("red_card", "blue_card"), ("red_card", "blue_card")),
    ],
    ids=["coco", "own"],
)
def test_underscores_of_public_classes_become_blanks(names: tuple[str, ...], expected: tuple[str, ...]) -> None:
    assert mmdet.classes_of(StateFile({}, {"CLASSES": names})) == expected


@pytest.mark.parametrize(
    "file",
    [
        StateFile({}, {"CLASSES": ["a"] * 100_001}),
        StateFile({"fc_cls.bias": torch.empty(100_002, device="meta")}),
        StateFile({}, {"CLASSES": []}),
    ],
    ids=["names", "rows", "none"],
)
def test_impossible_numbers_of_classes_are_refused(file: StateFile) -> None:
    with pytest.raises(ValueError, match=r"classes: expected 1 to 100,000 in a checkpoint, got (100,001|0)"):
        mmdet.classes_of(file)
