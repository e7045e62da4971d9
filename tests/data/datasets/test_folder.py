from __future__ import annotations

from pathlib import Path

import pytest

from dcn.data.datasets.folder import available_splits, open_folder
from dcn.structures import SegmentationMap
from tests.data.made_masks import make_folder

GOOD = "classes: [a, b]\nsplits: {train: {images: train, labels: train}}\n"


def test_a_described_folder(tmp_path: Path) -> None:
    data = open_folder(make_folder(tmp_path), "train")
    target = data[0].target
    assert isinstance(target, SegmentationMap)
    assert target.labels[0].tolist() == [255, 1, 0, 0, 255, 1]
    assert (len(data), data.classes, target.image_id) == (1, ("road", "grass"), "x/one")
    assert available_splits(tmp_path) == ["train"]


def test_a_folder_without_description(tmp_path: Path) -> None:
    assert available_splits(tmp_path) == []
    with pytest.raises(ValueError, match=r"dataset\.yaml: the description of the folder does not exist"):
        open_folder(tmp_path, "train")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1, 2]", "expected a mapping with classes, splits, values, ignore, suffix, colors, got list"),
        ("a: [", "not valid YAML"),
        (GOOD + "clases: [a]", "expected the keys classes.*, got 'clases'"),
        ("splits: {t: {images: a, labels: b}}", "classes: expected a list of names, got nothing"),
        ("classes: [a]\nsplits: {}", "splits: expected at least one"),
        ("classes: [a]\nsplits: {train: {images: x}}", r"splits\.train: expected"),
        (GOOD + "values: [1]", "values: expected one for each of 2 classes, got 1"),
        (GOOD + "values: [1, x]", "values: expected a list of numbers 0 to 65535"),
        (GOOD + "ignore: [1]", "expected each value once, got"),
        (GOOD.replace("train:", "val:"), "split: expected 'val' of .*, got 'train'"),
        (GOOD.replace("images: train", "images: nowhere"), "the folder of images does not exist"),
    ],
    ids=["list", "yaml", "key", "classes", "splits", "split", "values", "value", "twice", "other", "images"],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        open_folder(make_folder(tmp_path, text), "train")
