from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from dcn.data.catalog import open_dataset
from dcn.data.dataset import Dataset
from dcn.data.splitting import classes_in, image_name, make_splits
from dcn.formats.splits import Splits, read_splits, write_splits
from tests.data.layouts import LAYOUTS, items, write_picture

SHARES = {"val": 0.25, "test": 0.25}


def _folder(root: Path, count: int = 40) -> Dataset:
    LAYOUTS["LabelImg"].make(root, items(count))
    return open_dataset("voc_files", root, "all")


def _counts(dataset: Dataset, root: Path, images: tuple[str, ...]) -> Counter[str]:
    chosen = [index for index in range(len(dataset)) if image_name(dataset, index, root) in images]
    labels = sum((classes_in(dataset, index) for index in chosen), Counter[int]())
    return Counter({dataset.classes[label]: count for label, count in labels.items()})


@pytest.mark.parametrize("seed", [0, 1, 7])
def test_stratified_and_complete(seed: int, tmp_path: Path) -> None:
    dataset = _folder(tmp_path)
    splits = make_splits(dataset, tmp_path, SHARES, seed)
    names = [name for images in splits.images.values() for name in images]
    assert sorted(names) == sorted({image_name(dataset, index, tmp_path) for index in range(40)})
    assert [len(splits.images[name]) for name in ("train", "val", "test")] == pytest.approx([20, 10, 10], abs=2)
    total = _counts(dataset, tmp_path, tuple(names))
    for part, share in (("train", 0.5), ("val", 0.25), ("test", 0.25)):
        counts = _counts(dataset, tmp_path, splits.images[part])
        for name, count in total.items():
            assert counts[name] == pytest.approx(share * count, abs=2)


@pytest.mark.parametrize("seed", [0, 1, 7])
def test_one_image_with_most_of_the_objects_leaves_the_shares(seed: int, tmp_path: Path) -> None:
    for number, item in enumerate(items(40)):
        write_picture(tmp_path / f"{item.stem}.png", item)
        lines = 500 if number == 3 else 1 + number % 3
        (tmp_path / f"{item.stem}.txt").write_text("0 0.5 0.5 0.1 0.1\n" * lines)
    (tmp_path / "classes.txt").write_text("fruit\n")
    splits = make_splits(open_dataset("yolo", tmp_path, "all"), tmp_path, SHARES, seed)
    assert [len(splits.images[name]) for name in ("train", "val", "test")] == pytest.approx([20, 10, 10], abs=1)


def test_the_seed_decides(tmp_path: Path) -> None:
    dataset = _folder(tmp_path)
    first = make_splits(dataset, tmp_path, SHARES, 0)
    assert make_splits(_folder(tmp_path), tmp_path, SHARES, 0) == first
    assert make_splits(dataset, tmp_path, SHARES, 1).images != first.images


@pytest.mark.parametrize("seed", range(6))
def test_images_of_the_same_content_stay_together(seed: int, tmp_path: Path) -> None:
    source = items(13)
    for item in source[:12]:
        write_picture(tmp_path / f"{item.stem}.png", item)
        write_picture(tmp_path / f"copy of {item.stem}.png", item)
        for name in (item.stem, f"copy of {item.stem}"):
            (tmp_path / f"{name}.txt").write_text("0 0.5 0.5 0.1 0.1\n")
    (tmp_path / "classes.txt").write_text("fruit\n")
    dataset = open_dataset("yolo", tmp_path, "all")
    splits = make_splits(dataset, tmp_path, SHARES, seed)
    of = {name: part for part, images in splits.images.items() for name in images}
    assert len(of) == 24
    assert all(of[f"{item.stem}.png"] == of[f"copy of {item.stem}.png"] for item in source[:12])


def test_no_split_stays_empty(tmp_path: Path) -> None:
    dataset = _folder(tmp_path, 3)
    assert [len(images) for images in make_splits(dataset, tmp_path, SHARES, 0).images.values()] == [1, 1, 1]
    with pytest.raises(ValueError, match="expected 4 different images or more for train, a, b, c, got 3"):
        make_splits(dataset, tmp_path, {"a": 0.1, "b": 0.1, "c": 0.1}, 0)


@pytest.mark.parametrize("shares", [{"val": 1.0}, {"val": 0.5, "test": 0.5}, {"val": -0.1}], ids=str)
def test_wrong_shares(shares: dict[str, float], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected shares >= 0 that leave something for training"):
        make_splits(_folder(tmp_path, 4), tmp_path, shares, 0)


def test_a_share_of_zero_is_no_split(tmp_path: Path) -> None:
    splits = make_splits(_folder(tmp_path, 8), tmp_path, {"val": 0.25, "test": 0.0}, 0)
    assert list(splits.images) == ["train", "val"]


def test_record(tmp_path: Path) -> None:
    splits = Splits({"train": ("a/ä.jpg", "b.jpg"), "val": ("c.jpg",)}, 3)
    write_splits(tmp_path / "splits.json", splits)
    assert read_splits(tmp_path / "splits.json") == splits
    with pytest.raises(ValueError, match="exists already and is not replaced"):
        write_splits(tmp_path / "splits.json", splits)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "expected {'seed': 0, 'splits'"),
        ('{"splits": {}}', "expected {'seed': 0, 'splits'"),
        ('{"splits": {"train": "a.jpg"}}', "splits.train: expected a list of names"),
        ('{"splits": {"train": ["a.jpg"], "val": ["a.jpg"]}}', "got 'a.jpg' in 'train' and 'val'"),
        ('{"splits": {"train": ["a.jpg"]', "malformed JSON"),
    ],
    ids=["list", "empty", "text", "twice", "cut"],
)
def test_malformed_record(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "splits.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_splits(tmp_path / "splits.json")
