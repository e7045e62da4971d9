"""Scores result files against annotation files, and writes result files."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from dcn.metrics.coco import IouType, Row, coco_figures
from dcn.metrics.result_files import Coordinates, read_results
from dcn.metrics.truth_files import Truth, read_truth
from dcn.metrics.voc import Method, VocAP
from dcn.structures import Detections, Target

StrPath = str | PathLike[str]


def evaluate_files(
    results: StrPath,
    annotations: StrPath,
    *,
    format: Literal["auto", "coco", "voc"] = "auto",
    iou_type: IouType = "bbox",
    method: Method = "area",
    thresholds: Sequence[float] = (0.5, 0.7),
    split: str | None = None,
    classes: Sequence[str] | None = None,
    coordinates: Coordinates = "auto",
) -> dict[str, float]:
    """Score detections from files, without any image.

    Args:
        results: a COCO result file (a JSON list of ``image_id``, ``category_id``, ``score`` and ``bbox`` or
            ``segmentation``); a whole COCO data set with scores (matched by file and class *names*); a folder of VOC
            result files ``..._<class>.txt`` (``image score xmin ymin xmax ymax``), or one of them; or a folder of
            ``<image>.txt`` (``class score xmin ymin xmax ymax``, the class by name or index).
        annotations: a COCO annotation file, or a VOC folder (``Annotations/*.xml``, ``ImageSets/Main/*.txt``).
        format: the rules to score by. ``"auto"``: VOC for a folder, COCO for a file.
        iou_type: COCO only: overlap of boxes or of masks.
        method: VOC only: ``"area"`` or ``"11point"``.
        thresholds: VOC only: IoU thresholds.
        split: VOC folder only: the list in ``ImageSets/Main``; may be left out if there is one or none.
        classes: class names in the order of the indices used in the results. ``None``: as the annotation file
            numbers them, and for a VOC folder the twenty of Pascal VOC or else all that occur, by alphabet.
        coordinates: of the boxes in ``results``: ``"voc"`` 1-based inclusive corners, ``"continuous"`` edges.
            ``"auto"``: text files and a whole data set against a VOC folder are VOC's, all others continuous.

    Returns:
        The figures of `dcn.metrics.CocoAP` (for ``"segm"`` under the plain names as well) or `dcn.metrics.VocAP`.
        An image without results counts with all its objects missed.

    Raises:
        ValueError: a file is missing or malformed, a number is NaN or infinite, or the results name an image or a
            class that the annotations do not have; the message names file and entry.
    """
    _check_options(format, iou_type, coordinates)
    truth = read_truth(Path(annotations), classes, split)
    rules = ("voc" if truth.is_voc else "coco") if format == "auto" else format
    if rules == "voc" and iou_type == "segm":
        raise ValueError("iou_type: expected 'bbox' with the VOC rules, got 'segm'; use format='coco' for masks")
    if iou_type == "segm" and not all("segmentation" in row for row in truth.objects):
        raise ValueError(f"iou_type: expected a 'segmentation' in every annotation of {truth.path} for 'segm'")
    rows = read_results(Path(results), truth, iou_type, coordinates)
    if rules == "coco":
        return coco_figures(truth.images, truth.objects, rows, truth.classes, iou_type)
    return _voc_figures(truth, rows, VocAP(truth.classes, thresholds, method))


def write_coco_results(
    path: StrPath, detections: Sequence[Detections], image_ids: Sequence[int | str], category_ids: Sequence[int]
) -> None:
    """Write a COCO result file: what COCO's own tools and servers, and `evaluate_files`, read.

    Args:
        path: the JSON file; its folder must exist.
        detections: one entry an image, in pixels of the original image.
        image_ids: the identifier of each image in the annotation file.
        category_ids: ``category_ids[label]`` is the annotation file's number of that class.
    """
    _check_images(detections, image_ids)
    rows = [
        row
        for found, image_id in zip(detections, image_ids, strict=True)
        for row in coco_rows(found, image_id, category_ids)
    ]
    Path(path).write_text(json.dumps(rows))


def write_voc_results(
    folder: StrPath,
    detections: Sequence[Detections],
    image_ids: Sequence[str],
    classes: Sequence[str],
    *,
    split: str = "test",
    prefix: str = "comp4_det",
) -> list[Path]:
    """Write the result files of Pascal VOC, ``<prefix>_<split>_<class>.txt``, one a class, empty ones too.

    Lines are ``image score xmin ymin xmax ymax`` with three and one decimals, corners 1-based and inclusive, as the
    original code wrote them. Rounding scores to three decimals makes ties, so AP may move in the third digit.

    Args:
        folder: made if it does not exist.
        detections: one entry an image, in pixels of the original image (continuous edges).
        image_ids: file stem of each image.
        classes: names of the labels.
        split: name of the image set.
        prefix: name of the competition.

    Returns:
        The files, in the order of the classes.
    """
    _check_images(detections, image_ids)
    lines: dict[int, list[str]] = defaultdict(list)
    for found, image_id in zip(detections, image_ids, strict=True):
        rows = zip(found.labels.tolist(), found.scores.tolist(), found.boxes.tolist(), strict=True)
        for label, score, (x1, y1, x2, y2) in rows:
            lines[label].append(f"{image_id} {score:.3f} {x1 + 1:.1f} {y1 + 1:.1f} {x2:.1f} {y2:.1f}\n")
    if lines and max(lines) >= len(classes):
        raise ValueError(f"classes: expected a name for every label up to {max(lines)}, got {len(classes)} names")
    Path(folder).mkdir(parents=True, exist_ok=True)
    files = [Path(folder) / f"{prefix}_{split}_{name}.txt" for name in classes]
    for label, file in enumerate(files):
        file.write_text("".join(lines[label]))
    return files


def _check_options(format: str, iou_type: str, coordinates: str) -> None:
    options = (
        ("format", format, ("auto", "coco", "voc")),
        ("iou_type", iou_type, ("bbox", "segm")),
        ("coordinates", coordinates, ("auto", "voc", "continuous")),
    )
    for name, value, allowed in options:
        if value not in allowed:
            raise ValueError(f"{name}: expected one of {allowed}, got {value!r}")


def _check_images(detections: Sequence[Detections], image_ids: Sequence[int | str]) -> None:
    if len(detections) != len(image_ids):
        raise ValueError(f"image_ids: expected one for each of {len(detections)} images, got {len(image_ids)}")


def coco_rows(found: Detections, image_id: int | str, category_ids: Sequence[int]) -> list[Row]:
    """The rows of a COCO result file for one image; arguments as in `write_coco_results`."""
    from hotcoco import mask

    rows: list[Row] = []
    columns = zip(found.boxes.tolist(), found.scores.tolist(), found.labels.tolist(), strict=True)
    for i, ((x1, y1, x2, y2), score, label) in enumerate(columns):
        if label >= len(category_ids):
            raise ValueError(f"category_ids: expected a number for label {label}, got only {len(category_ids)}")
        row: Row = {"image_id": image_id, "category_id": category_ids[label], "score": score}
        row["bbox"] = [x1, y1, x2 - x1, y2 - y1]
        if found.masks is not None:
            rle = mask.encode(np.asfortranarray(found.masks[i].cpu().numpy().astype(np.uint8)))
            row["segmentation"] = {"size": rle["size"], "counts": rle["counts"].decode("ascii")}
        rows.append(row)
    return rows


def _voc_figures(truth: Truth, rows: list[Row], metric: VocAP) -> dict[str, float]:
    objects, found = _by_image(truth.objects), _by_image(rows)
    for image in truth.images:
        here = objects[image["id"]]
        flags = torch.tensor([bool(row["difficult"] or row["iscrowd"]) for row in here], dtype=torch.bool)
        size = (image["height"], image["width"])
        target = Target(_boxes(here), _labels(here), size, difficult=flags, image_id=image["id"])
        detected = found[image["id"]]
        scores = torch.tensor([row["score"] for row in detected], dtype=torch.float64)
        metric.update([Detections(_boxes(detected), scores, _labels(detected))], [target])
    return metric.compute()


def _by_image(rows: list[Row]) -> dict[int, list[Row]]:
    groups: dict[int, list[Row]] = defaultdict(list)
    for row in rows:
        groups[row["image_id"]].append(row)
    return groups


def _boxes(rows: list[Row]) -> torch.Tensor:
    boxes = torch.tensor([row["bbox"] for row in rows], dtype=torch.float64).reshape(-1, 4)
    return torch.cat((boxes[:, :2], boxes[:, :2] + boxes[:, 2:]), 1)


def _labels(rows: list[Row]) -> torch.Tensor:
    return torch.tensor([row["category_id"] - 1 for row in rows], dtype=torch.int64)
