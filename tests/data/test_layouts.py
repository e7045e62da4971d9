from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from dcn.cli.main import main
from dcn.data.auto import find_layout, find_roles
from dcn.data.catalog import FORMATS, open_dataset
from dcn.data.check import check_dataset
from dcn.data.dataset import Dataset
from dcn.data.splitting import target_of
from dcn.formats.splits import read_splits
from dcn.metrics import evaluate_files
from tests.data.layouts import CLASSES, HEIGHT, LAYOUTS, WIDTH, Item, Made, items, make_index_masks, write_picture

BY_SEED = {item.seed: item for item in items()}


def _item(dataset: Dataset, index: int) -> Item:
    """The source of an image, by its pixels' file name, whatever the tool made of it."""
    path = dataset.image_path(index)
    assert path is not None
    return BY_SEED[int(path.stem.replace("-", " ").removeprefix("photo ")[:2])]


def _compare(dataset: Dataset, tolerance: float) -> set[int]:
    """Compare all boxes and classes with the source; the images that were there."""
    seen = set()
    for index in range(len(dataset)):
        source, target = _item(dataset, index), target_of(dataset, index)
        seen.add(source.seed)
        assert [dataset.classes[label] for label in target.labels.tolist()] == [box[0] for box in source.boxes]
        expected = torch.tensor([box[1:] for box in source.boxes], dtype=torch.float32).reshape(-1, 4)
        torch.testing.assert_close(target.boxes, expected, rtol=0, atol=tolerance)
        assert target.size == (HEIGHT, WIDTH)
    return seen


