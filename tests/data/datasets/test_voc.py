from __future__ import annotations

import re
import warnings
from collections import Counter
from pathlib import Path

import pytest
import torch

from dcn.class_names import VOC_CLASSES
from dcn.data.datasets.voc import Voc
from dcn.structures import Target
from tests.data.made_files import make_voc, picture, voc_object, voc_xml


def test_boxes_flags_and_labels(tmp_path: Path) -> None:
    data = Voc(make_voc(tmp_path), "train")
    target = data[0].target
    assert isinstance(target, Target)
    assert target.boxes.tolist() == [[10, 5, 30, 25], [0, 0, 60, 40]]
    assert [VOC_CLASSES[label] for label in target.labels] == ["dog", "cat"]
    assert target.difficult is not None
    assert target.difficult.tolist() == [False, True]
    assert (target.size, target.original_size, target.image_id) == ((40, 60), (40, 60), "a")
    assert data.truncated(1).tolist() == [True]
    assert data.sizes == [(40, 60), (40, 60)]
    assert data[0].image[:, 7, 9].tolist() == [9, 7, 128]
    assert data.image_path(1) == tmp_path / "JPEGImages" / "b.png"


def test_fractions_zero_based_corners_and_parts(tmp_path: Path) -> None:
    part = "<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>3</xmax><ymax>3</ymax></bndbox></part>"
    whole = voc_object("dog", (0, "2.5", "30.75", 40), part)
    target = Voc(make_voc(tmp_path, {"a": voc_xml(whole)}), "train").target(0)
    assert target.boxes.tolist() == [[0, 1.5, 30.75, 40]]


def test_auto_classes_are_those_of_the_folder_sorted(tmp_path: Path) -> None:
    make_voc(tmp_path, {"a": voc_xml(voc_object("zebra"))}, "train")
    make_voc(tmp_path, {"b": voc_xml(voc_object("ant"), voc_object("moth"))}, "val")
    (tmp_path / "Annotations" / "broken.xml").write_text("<annotation>")
    assert Voc(tmp_path, "train", classes="auto").classes == ("ant", "moth", "zebra")
    assert Voc(tmp_path, "train", classes="auto").target(0).labels.tolist() == [2]


def test_keep_empty(tmp_path: Path) -> None:
    hard = voc_object("dog", extra="<difficult>1</difficult>")
    make_voc(tmp_path, {"a": voc_xml(), "b": voc_xml(hard), "c": voc_xml(hard, voc_object())})
    assert len(Voc(tmp_path, "train")) == 3
    assert Voc(tmp_path, "train")[0].target.boxes.shape == (0, 4)  # type: ignore[union-attr]
    kept = Voc(tmp_path, "train", keep_empty=False)
    assert [record.annotation.stem for record in kept.records] == ["c"]
    assert kept.sizes == [(40, 60)]


def test_boxes_without_extent(tmp_path: Path) -> None:
    boxes = [(5, 5, 5, 9), (5, 5, 9, 5), (5, 5, 6, 6)]
    make_voc(tmp_path, {"a": voc_xml(*(voc_object(box=box) for box in boxes))})
    with pytest.warns(UserWarning, match="2 boxes without extent skipped"):
        data = Voc(tmp_path, "train")
    assert data.target(0).boxes.tolist() == [[4, 4, 6, 6]]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kept = Voc(tmp_path, "train", degenerate="keep")
    assert kept.target(0).boxes.tolist() == [[4, 4, 5, 9], [4, 4, 9, 5], [4, 4, 6, 6]]


@pytest.mark.parametrize("below", ["", "VOCdevkit"], ids=["devkit", "parent-of-devkit"])
def test_union_of_years(tmp_path: Path, below: str) -> None:
    make_voc(tmp_path / below / "VOC2007", {"a": voc_xml(voc_object())}, "trainval")
    make_voc(tmp_path / below / "VOC2012", {"b": voc_xml(), "c": voc_xml()}, "trainval")
    data = Voc(tmp_path, "2007_trainval+2012_trainval")
    assert [record.annotation.stem for record in data.records] == ["a", "b", "c"]
    assert [path.parents[1].name for path in map(data.image_path, range(3))] == ["VOC2007", "VOC2012", "VOC2012"]


def test_year_of_the_folder_itself(tmp_path: Path) -> None:
    root = make_voc(tmp_path / "VOC2007", split="test")
    assert len(Voc(root, "2007_test")) == len(Voc(root, "test")) == 2


