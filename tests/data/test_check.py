from __future__ import annotations

import json
from pathlib import Path

import pytest

from dcn.data.check import check_dataset, detect_format
from dcn.formats.voc import available_splits
from tests.data.made_files import coco_data, make_coco, make_voc, picture, voc_object, voc_xml

OUTSIDE = "expected a box inside the image of 60x40 pixels (width x height), got"
POLYGONS = "expected polygons of three or more points [x1, y1, x2, y2, x3, y3, ...]"


def _lines(root: Path, **options: object) -> list[str]:
    """Problems with the folder left out of the text."""
    return [str(p).replace(f"{root}/", "") for p in check_dataset(root, **options).problems]  # type: ignore[arg-type]


def test_sound_folders(tmp_path: Path) -> None:
    voc, coco = check_dataset(make_voc(tmp_path / "v")), check_dataset(make_coco(tmp_path / "c"))
    assert (voc.format, voc.images, voc.objects, voc.problems) == ("voc", 2, {"cat": 1, "dog": 1, "person": 1}, [])
    assert (coco.format, coco.images, coco.objects, coco.problems) == ("coco", 3, {"fig": 1, "nut": 1, "pear": 1}, [])


def test_all_problems_of_voc_at_once(tmp_path: Path) -> None:
    bad = [voc_object("dog", (1, 1, 99, 4)), voc_object("dgo"), voc_object("cat", (5, 5, 5, 9)), "<object/>"]
    texts = {
        "many": voc_xml(voc_object(), voc_object(), voc_object(), *bad),
        "cut": "<annotation>",
        "size": voc_xml(size=(61, 40)),
        "noimage": voc_xml(),
        "broken": voc_xml(),
    }
    make_voc(tmp_path, texts)
    (tmp_path / "JPEGImages" / "noimage.png").unlink()
    (tmp_path / "JPEGImages" / "broken.png").write_bytes(b"?")
    (tmp_path / "JPEGImages" / "cut.png").write_bytes(b"?")
    (tmp_path / "Annotations" / "lost.xml").write_text(voc_xml())
    with (tmp_path / "ImageSets" / "Main" / "train.txt").open("a") as listing:
        listing.write("many\ngone\n")
    lines = _lines(tmp_path)
    expected = [
        "ImageSets/Main/train.txt: line 4: 'noimage' is listed, but JPEGImages/noimage.jpg does not exist",
        "ImageSets/Main/train.txt: line 6: 'many' is listed twice",
        "ImageSets/Main/train.txt: line 7: 'gone' is listed, but JPEGImages/gone.jpg does not exist",
        "ImageSets/Main/train.txt: line 7: 'gone' is listed, but Annotations/gone.xml does not exist",
        "Annotations/many.xml: object 3 (dog): " + OUTSIDE + " (1, 1, 99, 4)",
        "Annotations/many.xml: object 6 (no name): <name> is missing or empty",
        "Annotations/many.xml: object 5 (cat): box (5, 5, 5, 9) has no extent",
        "Annotations/cut.xml: malformed XML: no element found: line 1, column 12",
        "Annotations/size.xml: size: the annotation says 61x40 pixels, JPEGImages/size.png has 60x40",
        "Annotations/lost.xml: annotates an unknown image: JPEGImages/lost.jpg does not exist",
        "Annotations/noimage.xml: annotates an unknown image: JPEGImages/noimage.jpg does not exist",
        "JPEGImages/broken.png: the image cannot be decoded (not an image, or a format that Pillow does not know)",
        "JPEGImages/cut.png: the image cannot be decoded (not an image, or a format that Pillow does not know)",
    ]
    unknown = [line for line in lines if "got 'dgo'" in line]
    assert len(unknown) == 1
    assert sorted(set(lines) - set(unknown)) == sorted(expected)
    assert len(lines) == len(set(lines))


def test_all_problems_of_coco_at_once(tmp_path: Path) -> None:
    content = coco_data()
    content["annotations"][0]["segmentation"] = [[1, 2, 3, 4]]
    content["annotations"][1]["bbox"] = [0, 0, 0, 5]
    content["annotations"] += [
        {"id": 4, "image_id": 9, "category_id": 3, "bbox": [0, 0, 5, 5]},
        {"id": 6, "image_id": 78, "category_id": 3, "bbox": [0, 0, 5, 5]},
        {"id": 7, "image_id": 9, "category_id": 5, "bbox": [0, 0, 5, 5]},
        {"id": 8, "image_id": 9, "category_id": 3, "bbox": [0, 0, 500, 5]},
        {"id": 9, "image_id": 11, "category_id": 3, "bbox": [0, 0, 5, 5]},
    ]
    content["images"] += [{"id": 11, "file_name": "gone.png", "height": 5, "width": 5}]
    make_coco(tmp_path, content)
    picture(tmp_path / "train" / "9.png", (61, 40))
    (tmp_path / "train" / "2.png").write_bytes(b"?")
    file = "annotations/instances_train.json"
    assert _lines(tmp_path) == [
        f"{file}: images[3] (id 11): the image train/gone.png does not exist",
        f"{file}: annotations[0] (id 1): 'segmentation': {POLYGONS}, got [1, 2, 3, 4]",
        f"{file}: annotations[3]: id 4 is used twice",
        f"{file}: annotations[4] (id 6): image_id: expected one of 'images', got 78",
        f"{file}: annotations[5] (id 7): category_id: expected one of 'categories', got 5",
        f"{file}: annotations[6] (id 8): 'bbox': {OUTSIDE} [0, 0, 500, 5]",
        f"{file}: annotation id 2: box (0.0, 0.0, 0.0, 5.0) (x1, y1, x2, y2) has no extent",
        f"{file}: image id 9: the annotation says 60x40 pixels, train/9.png has 61x40",
        "train/2.png: the image cannot be decoded (not an image, or a format that Pillow does not know)",
    ]


