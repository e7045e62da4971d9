from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from dcn.data.check import check_dataset
from dcn.data.datasets.coco import Coco
from dcn.data.datasets.synthetic import Synthetic
from dcn.data.datasets.voc import Voc
from dcn.formats.coco_writer import write_coco
from dcn.formats.voc_writer import write_voc
from dcn.structures import Target
from tests.data.made_files import make_coco, make_voc


def _generated(split: str = "train") -> Synthetic:
    return Synthetic(split, length=4, size=(64, 96), glyph_size=(18, 30), num_classes=3)


def _targets(data: Synthetic | Voc | Coco, index: int) -> Target:
    target = data[index].target
    assert isinstance(target, Target)
    return target


def test_voc_comes_back(tmp_path: Path) -> None:
    generated = _generated()
    data = Voc(write_voc(generated, tmp_path / "v", "train", lossless=True), "train", classes=generated.classes)
    assert len(data) == 4
    for index in range(4):
        written, read = _targets(generated, index), _targets(data, index)
        assert torch.equal(data[index].image, generated[index].image)
        assert torch.equal(read.boxes, written.boxes)
        assert torch.equal(read.labels, written.labels)
        assert read.image_id == f"train_{index:06d}"


def test_coco_comes_back(tmp_path: Path) -> None:
    generated = _generated()
    path = write_coco(generated, tmp_path / "c", "train", lossless=True)
    assert path == tmp_path / "c" / "annotations" / "instances_train.json"
    data = Coco(tmp_path / "c", "train")
    assert (data.classes, data.category_ids) == (("A", "X", "S"), (1, 2, 3))
    for index in range(4):
        written, read = _targets(generated, index), _targets(data, index)
        assert torch.equal(data[index].image, generated[index].image)
        assert torch.equal(read.boxes, written.boxes)
        assert torch.equal(read.labels, written.labels)
        assert torch.equal(read.masks, written.masks)  # type: ignore[arg-type]
        assert torch.equal(read.area, written.area)  # type: ignore[arg-type]
        assert read.image_id == index


@pytest.mark.parametrize("write", [write_voc, write_coco])
def test_splits_share_a_folder_and_pass_the_check(tmp_path: Path, write: Callable[..., Path]) -> None:
    for split in ("train", "val"):
        write(_generated(split), tmp_path, split)
    findings = check_dataset(tmp_path)
    assert (findings.images, findings.problems) == (8, [])
    assert findings.format == write.__name__.removeprefix("write_")
    assert sum(findings.objects.values()) == sum(
        len(_targets(_generated(s), i)) for s in ("train", "val") for i in range(4)
    )


def test_jpeg_is_close(tmp_path: Path) -> None:
    generated = _generated()
    data = Voc(write_voc(generated, tmp_path, "train"), "train", classes="auto")
    assert data.image_path(0).suffix == ".jpg"
    assert float((data[0].image.float() - generated[0].image.float()).abs().mean()) < 5


def test_voc_flags_and_outward_rounding(tmp_path: Path) -> None:
    data = Voc(make_voc(tmp_path / "a"), "train")
    again = Voc(write_voc(data, tmp_path / "b", "train"), "train")
    assert again.target(0).difficult.tolist() == [False, True]  # type: ignore[union-attr]
    assert again.records[0].stem == "a"
    coco = Coco(make_coco(tmp_path / "c"), "train")
    rounded = Voc(write_voc(coco, tmp_path / "d", "train"), "train", classes=coco.classes)
    assert rounded.target(1).boxes.tolist() == [[40, 10, 51, 31]]


def test_coco_keeps_crowds_and_numbers_texts(tmp_path: Path) -> None:
    write_coco(Coco(make_coco(tmp_path / "a"), "train"), tmp_path / "b", "train", lossless=True)
    again = Coco(tmp_path / "b", "train")
    assert again.target(0).ignored.tolist() == [False, True]
    assert [record.id for record in again.records] == [5, 9, 2]
    write_coco(Voc(make_voc(tmp_path / "v"), "train"), tmp_path / "w", "train")
    named = Coco(tmp_path / "w", "train")
    assert [(record.id, record.name) for record in named.records] == [(1, "a.jpg"), (2, "b.jpg")]
    assert named.target(0).masks is None


@pytest.mark.parametrize("write", [write_voc, write_coco])
def test_segmentation_masks_are_refused(tmp_path: Path, write: Callable[..., Path]) -> None:
    with pytest.raises(ValueError, match="dataset: expected boxes, got segmentation masks in synthetic:train"):
        write(Synthetic("train", length=1, semantic=True), tmp_path, "train")
