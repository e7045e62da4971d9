"""Tiny folders of images and segmentation masks, in the layouts of the datasets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image

CITY = "leftImg8bit/val/ulm/ulm_000001_000002_leftImg8bit.png"
CITY_LABELS = "gtFine/val/ulm/ulm_000001_000002_gtFine_labelIds.png"
SBD = {"2007_000001", "2008_000002", "2008_000003", "2008_000004"}


def write_mask(path: Path, values: ArrayLike) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(values, dtype=np.uint8)).save(path)


def write_picture(path: Path, height: int = 4, width: int = 6, value: int = 90) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height), (value, value, value)).save(path)


def make_cityscapes(root: Path) -> Path:
    """One frame with the ids 0 to 23 in reading order."""
    write_picture(root / CITY)
    write_mask(root / CITY_LABELS, np.arange(24).reshape(4, 6))
    return root


def make_camvid(root: Path) -> Path:
    """Two training frames and one for validation; labels 0 to 11 twice."""
    for split, name in (("train", "a"), ("train", "b"), ("val", "c")):
        write_picture(root / split / f"{name}.png")
        write_mask(root / f"{split}annot" / f"{name}.png", np.arange(24).reshape(4, 6) % 12)
    return root


def make_folder(root: Path, description: str | None = None) -> Path:
    """Images and masks side by side, values 0 (ignored), 1 and 5."""
    write_picture(root / "train" / "x" / "one.jpg")
    write_mask(root / "train" / "x" / "one_mask.png", [[0, 1, 5, 5, 255, 1]] * 4)
    lines = (
        "classes: [road, grass]",
        "splits: {train: {images: train, labels: train}}",
        "values: [5, 1]",
        "ignore: [0]",
        "suffix: _mask",
    )
    (root / "dataset.yaml").write_text(description if description is not None else "\n".join(lines))
    return root


def make_voc_masks(root: Path) -> Path:
    """VOC's own maps of one training and one validation image; pictures of all that SBD knows."""
    for stem in (*SBD, "2007_000009"):
        write_picture(root / "JPEGImages" / f"{stem}.jpg")
    lists = root / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("2007_000009\n")
    (lists / "val.txt").write_text("2008_000003\n")
    for stem, value in (("2007_000009", 20), ("2008_000003", 3)):
        write_mask(root / "SegmentationClass" / f"{stem}.png", [[0, value, 255, value, 0, 0]] * 4)
    return root
