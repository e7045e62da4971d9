from __future__ import annotations

import json
from pathlib import Path

import pytest

from dcn.data import open_dataset, refuse_shared_images, shared_images
from tests.data.made_files import coco_data, make_coco, make_voc, picture, voc_object, voc_xml


def _splits(root: Path, train: list[str], val: list[str]) -> None:
    make_voc(root, {name: voc_xml(voc_object()) for name in {*train, *val}})
    for number, name in enumerate(sorted({*train, *val})):
        picture(root / "JPEGImages" / f"{name}.png", (60, 40))
        (root / "JPEGImages" / f"{name}.png").write_bytes(
            (root / "JPEGImages" / f"{name}.png").read_bytes() + bytes([number])
        )
    for split, names in (("train", train), ("val", val)):
        (root / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(names))


def test_different_images_pass(tmp_path: Path) -> None:
    _splits(tmp_path, ["a", "b"], ["c"])
    train, val = (open_dataset("voc", tmp_path, split) for split in ("train", "val"))
    assert shared_images(train, val) == []
    refuse_shared_images(train, val)


def test_the_same_file_is_refused(tmp_path: Path) -> None:
    _splits(tmp_path, ["a", "b"], ["b", "c"])
    train, val = (open_dataset("voc", tmp_path, split) for split in ("train", "val"))
    file = tmp_path / "JPEGImages" / "b.png"
    assert shared_images(train, val) == [(file, file)]
    with pytest.raises(ValueError, match=r"data\.test: expected .*:train, got 1 of 2 in .*:val .* first .*b\.png"):
        refuse_shared_images(train, val, "test")


@pytest.mark.parametrize("how", ["copy", "link"])
def test_the_same_content_under_another_name_is_refused(tmp_path: Path, how: str) -> None:
    _splits(tmp_path, ["a", "b"], ["c"])
    a, c = (tmp_path / "JPEGImages" / f"{name}.png" for name in "ac")
    if how == "copy":
        c.write_bytes(a.read_bytes())
    else:
        c.unlink()
        c.symlink_to(a)
    train, val = (open_dataset("voc", tmp_path, split) for split in ("train", "val"))
    assert shared_images(train, val) == [(a, c)]


def test_generated_data_shares_nothing() -> None:
    train, val = (open_dataset("synthetic", None, split, length=3) for split in ("train", "val"))
    assert shared_images(train, val) == []


def test_one_annotation_file_for_all_splits_is_noticed(tmp_path: Path) -> None:
    make_coco(tmp_path)
    options = {"annotations": "annotations/instances_train.json", "images": "train"}
    train, val = (open_dataset("coco", tmp_path, split, **options) for split in ("train", "val"))
    said = r"data\.val: .* got 3 of 3 in .*one annotation file .*are divided.*allow_shared=true"
    with pytest.raises(ValueError, match=said):
        refuse_shared_images(train, val)


def test_one_annotation_file_for_each_split(tmp_path: Path) -> None:
    make_coco(tmp_path)
    content = coco_data()
    content["images"] = [
        {**row, "id": row["id"] + 1, "file_name": f"{row['id'] + 100}.png"} for row in content["images"]
    ]
    content["annotations"] = []
    for row in content["images"]:
        picture(tmp_path / "photos" / row["file_name"], (60, 40))
    (tmp_path / "odd.json").write_text(json.dumps(content))
    options = {
        "annotations": {"train": "annotations/instances_train.json", "val": "odd.json"},
        "images": {"train": "train", "val": "photos"},
    }
    train, val = (open_dataset("coco", tmp_path, split, **options) for split in ("train", "val"))
    assert [train.image_path(0), val.image_path(0)] == [tmp_path / "train" / "5.png", tmp_path / "photos" / "105.png"]
    with pytest.raises(ValueError, match="annotations: expected a name for the split 'test', got names for train, val"):
        open_dataset("coco", tmp_path, "test", **options)