def test_list_of_one_class_has_a_second_column(tmp_path: Path) -> None:
    make_voc(tmp_path)
    (tmp_path / "ImageSets" / "Main" / "dog_train.txt").write_text("a  1\nb -1\n\n")
    assert len(Voc(tmp_path, "dog_train")) == 2


def test_size_tag_may_be_absent(tmp_path: Path) -> None:
    text = f"<annotation>{voc_object()}</annotation>"
    assert Voc(make_voc(tmp_path, {"a": text}), "train").sizes == [(40, 60)]


def _doctype(entity: str) -> str:
    return f"<!DOCTYPE annotation [{entity}]>{voc_xml(voc_object('&e;'))}"


BROKEN = {
    "cut": ("<annotation><object>", "a.xml: malformed XML: no element found"),
    "empty": ("", "a.xml: malformed XML"),
    "entity": (_doctype('<!ENTITY e "dog">'), r"a.xml: a document type declaration \(DTD\) is not accepted"),
    "external": (_doctype('<!ENTITY e SYSTEM "file:///etc/passwd">'), "a.xml: a document type declaration"),
    "encoding": ("<?xml version='1.0' encoding='nonsense'?><annotation/>", "a.xml: malformed XML"),
    "width": (voc_xml().replace(">60<", ">wide<"), "a.xml: size: <width>: expected a number, got 'wide'"),
    "root": ("<html/>", "a.xml: expected <annotation> as the outermost element, got <html>"),
    "deep": (
        "<annotation>" + "<a>" * 200 + "</a>" * 200 + "</annotation>",
        "a.xml: malformed XML: expected at most 100 nested elements",
    ),
    "pixels": (voc_xml(size=(10**5, 10**5)), "a.xml: size: expected an image of at most 120,000,000 pixels"),
    "no-name": (voc_xml(voc_object(" ")), r"a.xml: object 0 \(no name\): <name> is missing or empty"),
    "no-box": (
        voc_xml(voc_object(), "<object><name>cat</name></object>"),
        r"a.xml: object 1 \(cat\): <bndbox> is missing",
    ),
    "no-corner": (voc_xml(voc_object()).replace("<ymax>25</ymax>", ""), "<ymax> is missing from <bndbox>"),
    "corner-text": (voc_xml(voc_object(box=(1, 2, "x", 4))), r"object 0 \(dog\): <xmax>: expected a number, got 'x'"),
    "corner-nan": (voc_xml(voc_object(box=(1, "nan", 3, 4))), "<ymin>: expected a number, got 'nan'"),
    "corner-inf": (voc_xml(voc_object(box=(1, 1, "inf", 4))), "<xmax>: expected a number, got 'inf'"),
    "reversed": (voc_xml(voc_object(box=(9, 2, 8, 4))), r"got the reversed box \(9, 2, 8, 4\)"),
    "upside-down": (voc_xml(voc_object(box=(1, 5, 8, 4))), r"got the reversed box \(1, 5, 8, 4\)"),
    "too-wide": (
        voc_xml(voc_object(box=(1, 1, 61.5, 4))),
        r"inside the image of 60x40 pixels \(width x height\), got \(1, 1, 61.5, 4\)",
    ),
    "too-high": (voc_xml(voc_object(box=(1, 1, 6, 42))), "expected a box inside the image of 60x40 pixels"),
    "left": (voc_xml(voc_object(box=(-1, 1, 6, 4))), "expected a box inside the image"),
    "above": (voc_xml(voc_object(box=(1, -1, 6, 4))), "expected a box inside the image"),
    "difficult": (voc_xml(voc_object(extra="<difficult>2</difficult>")), "<difficult>: expected 0 or 1, got '2'"),
    "difficult-word": (
        voc_xml(voc_object(extra="<difficult>so</difficult>")),
        "<difficult>: expected 0 or 1, got 'so'",
    ),
    "class": (voc_xml(voc_object("dgo")), "a.xml: object 0: class: expected one of aeroplane.*, got 'dgo'"),
}


@pytest.mark.parametrize(("text", "message"), BROKEN.values(), ids=BROKEN.keys())
def test_broken_annotations_are_named(tmp_path: Path, text: str, message: str) -> None:
    make_voc(tmp_path, {"a": text})
    with pytest.raises(ValueError, match=message) as caught:
        Voc(tmp_path, "train")
    assert str(caught.value).startswith(str(tmp_path / "Annotations" / "a.xml"))


