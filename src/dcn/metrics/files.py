"""Scores result files against annotation files."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import torch

from dcn.boxes import from_xywh
from dcn.formats.annotation_files import read_annotations
from dcn.formats.annotations import AnnotatedObject, Annotations
from dcn.formats.coco_writer import coco_rows, write_coco_results
from dcn.formats.file_names import image_files
from dcn.formats.result_rows import Coordinates, IouType, ResultRow, Results
from dcn.formats.results import PREDICTED, find_results, read_results
from dcn.formats.voc_writer import write_voc_results
from dcn.metrics.coco import Row, coco_result
from dcn.metrics.mask_files import evaluate_mask_files
from dcn.metrics.results import CocoResult, SegmentationResult, VocResult
from dcn.metrics.voc import Method, VocAP
from dcn.structures import Detections, Target

__all__ = ["coco_rows", "evaluate_files", "write_coco_results", "write_voc_results"]

StrPath = str | PathLike[str]
Format = Literal["auto", "coco", "voc", "segmentation"]


def evaluate_files(
    results: StrPath,
    annotations: StrPath,
    *,
    format: Format = "auto",
    iou_type: IouType = "bbox",
    method: Method = "area",
    thresholds: Sequence[float] | None = None,
    split: str | None = None,
    classes: Sequence[str] | None = None,
    coordinates: Coordinates = "auto",
    outside: str = "refuse",
) -> CocoResult | VocResult | SegmentationResult:
    """Score detections or segmentation masks from files, without any image.

    Args:
        results: a COCO result file (a JSON list of ``image_id``, ``category_id``, ``score`` and ``bbox`` or
            ``segmentation``); a whole COCO dataset with scores (matched by file and class *names*); a folder of VOC
            result files ``..._<class>.txt`` (``image score xmin ymin xmax ymax``), or one of them; a folder of
            ``<image>.txt`` (``class score xmin ymin xmax ymax``, the class by name or index; or YOLO's ``class x y
            width height score`` and ``class x1 y1 x2 y2 x3 y3 ... score`` in shares of the image); the files and the
            folder that ``dcn predict`` writes; or a folder of segmentation masks ``<image>.png``.
        annotations: a COCO annotation file, or a folder in any layout of boxes that training knows; for masks see
            `dcn.metrics.evaluate_mask_files`.
        format: the rules to score by. ``"auto"``: VOC for a VOC folder (``Annotations/*.xml``), segmentation for a
            folder of images as results, COCO for all others.
        iou_type: COCO only: overlap of boxes or of masks.
        method: VOC only: ``"area"`` or ``"11point"``.
        thresholds: VOC only: IoU thresholds; ``None``: 0.5 and 0.7.
        split: of a folder of annotations (VOC: a list in ``ImageSets/Main``); may be left out if there are no two.
        classes: class names in the order of the indices used in the results. ``None``: as training numbers them: by
            ascending category id; for a VOC folder the twenty of Pascal VOC or else all that occur, by alphabet.
        coordinates: of the boxes in ``results``: ``"voc"`` 1-based inclusive corners, ``"continuous"`` edges.
            ``"auto"``: text files in pixels and a whole dataset against a VOC folder are VOC's, all others continuous.
        outside: an annotated box that reaches outside of its image: ``"refuse"`` it, or ``"clip"`` it to the image, as
            training does with ``data.outside=clip``.

    Returns:
        What `dcn.metrics.CocoAP` (for ``"segm"`` under the plain names as well), `dcn.metrics.VocAP` or
        `dcn.metrics.MeanIoU` compute. An image without results counts with all its objects missed; a class that only
        the results have counts for nothing.

    Raises:
        ValueError: a file is missing or malformed, a number is NaN or infinite, or the results name an image or a
            class that the annotations do not have; the message names file and entry.
    """
    _check_options(format, iou_type, coordinates)
    path = Path(results).expanduser()
    source = Path(annotations).expanduser()
    if format == "segmentation" or (format == "auto" and are_masks(path)):
        if thresholds is not None:
            raise ValueError(f"thresholds: expected None for segmentation masks, got {list(thresholds)}")
        return evaluate_mask_files(path, source, classes=classes, split=split)
    find_results(path)  # a wrong path is said before large annotations are read
    known = read_annotations(source, classes, split, masks=iou_type == "segm", outside=outside)
    rules = ("voc" if known.is_voc else "coco") if format == "auto" else format
    if rules == "voc" and iou_type == "segm":
        raise ValueError("iou_type: expected 'bbox' with the VOC rules, got 'segm'; use format='coco' for masks")
    if rules == "coco" and method != "area":
        raise ValueError(f"method: expected 'area' with the COCO rules, got {method!r}; use format='voc'")
    if rules == "coco" and thresholds is not None:
        raise ValueError(
            f"thresholds: expected None with the COCO rules, which have ten of their own, got {list(thresholds)}; "
            "use format='voc'"
        )
    if iou_type == "segm" and any(item.segmentation is None for image in known.images for item in image.objects):
        raise ValueError(f"iou_type: expected a 'segmentation' in every annotation of {known.path}, got 'segm'")
    detections = read_results(path, known, iou_type, coordinates, closed=classes is not None)
    if rules == "coco":
        return _coco_result(known, detections, iou_type)
    return _voc_result(
        known, detections, VocAP(detections.classes, (0.5, 0.7) if thresholds is None else thresholds, method)
    )


def are_masks(results: Path) -> bool:
    """Whether results are a folder of segmentation masks; beside the file of ``dcn predict`` images are pictures."""
    return results.is_dir() and not (results / PREDICTED).is_file() and bool(image_files(results, below=True))


def _check_options(format: str, iou_type: str, coordinates: str) -> None:
    options = (
        ("format", format, ("auto", "coco", "voc", "segmentation")),
        ("iou_type", iou_type, ("bbox", "segm")),
        ("coordinates", coordinates, ("auto", "voc", "continuous")),
    )
    for name, value, allowed in options:
        if value not in allowed:
            raise ValueError(f"{name}: expected one of {allowed}, got {value!r}")


@dataclass(frozen=True)
class CocoData:
    """Annotations and detections in COCO's form; images and categories are numbered from 1.

    Attributes:
        images: rows of the images.
        annotations: rows of the objects.
        results: rows of the detections.
        classes: names of the categories.
        names: file names of the images, or their identifiers.
    """

    images: list[Row]
    annotations: list[Row]
    results: list[Row]
    classes: tuple[str, ...]
    names: tuple[str, ...]

    @property
    def truth(self) -> dict[str, Any]:
        """The data set."""
        categories = [{"id": number, "name": name} for number, name in enumerate(self.classes, start=1)]
        return {"images": self.images, "annotations": self.annotations, "categories": categories}


def read_coco_data(
    results: StrPath,
    annotations: StrPath,
    iou_type: IouType = "bbox",
    classes: Sequence[str] | None = None,
    split: str | None = None,
    outside: str = "refuse",
) -> CocoData:
    """What `evaluate_files` evaluates by the rules of COCO; arguments and errors as there."""
    path = Path(results).expanduser()
    find_results(path)
    known = read_annotations(Path(annotations).expanduser(), classes, split, masks=iou_type == "segm", outside=outside)
    return _coco_data(known, read_results(path, known, iou_type, "auto", closed=classes is not None), iou_type)


def _coco_data(annotations: Annotations, results: Results, iou_type: IouType) -> CocoData:
    images: list[Row] = []
    objects: list[Row] = []
    for number, image in enumerate(annotations.images, start=1):
        height, width = image.size or (0, 0)
        images.append({"id": number, "height": height, "width": width})
        objects += [
            {"id": len(objects) + 1 + i, **_object_row(o, number, iou_type)} for i, o in enumerate(image.objects)
        ]
    names = tuple(image.name or str(image.id) for image in annotations.images)
    return CocoData(images, objects, [_result_row(row) for row in results.rows], results.classes, names)


def _coco_result(annotations: Annotations, results: Results, iou_type: IouType) -> CocoResult:
    data = _coco_data(annotations, results, iou_type)
    return coco_result(data.images, data.annotations, data.results, data.classes, iou_type)


def _object_row(item: AnnotatedObject, image: int, iou_type: IouType) -> Row:
    row: Row = {
        "image_id": image,
        "category_id": item.label + 1,
        "bbox": list(item.xywh),
        "area": item.area,
        "iscrowd": int(item.crowd),
    }
    if iou_type == "bbox":
        return row  # outlines were not asked for, and not checked
    return {**row, "segmentation": _without_empty_parts(item.segmentation)}


def _without_empty_parts(segmentation: Any) -> Any:
    return [part for part in segmentation if part] if isinstance(segmentation, list) else segmentation


def _result_row(row: ResultRow) -> Row:
    key: Row = {"image_id": row.image + 1, "category_id": row.label + 1, "score": row.score}
    shape = {"bbox": list(row.xywh)} if row.segmentation is None else {"segmentation": row.segmentation}
    return {**key, **shape}


def _voc_result(annotations: Annotations, results: Results, metric: VocAP) -> VocResult:
    rows: dict[int, list[ResultRow]] = defaultdict(list)
    for row in results.rows:
        rows[row.image].append(row)
    for number, image in enumerate(annotations.images):
        detected = rows[number]
        flags = torch.tensor([item.difficult or item.crowd for item in image.objects], dtype=torch.bool)
        boxes = _corners([item.xywh for item in image.objects])
        target = Target(boxes, _labels(image.objects), image.size or (0, 0), difficult=flags, image_id=number)
        scores = torch.tensor([row.score for row in detected], dtype=torch.float64)
        one = Detections(_corners([row.xywh for row in detected]), scores, _labels(detected))
        metric.update([one], [target])
    return metric.compute()


def _corners(boxes: Sequence[tuple[float, ...]]) -> torch.Tensor:
    return from_xywh(torch.tensor(boxes, dtype=torch.float64).reshape(-1, 4))


def _labels(rows: Sequence[AnnotatedObject] | Sequence[ResultRow]) -> torch.Tensor:
    return torch.tensor([row.label for row in rows], dtype=torch.int64)
