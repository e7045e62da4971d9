"""Folders of images and masks without a description: layouts, colours, black and white."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image

from dcn.data import open_dataset
from dcn.data.check import check_dataset
from dcn.data.dataset import colors_of
from dcn.data.splitting import target_of
from dcn.data.subset import Subset

Array = npt.NDArray[np.uint8]
COLORS = {"sky": [10, 20, 30], "road": [128, 64, 128], "tree": [0, 128, 0]}
LABELS = np.repeat(np.repeat(np.array([[0, 1], [2, 1]], np.uint8), 12, 0), 16, 1)


def painted(labels: Array) -> Array:
    return np.array(list(COLORS.values()), np.uint8)[labels]


def black_and_white(labels: Array) -> Array:
    return ((labels == 1) * 255).astype(np.uint8)


def write(root: Path, images: str, masks: str, paint: Callable[[Array], Array] = np.asarray, end: str = ".png") -> None:
    """Three images, each another colour, and their masks; ``{}`` in the folders is the split."""
    for number, split in enumerate(("train", "train", "val")):
        picture = np.full((24, 32, 3), 40 * number, np.uint8)
        for pattern, array, ending in ((images, picture, ".jpg"), (masks, paint(LABELS), end)):
            path = root / f"{pattern.format(split, number)}{ending}"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(path)


LAYOUTS = {
    "img, lbl in splits": ("{}/img/{}", "{}/lbl/{}"),
    "img, lbl": ("img/{}/{}", "lbl/{}/{}"),
    "train_labels": ("{}/{}", "{}_labels/{}_L"),
    "train_images, train_masks": ("{}_images/{}", "{}_masks/{}"),
    "Supervisely": ("{}/img/{}", "{}/masks_machine/{}"),
    "names with endings": ("{}/images/{}", "{}/masks/{}.jpg"),
    "bitmaps": ("{}/image/{}", "{}/label/{}"),
}


@pytest.mark.parametrize(("images", "masks"), LAYOUTS.values(), ids=LAYOUTS)
def test_layouts(images: str, masks: str, tmp_path: Path) -> None:
    write(tmp_path, images, masks, end=".bmp" if "label/" in masks else ".png")
    assert check_dataset(tmp_path).problems == []
    for split, length in (("train", 2), ("val", 1)):
        dataset = open_dataset("auto", tmp_path, split)
        assert (len(dataset), dataset.classes) == (length, ("0", "1", "2"))
        assert torch.equal(target_of(dataset, 0).labels, torch.from_numpy(LABELS).long())


def test_lists_of_splits(tmp_path: Path) -> None:
    write(tmp_path, "JPEGImages/{1}", "SegmentationClass/{1}")
    lists = tmp_path / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("0\n2\n")
    (lists / "val.txt").write_text("1\n")
    names = {split: open_dataset("masks", tmp_path, split) for split in ("train", "val")}
    assert {split: len(dataset) for split, dataset in names.items()} == {"train": 2, "val": 1}
    (lists / "val.txt").write_text("1\n7\n")
    with pytest.raises(ValueError, match=r"val: expected listed images in .*JPEGImages, got '7'"):
        open_dataset("auto", tmp_path, "val")
    assert len(open_dataset("auto", tmp_path, "train")) == 2
    assert ["expected listed images" in str(problem) for problem in check_dataset(tmp_path).problems] == [True]


@pytest.mark.parametrize("form", ["mapping", "option", "file", "JSON", "British"])
def test_colors(form: str, tmp_path: Path) -> None:
    data = tmp_path / "data"
    write(data, "{}/images/{}", "{}/masks/{}", painted)
    lines = "".join(f"{r} {g} {b}\t{name}\n" for name, (r, g, b) in COLORS.items())
    (tmp_path / "table.txt").write_text(lines)
    if form == "file":
        (data / "label_colors.txt").write_text(lines)
    if form == "JSON":
        (data / "colors.json").write_text(json.dumps(COLORS))
    name = "colours" if form == "British" else "colors"
    options: dict[str, Any] = (
        {} if form in ("file", "JSON") else {name: COLORS if form == "mapping" else tmp_path / "table.txt"}
    )
    dataset = open_dataset("masks" if form == "British" else "auto", data, "train", **options)
    assert dataset.classes == tuple(COLORS)
    assert torch.equal(target_of(dataset, 0).labels, torch.from_numpy(LABELS).long())


def test_colors_without_a_table_are_named(tmp_path: Path) -> None:
    write(tmp_path, "{}/images/{}", "{}/masks/{}", painted)
    says = r"expected a table of the colours of the masks, got none; write a line 'r g b name' .*label_colors\.txt"
    with pytest.raises(ValueError, match=rf"{says}.*\(128, 64, 128\) 50\.0%, \(0, 128, 0\) 25\.0%"):
        open_dataset("auto", tmp_path, "train")
    assert len(check_dataset(tmp_path).problems) == 1
    assert check_dataset(tmp_path, colors=COLORS).problems == []


@pytest.mark.parametrize(("unknown", "label"), [("ignore", 255), ("nearest", 1)])
def test_unknown_colors(unknown: str, label: int, tmp_path: Path) -> None:
    write(tmp_path, "{}/images/{}", "{}/masks/{}", painted)
    file = tmp_path / "train/masks/0.png"
    pixels = painted(LABELS)
    pixels[0, :3], pixels[1, 0] = (120, 60, 130), (1, 1, 1)
    Image.fromarray(pixels).save(file)
    says = r"0\.png: expected the colours of 3 classes, got \(120, 60, 130\) in 0\.39% of the pixels, nearest to "
    with pytest.raises(ValueError, match=says + r"\(128, 64, 128\) \(road\); 0\.52% with 1 more unknown"):
        target_of(open_dataset("auto", tmp_path, "train", colors=COLORS), 0)
    labels = target_of(open_dataset("auto", tmp_path, "train", colors=COLORS, unknown_colors=unknown), 0).labels
    expected = torch.from_numpy(LABELS).long()
    expected[0, :3], expected[1, 0] = label, 255 if unknown == "ignore" else 0
    assert torch.equal(labels, expected)


def test_jpeg_masks_take_the_nearest_color(tmp_path: Path) -> None:
    write(tmp_path, "{}/images/{}", "{}/masks/{}", painted, ".jpg")
    with pytest.raises(ValueError, match="a JPEG changes colours: save the mask as PNG, or set the option unknown_col"):
        target_of(open_dataset("auto", tmp_path, "train", colors=COLORS), 0)
    labels = target_of(open_dataset("auto", tmp_path, "train", colors=COLORS, unknown_colors="nearest"), 0).labels
    assert float((labels == torch.from_numpy(LABELS)).float().mean()) > 0.97


@pytest.mark.parametrize(
    ("names", "classes"),
    [
        ((), ("background", "foreground")),
        (("crack",), ("background", "crack")),
        (("wall", "crack"), ("wall", "crack")),
    ],
    ids=["no names", "one", "two"],
)
@pytest.mark.parametrize("end", [".png", ".jpg"])
def test_black_and_white(end: str, names: tuple[str, ...], classes: tuple[str, ...], tmp_path: Path) -> None:
    write(tmp_path, "{}/images/{}", "{}/masks/{}", black_and_white, end)
    if names:
        (tmp_path / "classes.txt").write_text("\n".join(names))
    dataset = open_dataset("auto", tmp_path, "train", unknown_colors="nearest")
    assert dataset.classes == classes
    labels = target_of(dataset, 0).labels
    assert float((labels == torch.from_numpy(LABELS == 1)).float().mean()) > (0.97 if end == ".jpg" else 0.9999)
    assert any("0 and 255 alone" in note for note in check_dataset(tmp_path, unknown_colors="nearest").notes)


def test_three_names_keep_255_ignored(tmp_path: Path) -> None:
    write(tmp_path, "{}/images/{}", "{}/masks/{}", black_and_white)
    (tmp_path / "classes.txt").write_text("a\nb\nc")
    dataset = open_dataset("auto", tmp_path, "train")
    assert dataset.classes == ("a", "b", "c")
    assert set(target_of(dataset, 0).labels.unique().tolist()) == {0, 255}


def test_numbers_of_classes_in_jpegs_are_refused(tmp_path: Path) -> None:
    write(tmp_path, "{}/images/{}", "{}/masks/{}", lambda labels: labels * 40, ".jpg")
    with pytest.raises(ValueError, match="a JPEG changes the numbers of the classes; save the masks as PNG"):
        open_dataset("auto", tmp_path, "train")


def test_greys_that_stand_for_classes_give_a_warning(tmp_path: Path) -> None:
    write(tmp_path, "{}/images/{}", "{}/masks/{}", lambda labels: labels * 100)
    with pytest.warns(UserWarning, match=r"the 3 values 0, 100, 200 alone, and 201 classes .*label_colors"):
        assert len(open_dataset("auto", tmp_path, "train").classes) == 201
    (tmp_path / "label_colors.txt").write_text("0 0 0 wall\n100 100 100 road\n200 200 200 tree\n")
    dataset = open_dataset("auto", tmp_path, "train")
    assert dataset.classes == ("wall", "road", "tree")
    assert torch.equal(target_of(dataset, 0).labels, torch.from_numpy(LABELS).long())


def test_a_table_of_something_else_leaves_numbers_alone(tmp_path: Path) -> None:
    write(tmp_path, "{}/images/{}", "{}/masks/{}")
    (tmp_path / "colors.txt").write_text("the colours of the walls\n")
    assert open_dataset("auto", tmp_path, "train").classes == ("0", "1", "2")


def test_camvid_in_colors_is_read_by_its_table(tmp_path: Path) -> None:
    write(tmp_path, "{}/{}", "{}annot/{}", painted)
    (tmp_path / "label_colors.txt").write_text("".join(f"{r} {g} {b} {n}\n" for n, (r, g, b) in COLORS.items()))
    findings = check_dataset(tmp_path)
    assert (findings.format, findings.problems) == ("masks", [])
    assert open_dataset("auto", tmp_path, "val").classes == tuple(COLORS)


@pytest.mark.parametrize("order", [("tree", "sky", "road"), None], ids=["classes", "order of the colours"])
def test_colors_of_a_description(order: tuple[str, ...] | None, tmp_path: Path) -> None:
    write(tmp_path, "{}/images/{}", "{}/masks/{}", painted)
    said: dict[str, Any] = {"colors": COLORS, "splits": {"train": {"images": "train/images", "labels": "train/masks"}}}
    (tmp_path / "dataset.yaml").write_text(json.dumps(said | ({"classes": order} if order else {})))
    dataset = open_dataset("folder", tmp_path, "train")
    assert dataset.classes == (order or tuple(COLORS))
    assert colors_of(Subset(dataset, [0])) == tuple(tuple(COLORS[name]) for name in dataset.classes)
    expected = torch.tensor([dataset.classes.index(name) for name in COLORS])[torch.from_numpy(LABELS).long()]
    assert torch.equal(target_of(dataset, 0).labels, expected)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"values": [1, 2, 3]}, "colors: expected no values and no ignore beside it"),
        ({"classes": ["sky"]}, "expected the classes that have colours"),
        ({"colors": {"sky": "blue"}}, "sky: expected a colour"),
    ],
    ids=["values", "classes", "word"],
)
def test_faults_of_a_description(more: dict[str, Any], message: str, tmp_path: Path) -> None:
    said: dict[str, Any] = {"colors": COLORS, "splits": {"train": {"images": "a", "labels": "b"}}}
    (tmp_path / "dataset.yaml").write_text(json.dumps(said | more))
    with pytest.raises(ValueError, match=message):
        open_dataset("folder", tmp_path, "train")


def test_colors_are_no_option_of_boxes(tmp_path: Path) -> None:
    write(tmp_path, "{}/images/{}", "{}/masks/{}", painted)
    with pytest.raises(ValueError, match="colors: expected none for 'voc', which has no such option"):
        check_dataset(tmp_path, "voc", colors=COLORS)


def test_a_mask_of_another_size(tmp_path: Path) -> None:
    write(tmp_path, "{}/images/{}", "{}/masks/{}")
    Image.fromarray(LABELS[::2, ::2]).save(tmp_path / "train/masks/0.png")
    (problem,) = check_dataset(tmp_path).problems
    assert problem.message.endswith(
        "(height, width) for 0.jpg; resize the mask to the size of its image, without smoothing (nearest neighbour)"
    )
