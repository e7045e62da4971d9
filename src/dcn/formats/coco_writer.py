"""Writing COCO: annotation files with their images, rows of results, and result files.

Annotations never replace a file that is there; names come from identifiers by `dcn.formats.file_names.safe_name`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any, Protocol

from dcn.formats.file_names import SafeNames, safe_name
from dcn.formats.images import write_image_to
from dcn.formats.masks import encode_mask
from dcn.formats.new_files import NewFiles
from dcn.structures import Detections, Sample, Target

Row = dict[str, Any]


class Samples(Protocol):
    """What is written: any dataset."""

    @property
    def name(self) -> str:
        """For messages."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the labels."""

    def __len__(self) -> int:
        """How many images there are."""

    def __getitem__(self, index: int) -> Sample:
        """One image with its annotation."""


def target_of(sample: Sample, name: str) -> Target:
    """The boxes of a sample of dataset ``name``.

    Raises:
        ValueError: it has a segmentation mask.
    """
    if not isinstance(sample.target, Target):
        raise ValueError(f"dataset: expected boxes, got segmentation masks in {name}; leave semantic=True out")
    return sample.target


def image_stem(split: str, target: Target) -> str:
    """A name for an image that different splits of one folder do not share."""
    return f"{split}_{target.image_id:06d}" if isinstance(target.image_id, int) else target.image_id


def write_coco(dataset: Samples, folder: str | Path, split: str, *, lossless: bool = False) -> Path:
    """Write ``annotations/instances_<split>.json`` and the images in ``<split>``; other splits are kept.

    Categories are numbered from 1 in the order of the classes, masks written as compressed run lengths.

    Args:
        dataset: boxes with classes, and masks where it has them.
        folder: made when missing.
        split: the name of the split.
        lossless: PNG instead of JPEG (quality 95).

    Returns:
        The annotation file.

    Raises:
        ValueError: the dataset gives segmentation masks, or a file to be written exists already.
    """
    folder, split = Path(folder), safe_name(split)
    images: list[Row] = []
    annotations: list[Row] = []
    names, suffix = SafeNames(), ".png" if lossless else ".jpg"
    path = folder / "annotations" / f"instances_{split}.json"
    with NewFiles() as new, new.open(path) as file:
        for index in range(len(dataset)):
            sample = dataset[index]
            target = target_of(sample, dataset.name)
            name = f"{names(image_stem(split, target))}{suffix}"
            number = target.image_id if isinstance(target.image_id, int) else index + 1
            with new.open(folder / split / name) as picture:
                write_image_to(picture, suffix, sample.image)
            images.append({"id": number, "file_name": name, "height": target.size[0], "width": target.size[1]})
            annotations += [
                {"id": len(annotations) + 1 + i, **row} for i, row in enumerate(target_rows(target, number))
            ]
        categories = [{"id": label + 1, "name": name} for label, name in enumerate(dataset.classes)]
        content = {"images": images, "annotations": annotations, "categories": categories}
        file.write(json.dumps(content).encode("utf-8"))
    return path


def target_rows(target: Target, image_id: int | str) -> list[Row]:
    """The annotations of one image, without their ids; categories count from 1."""
    assert target.crowd is not None
    assert target.area is not None
    rows: list[Row] = []
    for number, (x1, y1, x2, y2) in enumerate(target.boxes.tolist()):
        row = {
            "image_id": image_id,
            "category_id": int(target.labels[number]) + 1,
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "area": float(target.area[number]),
            "iscrowd": int(target.crowd[number]),
        }
        rows.append(row if target.masks is None else {**row, "segmentation": encode_mask(target.masks[number])})
    return rows


def coco_rows(detections: Detections, image_id: int | str, category_ids: Sequence[int | str]) -> list[Row]:
    """The rows of a COCO result file for one image; arguments as in `write_coco_results`."""
    rows: list[Row] = []
    columns = zip(detections.boxes.tolist(), detections.scores.tolist(), detections.labels.tolist(), strict=True)
    for i, ((x1, y1, x2, y2), score, label) in enumerate(columns):
        if label >= len(category_ids):
            raise ValueError(f"category_ids: expected a number for label {label}, got only {len(category_ids)}")
        row: Row = {"image_id": image_id, "category_id": category_ids[label], "score": score}
        row["bbox"] = [x1, y1, x2 - x1, y2 - y1]
        if detections.masks is not None:
            row["segmentation"] = encode_mask(detections.masks[i])
        rows.append(row)
    return rows


def write_coco_results(
    path: str | PathLike[str],
    detections: Sequence[Detections],
    image_ids: Sequence[int | str],
    category_ids: Sequence[int | str],
) -> None:
    """Write a COCO result file: what COCO's own tools and servers, and `dcn.metrics.evaluate_files`, read.

    Args:
        path: the JSON file; its folder must exist.
        detections: one entry an image, in pixels of the original image.
        image_ids: the identifier of each image in the annotation file.
        category_ids: ``category_ids[label]`` is the annotation file's id of that class.

    Raises:
        ValueError: a list of another length, or a label without a category id.
    """
    check_images(detections, image_ids)
    pairs = zip(detections, image_ids, strict=True)
    rows = [row for result, image_id in pairs for row in coco_rows(result, image_id, category_ids)]
    Path(path).write_text(json.dumps(rows), encoding="utf-8")


def check_images(detections: Sequence[Detections], image_ids: Sequence[int | str]) -> None:
    """Refuse lists of different length."""
    if len(detections) != len(image_ids):
        raise ValueError(f"image_ids: expected one for each of {len(detections)} images, got {len(image_ids)}")
