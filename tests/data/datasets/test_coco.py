from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO

from dcn.data.datasets.coco import Coco
from dcn.structures import Target
from tests.data.made_files import coco_data, make_coco, picture


def test_labels_boxes_and_flags(tmp_path: Path) -> None:
    data = Coco(make_coco(tmp_path), "train")
    assert data.category_ids == (3, 7, 90)
    assert data.classes == ("fig", "nut", "pear")
    first, second = data.target(0), data.target(1)
    assert first.boxes.tolist() == [[10, 5, 30, 25], [0, 0, 20, 40]]
    assert first.labels.tolist() == [1, 0]
    assert first.ignored.tolist() == [False, True]
    assert second.boxes.tolist() == [[40.5, 10.25, 50.5, 30.25]]
    assert (first.image_id, second.image_id, data.sizes) == (5, 9, [(40, 60)] * 3)
    assert data.image_path(2) == tmp_path / "train" / "2.png"
    assert data[1].image[:, 3, 4].tolist() == [4, 3, 128]


def test_masks(tmp_path: Path) -> None:
    target = Coco(make_coco(tmp_path), "train").target(0)
    assert target.masks is not None
    expected = torch.zeros(2, 40, 60, dtype=torch.bool)
    expected[0, 5:25, 10:30] = True
    expected[1, :, :20] = True
    assert torch.equal(target.masks, expected)
    assert Coco(tmp_path, "train").target(2).masks.shape == (0, 40, 60)  # type: ignore[union-attr]
    assert Coco(tmp_path, "train", masks=False).target(0).masks is None


def test_boxes_alone(tmp_path: Path) -> None:
    content = coco_data()
    content["annotations"][0]["segmentation"] = []
    del content["annotations"][1]["segmentation"], content["annotations"][2]["segmentation"]
    data = Coco(make_coco(tmp_path, content), "train")
    assert not data.has_masks
    assert data.target(0).masks is None
    assert data.target(0).area.tolist() == [400, 800]  # type: ignore[union-attr]


def test_some_without_segmentation(tmp_path: Path) -> None:
    content = coco_data()
    content["annotations"][1]["segmentation"] = []
    make_coco(tmp_path, content)
    with pytest.raises(
        ValueError, match=r"annotation id 2: 'segmentation': expected polygons or run lengths, got .*; .*masks=False"
    ):
        Coco(tmp_path, "train")
    assert len(Coco(tmp_path, "train", masks=False).target(0)) == 2


def test_area_of_the_file(tmp_path: Path) -> None:
    content = coco_data()
    content["annotations"][0]["area"] = 123.5
    assert Coco(make_coco(tmp_path, content), "train").target(0).area.tolist() == [123.5, 800]  # type: ignore[union-attr]


def test_keep_empty(tmp_path: Path) -> None:
    content = coco_data()
    content["annotations"][0]["iscrowd"] = 1
    make_coco(tmp_path, content)
    assert [record.id for record in Coco(tmp_path, "train").records] == [5, 9, 2]
    kept = Coco(tmp_path, "train", keep_empty=False)
    assert ([record.id for record in kept.records], kept.sizes) == ([9], [(40, 60)])


def test_boxes_without_extent(tmp_path: Path) -> None:
    content = coco_data()
    content["annotations"][0]["bbox"] = [10, 5, 0, 20]
    make_coco(tmp_path, content)
    with pytest.warns(UserWarning, match="train: 1 box without extent skipped"):
        data = Coco(tmp_path, "train")
    assert data.target(0).boxes.tolist() == [[0, 0, 20, 40]]
    assert len(Coco(tmp_path, "train", degenerate="keep").target(0)) == 2


def test_small_overhang_is_clipped(tmp_path: Path) -> None:
    content = coco_data()
    content["annotations"][0]["bbox"] = [-0.5, -1, 61, 42]
    assert Coco(make_coco(tmp_path, content), "train").target(0).boxes[0].tolist() == [0, 0, 60, 40]