def test_every_file_of_coco_is_read(tmp_path: Path) -> None:
    make_coco(tmp_path, split="train")
    make_coco(tmp_path, split="val")
    (tmp_path / "annotations" / "captions_train.json").write_text("{}")
    (tmp_path / "annotations" / "instances_val.json").write_text("{")
    findings = check_dataset(tmp_path)
    assert findings.images == 3
    assert [p.file.name for p in findings.problems] == ["instances_val.json"]
    assert _lines(tmp_path, split="train") == []


def test_options_choose_file_and_folder(tmp_path: Path) -> None:
    make_coco(tmp_path)
    (tmp_path / "train").rename(tmp_path / "pics")
    assert len(_lines(tmp_path)) == 3  # the images; their objects cannot be checked
    assert _lines(tmp_path, images="pics") == []
    (tmp_path / "odd.json").write_text(json.dumps(coco_data()))
    assert check_dataset(tmp_path, annotations="odd.json", images="pics").images == 3


@pytest.mark.parametrize(
    ("classes", "count"), [(None, 0), (["ant", "bee"], 0), (["ant"], 1)], ids=["any", "all-named", "one-missing"]
)
def test_classes_of_ones_own(tmp_path: Path, classes: list[str] | None, count: int) -> None:
    make_voc(tmp_path, {"a": voc_xml(voc_object("ant"), voc_object("bee"))})
    lines = _lines(tmp_path, classes=classes)
    assert len(lines) == count
    assert all("object 1: class: expected one of ant, got 'bee';" in line for line in lines)


def test_devkit_with_lists_of_classes(tmp_path: Path) -> None:
    make_voc(tmp_path / "VOC2007")
    make_voc(tmp_path / "VOC2012", {"x": "<annotation>"}, "val")
    (tmp_path / "VOC2007" / "ImageSets" / "Main" / "dog_train.txt").write_text("gone 1\n")
    lines = _lines(tmp_path)
    assert len(lines) == 1
    assert lines[0].startswith("VOC2012/Annotations/x.xml: malformed XML")


def test_lists_of_classes_with_underscores_are_told_from_splits(tmp_path: Path) -> None:
    lists = {
        "train": "a\n",
        "train_2": "b\n",
        "my_train": "a\nb\n",
        "traffic_light_train": "a 1\n",
        "traffic_light_train_2": "b -1\n",
        "dog_train": "a  1\n",
    }
    make_voc(tmp_path)
    for name, text in lists.items():
        (tmp_path / "ImageSets" / "Main" / f"{name}.txt").write_text(text)
    assert available_splits(tmp_path) == ["my_train", "train", "train_2"]
    assert _lines(tmp_path) == []


def test_a_text_for_the_classes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="classes: expected a list of names, got the text 'dog'"):
        check_dataset(make_voc(tmp_path), classes="dog")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        pytest.param(lambda p: None, "the folder does not exist", id="missing"),
        pytest.param(lambda p: p.write_text(""), "expected a folder, got a file", id="file"),
        pytest.param(lambda p: p.mkdir(), "cannot tell the format: it holds no image. Expected ImageSets", id="empty"),
    ],
)
def test_wrong_paths_are_problems_too(tmp_path: Path, make: object, message: str) -> None:
    assert callable(make)
    make(tmp_path / "x")
    (problem,) = check_dataset(tmp_path / "x").problems
    assert problem.file == tmp_path / "x"
    assert problem.message.startswith(message)


@pytest.mark.parametrize(
    ("format", "message"),
    [("voc", "there is no list of images"), ("coco", "expected the annotation file")],
    ids=["voc", "coco"],
)
def test_named_format_without_files(tmp_path: Path, format: str, message: str) -> None:
    assert message in _lines(tmp_path, format=format)[0]


def test_unknown_names(tmp_path: Path) -> None:
    make_voc(tmp_path)
    with pytest.raises(ValueError, match="format: expected a data format, got 'coca'; did you mean 'coco'"):
        check_dataset(tmp_path, "coca")
    assert "got 'trian'" in _lines(tmp_path, split="trian")[0]


@pytest.mark.parametrize(
    ("name", "format", "images", "problems"),
    [
        ("bccd", "voc", 364, 2),
        ("voc2012_100", "voc", 100, 0),
        ("coco128", "coco", 200, 0),
        ("fruits_nuts", "coco", 18, 0),
    ],
)
def test_real_folders(shared: Path, name: str, format: str, images: int, problems: int) -> None:
    assert detect_format(shared / "data" / name) == format
    findings = check_dataset(shared / "data" / name)
    assert (findings.format, findings.images, len(findings.problems)) == (format, images, problems)
    assert all("has no extent" in problem.message for problem in findings.problems)