def test_billion_laughs_is_refused_at_once(tmp_path: Path) -> None:
    entities = '<!ENTITY e0 "ha">' + "".join(f'<!ENTITY e{i + 1} "{f"&e{i};" * 10}">' for i in range(30))
    make_voc(tmp_path, {"a": f"<!DOCTYPE annotation [{entities}]><annotation><object>&e30;</object></annotation>"})
    with pytest.raises(ValueError, match="document type declaration"):
        Voc(tmp_path, "train")


@pytest.mark.parametrize(
    ("gone", "message"),
    [("JPEGImages/a.png", "'a' is listed, but .*a.jpg does not exist"), ("Annotations/b.xml", "'b' is listed, but")],
    ids=["image", "annotation"],
)
def test_listed_files_must_exist(tmp_path: Path, gone: str, message: str) -> None:
    make_voc(tmp_path)
    (tmp_path / gone).unlink()
    with pytest.raises(ValueError, match=f"train.txt: line . *.*{message}"):
        Voc(tmp_path, "train")


def test_listed_twice(tmp_path: Path) -> None:
    make_voc(tmp_path)
    (tmp_path / "ImageSets" / "Main" / "train.txt").write_text("a\nb\na\n")
    with pytest.raises(ValueError, match=r"train.txt: line 3: 'a' is listed twice"):
        Voc(tmp_path, "train")


def test_image_of_another_size(tmp_path: Path) -> None:
    data = Voc(make_voc(tmp_path), "train")
    picture(tmp_path / "JPEGImages" / "a.png", (61, 40))
    with pytest.raises(ValueError, match=r"a.xml: size: the annotation says 60x40 pixels, .*a.png has 61x40"):
        data[0]


@pytest.mark.parametrize(
    ("split", "message"),
    [
        pytest.param("trian", "expected .*train.*, got 'trian'", id="list"),
        pytest.param("2007_train", "expected .*train.*, got '2007_train'", id="year"),
    ],
)
def test_wrong_split(tmp_path: Path, split: str, message: str) -> None:
    make_voc(tmp_path)
    with pytest.raises(ValueError, match=message):
        Voc(tmp_path, split)


def test_wrong_root(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"root: expected a folder.*, got .*gone"):
        Voc(tmp_path / "gone", "train")
    with pytest.raises(ValueError, match=r"root: expected ImageSets/Main/\*.txt, .* got none"):
        Voc(tmp_path, "train")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes": "all"}, "classes: expected a list of names or 'auto', got 'all'"),
        ({"classes": []}, "classes: expected one or more different names"),
        ({"classes": ["dog", "dog"]}, "classes: expected one or more different names"),
        ({"degenerate": "drop"}, "degenerate: expected 'skip' or 'keep', got 'drop'"),
    ],
    ids=["word", "none", "twice", "degenerate"],
)
def test_wrong_options(tmp_path: Path, options: dict[str, object], message: str) -> None:
    make_voc(tmp_path)
    with pytest.raises(ValueError, match=re.escape(message)):
        Voc(tmp_path, "train", **options)  # type: ignore[arg-type]


def _objects(data: Voc) -> Counter[str]:
    return Counter(data.classes[label] for i in range(len(data)) for label in data.target(i).labels)


@pytest.mark.filterwarnings("ignore:.*without extent")
def test_blood_cells(shared: Path) -> None:
    root, names = shared / "data" / "bccd", ("train", "val", "test")
    splits = [Voc(root, name, classes="auto", degenerate="keep") for name in names]
    assert [len(data) for data in splits] == [205, 87, 72]
    total = sum((_objects(data) for data in splits), Counter[str]())
    assert total == {"RBC": 4155, "WBC": 372, "Platelets": 361}
    skipping = sum((_objects(Voc(root, name, classes="auto")) for name in names), Counter[str]())
    assert total - skipping == {"RBC": 2}  # the two boxes without extent


@pytest.mark.parametrize(("split", "images"), [("train", 296), ("test", 67)])
def test_cards(shared: Path, split: str, images: int) -> None:
    data = Voc(shared / "data" / "cards", split, classes="auto")
    assert len(data) == images
    assert data.classes == ("ace", "jack", "king", "nine", "queen", "ten")
    sample = data[images - 1]
    assert tuple(sample.image.shape[1:]) == data.sizes[images - 1]


def test_pascal_voc_2012(shared: Path) -> None:
    data = Voc(shared / "data" / "voc2012_100", "all")
    targets = [data.target(i) for i in range(len(data))]
    flags = torch.cat([target.ignored for target in targets])
    assert (len(data), len(flags), int(flags.sum())) == (100, 273, 38)
    assert len(_objects(data)) == 20