@pytest.mark.parametrize(
    ("file", "folder", "split", "options"),
    [
        pytest.param("train.json", "images", "train", {}, id="plain"),
        pytest.param("train.json", ".", "train", {}, id="beside"),
        pytest.param("annotations/instances_val_100.json", "val", "val_100", {}, id="prefix"),
        pytest.param("annotations/instances_val.json", "images/val", "val", {}, id="images-split"),
        pytest.param("annotations/image_info_test-dev2017.json", "test2017", "test-dev2017", {}, id="test-dev"),
        pytest.param("deep/x.json", "pics", "any", {"annotations": "deep/x.json", "images": "pics"}, id="named"),
    ],
)
def test_layouts(tmp_path: Path, file: str, folder: str, split: str, options: dict[str, Any]) -> None:
    for number in (5, 9, 2):
        picture(tmp_path / folder / f"{number}.png")
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text(json.dumps(coco_data()))
    data = Coco(tmp_path, split, **options)
    assert len(data) == 3
    assert data.image_path(0) == tmp_path / folder / "5.png"


def test_splits_are_joined(tmp_path: Path) -> None:
    root = make_coco(tmp_path)
    other = coco_data()
    for entry in other["images"]:
        entry["id"] += 100
    for entry in other["annotations"]:
        entry["image_id"] += 100
    make_coco(root, other, "val")
    both, train, val = (Coco(root, split) for split in ("train+val", "train", "val"))
    assert [both.target(index).image_id for index in range(6)] == [5, 9, 2, 105, 109, 102]
    for index, (part, part_index) in enumerate([(train, 0), (train, 1), (train, 2), (val, 0), (val, 1), (val, 2)]):
        torch.testing.assert_close(both.target(index).boxes, part.target(part_index).boxes)
        assert both.image_path(index) == part.image_path(part_index)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data["categories"][0].update(name="kiwi"), "expected the categories of .*instances_train.json"),
        (lambda data: None, "expected image ids that no split before it has, got 5"),
    ],
    ids=["categories", "images"],
)
def test_splits_that_cannot_be_joined(tmp_path: Path, change: Callable[[dict[str, Any]], None], message: str) -> None:
    other = coco_data()
    change(other)
    with pytest.raises(ValueError, match=message):
        Coco(make_coco(make_coco(tmp_path), other, "val"), "train+val")


def test_test_images_have_no_annotations(tmp_path: Path) -> None:
    content = coco_data()
    del content["annotations"]
    root = make_coco(tmp_path, content, "test2017")
    (root / "annotations" / "instances_test2017.json").rename(root / "annotations" / "image_info_test2017.json")
    data = Coco(root, "test2017")
    assert not data.annotated
    assert [len(data.target(index)) for index in range(3)] == [0, 0, 0]
    assert data.category_ids == (3, 7, 90)


def _set(*path: str | int, value: object) -> Callable[[dict[str, Any]], None]:
    def change(data: dict[str, Any]) -> None:
        entry: Any = data
        for key in path[:-1]:
            entry = entry[key]
        entry[path[-1]] = value

    return change


def _drop(*path: str | int) -> Callable[[dict[str, Any]], None]:
    def change(data: dict[str, Any]) -> None:
        entry: Any = data
        for key in path[:-1]:
            entry = entry[key]
        del entry[path[-1]]

    return change