@pytest.mark.parametrize("made", LAYOUTS.values(), ids=LAYOUTS)
def test_layout(made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made.make(tmp_path, items())
    assert main(["data", "check", str(tmp_path)]) == 0
    row = FORMATS[made.format]
    assert f"{tmp_path}: taken for {made.format} ({row.says})\n" in capsys.readouterr().out
    layout = find_layout(FORMATS, tmp_path)
    assert (layout.format, set(layout.roles)) == (made.format, set(made.roles))
    parts = {name: open_dataset("auto", tmp_path, name) for name in ("train", "val", "test")}
    seen = {name: _compare(dataset, made.tolerance) for name, dataset in parts.items()}
    if made.roles == ("train", "val"):
        assert seen.pop("test") == seen["val"]
    assert sorted(seed for part in seen.values() for seed in part) == sorted(BY_SEED)
    assert {dataset.classes for dataset in parts.values()} <= {CLASSES, tuple(sorted(CLASSES))}
    trained = open_dataset("auto", tmp_path, "train", keep_empty=False)
    assert {_item(trained, index).seed for index in range(len(trained))} == seen["train"] - {11}
    assert trained[0].image.shape == (3, HEIGHT, WIDTH)


@pytest.mark.parametrize("made", LAYOUTS.values(), ids=LAYOUTS)
def test_result_files_are_evaluated_against_any_layout(made: Made, tmp_path: Path) -> None:
    made.make(tmp_path / "data", items())
    row = FORMATS[made.format]
    assert row.splits is not None
    splits = list(row.splits(tmp_path / "data"))
    options = {"classes": "auto"} if made.format == "voc" else {}
    dataset = open_dataset(made.format, tmp_path / "data", splits[0], **options)
    lines = [
        {
            "image_id": Path(str(dataset.image_path(index))).name,
            "category_id": name,
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "score": 0.9,
        }
        for index in range(len(dataset))
        for name, x1, y1, x2, y2 in _item(dataset, index).boxes
    ]
    (tmp_path / "results.json").write_text(json.dumps(lines))
    result = evaluate_files(tmp_path / "results.json", tmp_path / "data", split=splits[0], format="coco")
    assert result["AP50"] == pytest.approx(1, abs=1e-6)
    if len(splits) > 1:
        with pytest.raises(ValueError, match="split: expected one of"):
            evaluate_files(tmp_path / "results.json", tmp_path / "data")
    if len(splits) > 1 and made.format not in ("coco", "coco_folders", "voc"):  # one file each; lists that overlap
        joined = "+".join(splits)
        more = evaluate_files(tmp_path / "results.json", tmp_path / "data", split=joined, format="coco")
        assert more["AR100"] < result["AR100"]


@pytest.mark.parametrize(
    "name", ["LabelImg", "LabelImg YOLO", "LabelMe", "CVAT COCO", "CSV", "CVAT VOC", "CSV with header"]
)
def test_split_is_recorded_and_used(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = LAYOUTS[name]
    made.make(tmp_path, items())
    before = {part: _seeds(tmp_path, part) for part in ("train", "val", "test")}
    shares = ["--val", "0.25", "--test", "0.25", "--seed", "5"]
    assert main(["data", "split", str(tmp_path), *shares]) == 0
    assert "seed 5" in capsys.readouterr().out
    recorded = read_splits(tmp_path / "splits.json")
    assert find_layout(FORMATS, tmp_path).format == made.format
    after = {part: _seeds(tmp_path, part) for part in ("train", "val", "test")}
    for part, images in recorded.images.items():
        assert {int(Path(image).stem.removeprefix("photo ")) for image in images} == after[part]
    assert sorted(seed for part in after.values() for seed in part) == sorted(BY_SEED)
    assert before != after
    if "test" in made.roles:
        assert after["test"] == before["test"]
    assert main(["data", "split", str(tmp_path)]) == 2
    assert "is split already" in capsys.readouterr().err


def test_result_files_are_evaluated_on_a_recorded_split(tmp_path: Path) -> None:
    """Detections of its images alone are all that there is to find."""
    root, found = tmp_path / "data", tmp_path / "found.json"
    LAYOUTS["LabelImg YOLO"].make(root, items())
    assert main(["data", "split", str(root)]) == 0
    dataset = open_dataset("auto", root, "test")
    lines = [
        {"image_id": Path(str(dataset.image_path(index))).name, "category_id": name, "bbox": box, "score": 0.9}
        for index in range(len(dataset))
        for name, x1, y1, x2, y2 in _item(dataset, index).boxes
        for box in [[x1, y1, x2 - x1, y2 - y1]]
    ]
    found.write_text(json.dumps(lines))
    assert evaluate_files(found, root, split="test")["AR100"] > 0.8
    assert evaluate_files(found, root)["AR100"] < 0.5
    with pytest.raises(ValueError, match=r"split: expected one of all, train, val, test in .*, got 'tset'"):
        evaluate_files(found, root, split="tset")


def _seeds(root: Path, split: str) -> set[int]:
    dataset = open_dataset("auto", root, split)
    return {_item(dataset, index).seed for index in range(len(dataset))}


def test_a_recorded_image_that_is_gone(tmp_path: Path) -> None:
    LAYOUTS["CSV"].make(tmp_path, items())
    record = {"seed": 0, "splits": {"train": ["images/photo 00.jpg"], "val": ["images/photo 99.jpg"]}}
    (tmp_path / "splits.json").write_text(json.dumps(record))
    assert _seeds(tmp_path, "train") == {0}
    with pytest.raises(ValueError, match=r"expected every image of 'val' in the data, got 0 of 1 without images/photo"):
        open_dataset("auto", tmp_path, "val")


@pytest.mark.parametrize(
    ("splits", "roles"),
    [
        (["train", "trainval", "val", "test"], {"train": "train", "val": "val", "test": "test"}),
        (
            ["2007_trainval", "2012_trainval", "2007_test"],
            {"train": "2007_trainval+2012_trainval", "test": "2007_test"},
        ),
        (["train2017", "val2017", "test-dev2017"], {"train": "train2017", "val": "val2017", "test": "test-dev2017"}),
        (["Training", "validation"], {"train": "Training", "val": "validation"}),
        (["all"], {}),
    ],
    ids=["voc", "years", "coco", "words", "none"],
)
def test_roles(splits: list[str], roles: dict[str, str]) -> None:
    assert find_roles(splits) == roles


def test_images_in_two_splits_are_problems(tmp_path: Path) -> None:
    LAYOUTS["Roboflow YOLO"].make(tmp_path, items())
    assert check_dataset(tmp_path).problems == []
    write_picture(tmp_path / "valid" / "images" / "again.png", items()[0])
    stem = next((tmp_path / "train" / "images").iterdir()).name
    (tmp_path / "test" / "images" / f"copy of {stem}").write_bytes((tmp_path / "train" / "images" / stem).read_bytes())
    problems = [str(problem) for problem in check_dataset(tmp_path).problems]
    assert len(problems) == 1  # the PNG has other bytes
    assert f"test/images/copy of {stem}: is in the split 'test' and, as the content of " in problems[0]


def test_dummy_category_that_is_used_stays(tmp_path: Path) -> None:
    LAYOUTS["Roboflow COCO"].make(tmp_path, items())
    assert open_dataset("coco_folders", tmp_path, "train").classes == CLASSES
    path = tmp_path / "test" / "_annotations.coco.json"
    content = json.loads(path.read_text())
    content["annotations"][0]["category_id"] = 0
    path.write_text(json.dumps(content))
    assert open_dataset("coco_folders", tmp_path, "train").classes == ("fruits", *CLASSES)


def test_polygons_are_masks(tmp_path: Path) -> None:
    LAYOUTS["Ultralytics polygons"].make(tmp_path, items())
    dataset = open_dataset("yolo", tmp_path, "train")
    target = target_of(dataset, 0)
    _, x1, y1, x2, y2 = _item(dataset, 0).boxes[0]
    expected = torch.zeros(HEIGHT, WIDTH, dtype=torch.bool)
    expected[y1:y2, x1:x2] = True
    assert torch.equal(target.masks[0], expected)


@pytest.mark.parametrize("beside", [True, False], ids=["beside", "folders"])
@pytest.mark.parametrize("names", [None, ("sky", "road", "tree", "car")], ids=["numbers", "names"])
def test_index_masks(beside: bool, names: tuple[str, ...] | None, tmp_path: Path) -> None:
    make_index_masks(tmp_path, beside=beside)
    if names is not None:
        (tmp_path / "classes.txt").write_text("\n".join(names))
    findings = check_dataset(tmp_path)
    assert (findings.format, findings.images, findings.problems) == ("masks", 6, [])
    parts = [open_dataset("auto", tmp_path, part) for part in ("train", "val", "test")]
    assert sum(map(len, parts)) == 6
    for dataset in parts:
        assert dataset.classes == (names or ("0", "1", "2"))
        for index in range(len(dataset)):
            path = dataset.image_path(index)
            assert path is not None
            labels = target_of(dataset, index).labels
            assert (labels[0, 0], labels[1, 1]) == (255, int(path.stem) % 3)


FAULTS = {
    "word": ("0 0.5 0.5 wide 0.1", "expected 'class x y width height'"),
    "pixels": ("0 100 50 20 20", "are these pixels?"),
    "class": ("3 0.5 0.5 0.1 0.1", "expected a class from 0 to 2, got 3"),
    "negative class": ("-1 0.5 0.5 0.1 0.1", "expected a class from 0 to 2, got -1"),
    "score": ("0 0.5 0.5 0.1 0.1 0.9", "got 6 values"),
    "outside": ("0 0.9 0.5 0.5 0.1", "expected a box inside the image of 64x48 pixels"),
    "nan": ("0 nan 0.5 0.1 0.1", "finite numbers"),
    "negative width": ("0 0.5 0.5 -0.1 0.1", "width and height must not be negative"),
}


@pytest.mark.parametrize(("line", "message"), FAULTS.values(), ids=FAULTS)
def test_faults_of_yolo(line: str, message: str, tmp_path: Path) -> None:
    LAYOUTS["LabelImg YOLO"].make(tmp_path, items())
    with (tmp_path / "photo 00.txt").open("a") as file:
        file.write(f"{line}\n")
    problems = [str(problem) for problem in check_dataset(tmp_path).problems]
    assert len(problems) == 1
    assert problems[0].startswith(f"{tmp_path}/photo 00.txt: line 2: ")
    assert message in problems[0]
    with pytest.raises(ValueError, match=r"photo 00\.txt: line 2"):
        open_dataset("auto", tmp_path, "train")


CSV_FAULTS = {
    "missing": ("images/none.jpg,1,2,3,4,fig", "the image 'images/none.jpg' does not exist"),
    "climbs out": ("../../../etc/hosts.jpg,1,2,3,4,fig", "does not exist"),
    "word": ("images/photo 00.jpg,1,2,3,x,fig", "expected four numbers"),
    "reversed": ("images/photo 00.jpg,9,2,3,4,fig", "got the reversed box"),
    "no class": ("images/photo 00.jpg,1,2,3,4,", "expected a class in the sixth cell"),
    "outside": ("images/photo 00.jpg,1,2,300,4,fig", "expected a box inside the image"),
    "no file": (",1,2,3,4,fig", "expected the name of an image"),
}


@pytest.mark.parametrize(("line", "message"), CSV_FAULTS.values(), ids=CSV_FAULTS)
def test_faults_of_csv(line: str, message: str, tmp_path: Path) -> None:
    LAYOUTS["CSV"].make(tmp_path, items())
    with (tmp_path / "annotations.csv").open("a") as file:
        file.write(f"{line}\n")
    problems = [str(problem) for problem in check_dataset(tmp_path).problems]
    number = len((tmp_path / "annotations.csv").read_text().splitlines())
    assert len(problems) == 1
    assert problems[0].startswith(f"{tmp_path}/annotations.csv: line {number}: ")
    assert message in problems[0]


def test_xml_without_its_image(tmp_path: Path) -> None:
    LAYOUTS["images and annotations"].make(tmp_path, items())
    (tmp_path / "images" / "photo 03.png").unlink()
    problems = [str(problem) for problem in check_dataset(tmp_path).problems]
    assert problems == [
        f"{tmp_path}/annotations/photo 03.xml: annotates an image that does not exist in {tmp_path}/images"
    ]


def test_names_of_yolo_with_a_gap(tmp_path: Path) -> None:
    LAYOUTS["Ultralytics polygons"].make(tmp_path, items())
    file = tmp_path / "fruits.yaml"
    file.write_text(file.read_text().replace("2: fig", "7: fig"))
    with pytest.raises(ValueError, match="names: expected the numbers 0 to 2, got"):
        open_dataset("auto", tmp_path, "train")
