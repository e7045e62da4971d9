"""Images that are gone, or whose header is no image's, when data are opened: the option ``broken``."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest

from dcn.data.catalog import FORMATS, open_dataset
from tests.data.layouts import LAYOUTS, items

# Layouts that name their images; the others list the images that there are, and one that is gone is no loss.
NAMING = ("LabelImg", "CVAT VOC", "one JSON", "Roboflow COCO", "LabelImg YOLO", "CSV", "LabelMe")


def _images(root: Path) -> list[Path]:
    return sorted(path for path in root.rglob("*") if path.suffix.lower() in (".jpg", ".png"))


def _made(root: Path, layout: str) -> tuple[str, str]:
    """The format of a layout and its first split, written into a folder."""
    made = LAYOUTS[layout]
    made.make(root, items())
    splits = FORMATS[made.format].splits
    assert splits is not None
    return made.format, next(iter(splits(root)))


def _count(format: str, root: Path, split: str, broken: str) -> int:
    options = {"classes": "auto"} if format == "voc" else {}
    return len(open_dataset(format, root, split, broken=broken, **options))


@pytest.mark.parametrize("broken", ["skip", "repair"])
@pytest.mark.parametrize("layout", NAMING)
def test_a_missing_image_is_left_out_with_one_warning(layout: str, broken: str, tmp_path: Path) -> None:
    format, split = _made(tmp_path, layout)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        whole = _count(format, tmp_path, split, broken)
    _images(tmp_path)[0].unlink()
    with pytest.raises(ValueError, match=r"does not exist.*; the option broken=skip leaves such images out"):
        _count(format, tmp_path, split, "refuse")
    with pytest.warns(UserWarning, match=r"1 image left out, missing or unreadable; the first: .*does not exist"):
        assert _count(format, tmp_path, split, broken) == whole - 1


def test_an_image_without_a_readable_size(tmp_path: Path) -> None:
    LAYOUTS["CSV"].make(tmp_path, items())
    _images(tmp_path)[2].write_bytes(b"not an image")
    with pytest.raises(ValueError, match=r"cannot be decoded.*broken=skip"):
        _count("csv", tmp_path, "all", "refuse")
    with pytest.warns(UserWarning, match="1 image left out"):
        assert _count("csv", tmp_path, "all", "skip") == 11


def test_all_images_missing_is_an_error_even_so(tmp_path: Path) -> None:
    LAYOUTS["one JSON"].make(tmp_path, items())
    for path in _images(tmp_path):
        path.unlink()
    with pytest.raises(ValueError, match="does not exist; all 12 images are missing or unreadable"):
        open_dataset("auto", tmp_path, "train", broken="skip")


def test_other_problems_are_refused_even_so(tmp_path: Path) -> None:
    LAYOUTS["CSV"].make(tmp_path, items())
    file = next(tmp_path.glob("*.csv"))
    file.write_text(file.read_text().replace("fig", "", 1))
    with pytest.raises(ValueError, match="class"):
        _count("csv", tmp_path, "all", "skip")