A, IMAGES, C = "annotations", "images", "categories"
BROKEN = {
    "no-images": (_drop(IMAGES), "'images': expected a list, got nothing"),
    "no-categories": (_set(C, value={}), "'categories': expected a list, got {}"),
    "no-annotations": (_drop(A), "'annotations': expected a list"),
    "not-an-object": (_set(A, 1, value=7), r"annotations\[1\]: expected an object"),
    "no-id": (_drop(A, 0, "id"), r"annotations\[0\]: 'id': expected an integer or a text, got nothing"),
    "same-id": (_set(A, 2, "id", value=1), r"annotations\[2\]: id 1 is used twice"),
    "same-image-id": (_set(IMAGES, 1, "id", value=5), r"images\[1\]: id 5 is used twice"),
    "image-id-text": (_set(IMAGES, 1, "id", value="5"), r"images\[1\]: id 5 is used twice"),
    "image-id-empty": (_set(IMAGES, 1, "id", value=" "), r"images\[1\]: 'id': expected an integer or a text, got ' '"),
    "image-id-bool": (_set(IMAGES, 1, "id", value=True), "'id': expected an integer or a text, got True"),
    "no-file-name": (_drop(IMAGES, 0, "file_name"), r"images\[0\] \(id 5\): 'file_name': expected a text"),
    "no-file": (
        _set(IMAGES, 0, "file_name", value="gone.png"),
        r"images\[0\] \(id 5\): the image .*gone.png does not exist",
    ),
    "width-text": (_set(IMAGES, 0, "width", value="wide"), "'width': expected a number of pixels, got 'wide'"),
    "width-negative": (_set(IMAGES, 0, "width", value=-60), "'width': expected a number of pixels, got -60"),
    "width-fraction": (_set(IMAGES, 0, "width", value=60.5), "'width': expected an integer, got 60.5"),
    "pixels": (
        _set(IMAGES, 0, "width", value=10**8),
        "expected an image of at most 120,000,000 pixels, got 100000000x40",
    ),
    "category-name": (_set(C, 0, "name", value=None), r"categories\[0\] \(id 90\): 'name': expected a text"),
    "same-category": (_set(C, 0, "name", value="fig"), "the name 'fig' is used twice"),
    "unknown-image": (
        _set(A, 0, "image_id", value=77),
        r"annotations\[0\] \(id 1\): image_id: expected one of 'images', got 77",
    ),
    "unknown-class": (_set(A, 0, "category_id", value=4), "category_id: expected one of 'categories', got 4"),
    "no-bbox": (_drop(A, 0, "bbox"), "'bbox': expected 4 finite numbers"),
    "three-numbers": (_set(A, 0, "bbox", value=[1, 2, 3]), "'bbox': expected 4 finite numbers"),
    "text-number": (_set(A, 0, "bbox", value=[1, 2, "3", 4]), "'bbox': expected 4 finite numbers"),
    "nan": (_set(A, 0, "bbox", value=[1, 2, float("nan"), 4]), "'bbox': expected 4 finite numbers"),
    "infinite": (_set(A, 0, "bbox", value=[1, 2, float("inf"), 4]), "'bbox': expected 4 finite numbers"),
    "negative": (_set(A, 0, "bbox", value=[10, 2, -3, 4]), "width and height must not be negative"),
    "outside-right": (_set(A, 0, "bbox", value=[10, 2, 52, 4]), "expected a box inside the image of 60x40 pixels"),
    "outside-below": (_set(A, 0, "bbox", value=[10, 2, 5, 40]), "expected a box inside the image of 60x40 pixels"),
    "outside-left": (_set(A, 0, "bbox", value=[-2, 2, 5, 4]), "expected a box inside the image"),
    "outside-above": (_set(A, 0, "bbox", value=[2, -2, 5, 4]), "expected a box inside the image"),
    "crowd": (_set(A, 0, "iscrowd", value=2), "'iscrowd': expected 0 or 1, got 2"),
    "area": (_set(A, 0, "area", value=-1), "'area': expected a number of pixels, got -1"),
    "area-nan": (_set(A, 0, "area", value=float("nan")), "'area': expected a number of pixels"),
}


@pytest.mark.parametrize(("change", "message"), BROKEN.values(), ids=BROKEN.keys())
def test_broken_entries_are_named(tmp_path: Path, change: Callable[[dict[str, Any]], None], message: str) -> None:
    content = coco_data()
    change(content)
    make_coco(tmp_path, content)
    with pytest.raises(ValueError, match=message) as caught:
        Coco(tmp_path, "train")
    assert str(caught.value).startswith(str(tmp_path / "annotations" / "instances_train.json"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param(b"{", "malformed JSON", id="cut"),
        pytest.param(b"\xff\xfe\x00", "malformed JSON", id="bytes"),
        pytest.param(b"[" * 100_000, "malformed JSON", id="deep"),
        pytest.param(b"[1, 2]", r"expected an object with images.*got \[1, 2\]", id="list"),
    ],
)
def test_broken_json(tmp_path: Path, text: bytes, message: str) -> None:
    make_coco(tmp_path)
    (tmp_path / "annotations" / "instances_train.json").write_bytes(text)
    with pytest.raises(ValueError, match=f"instances_train.json: {message}"):
        Coco(tmp_path, "train")


def test_a_broken_mask_is_named_when_the_data_is_opened(tmp_path: Path) -> None:
    content = coco_data()
    content["annotations"][2]["segmentation"] = [[1, 2, 3, 4]]
    make_coco(tmp_path, content)
    message = r"instances_train.json: annotations\[2\] \(id 4\): 'segmentation': expected polygons"
    with pytest.raises(ValueError, match=message):
        Coco(tmp_path, "train")
    assert len(Coco(tmp_path, "train", masks=False).target(1)) == 1


def test_image_of_another_size(tmp_path: Path) -> None:
    data = Coco(make_coco(tmp_path), "train")
    picture(tmp_path / "train" / "9.png", (60, 41))
    with pytest.raises(ValueError, match=r"image id 9: the annotation says 60x40 pixels, .*9.png has 60x41"):
        data[1]


def test_wrong_places(tmp_path: Path) -> None:
    make_coco(tmp_path)
    with pytest.raises(ValueError, match=r"root: expected a folder.*, got .*gone"):
        Coco(tmp_path / "gone", "train")
    with pytest.raises(
        ValueError, match=r"expected the annotation file annotations/instances_val.json of 'val' .*, got annotations/"
    ):
        Coco(tmp_path, "val")
    with pytest.raises(ValueError, match=r"images: expected a folder, got .*pics"):
        Coco(tmp_path, "train", images="pics")
    with pytest.raises(ValueError, match="degenerate: expected 'skip' or 'keep', got 'x'"):
        Coco(tmp_path, "train", degenerate="x")


@pytest.mark.parametrize(
    ("year", "objects", "crowds", "empty"), [("train2017", 746, 6, 2), ("val2017", 712, 5, 0)], ids=["train", "val"]
)
def test_real_coco_equals_the_reference_reader(shared: Path, year: str, objects: int, crowds: int, empty: int) -> None:
    data = Coco(shared / "data" / "coco128", f"{year}_100")
    targets = [data.target(i) for i in range(len(data))]
    assert (len(data), sum(map(len, targets))) == (100, objects)
    assert sum(int(target.ignored.sum()) for target in targets) == crowds
    trainable = [bool((~target.ignored).any()) for target in targets]
    assert len(Coco(shared / "data" / "coco128", f"{year}_100", keep_empty=False)) == sum(trainable) == 100 - empty
    reference = COCO(str(data.annotation_files[0]))
    for target in targets[::10]:
        rows = reference.loadAnns(reference.getAnnIds(target.image_id))
        assert [data.category_ids[label] for label in target.labels] == [row["category_id"] for row in rows]
        assert target.masks is not None
        expected = np.stack([reference.annToMask(row) for row in rows]) if rows else np.zeros((0, *target.size))
        assert np.array_equal(target.masks.numpy(), expected > 0)
        assert target.area is not None
        np.testing.assert_allclose(target.area.numpy(), [row["area"] for row in rows], rtol=1e-6)


def test_polygons_of_a_plain_folder(shared: Path) -> None:
    data = Coco(shared / "data" / "fruits_nuts", "trainval")
    assert (len(data), data.classes) == (18, ("date", "fig", "hazelnut"))
    assert sum(len(data.target(i)) for i in range(18)) == 165
    reference = COCO(str(data.annotation_files[0]))
    target = data[3].target
    assert isinstance(target, Target)
    assert target.masks is not None
    rows = reference.loadAnns(reference.getAnnIds(target.image_id))
    assert np.array_equal(target.masks.numpy(), np.stack([reference.annToMask(row) for row in rows]) > 0)
