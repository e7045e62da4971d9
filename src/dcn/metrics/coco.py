"""Average precision and recall by the rules of COCO, for boxes and masks.

The matching is done by the library ``hotcoco`` (a port of pycocotools that is some fifty times faster); this module
feeds it, and reads its precision and recall tables.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from dcn.boxes import to_xywh
from dcn.class_names import check_class_names
from dcn.extras import require
from dcn.formats.result_rows import IouType
from dcn.metrics.detection import check_batch, image_order
from dcn.metrics.results import COCO_NAMES, CocoResult
from dcn.structures import Detections, Target

Row = dict[str, Any]

# Kind, index of the IoU threshold (None: all ten, 0.5:0.05:0.95), of the area class and of the detection limit, for
# each of `COCO_NAMES`.
_TABLES: tuple[tuple[str, int | None, int, int], ...] = (
    ("precision", None, 0, 2),
    ("precision", 0, 0, 2),
    ("precision", 5, 0, 2),
    ("precision", None, 1, 2),
    ("precision", None, 2, 2),
    ("precision", None, 3, 2),
    ("recall", None, 0, 0),
    ("recall", None, 0, 1),
    ("recall", None, 0, 2),
    ("recall", None, 1, 2),
    ("recall", None, 2, 2),
    ("recall", None, 3, 2),
)
assert len(_TABLES) == len(COCO_NAMES)


class CocoAP:
    """The twelve numbers of COCO and the AP of each class.

    Args:
        classes: names of the labels ``0 .. C-1``.
        masks: also score the masks; then every `Detections` and `Target` must carry them.

    `compute` returns a `CocoResult`: ``AP, AP50, AP75, APs, APm, APl, AR1, AR10, AR100, ARs, ARm, ARl`` and
    ``AP/<class>``, in 0..1; with ``masks`` the same for masks under ``mask/AP``, ... and ``mask/AP/<class>``. Rules of
    COCO's own evaluation: at most 100 detections an image and class, 101 recall points, size classes by
    ``Target.area`` (small < 32², large > 96² pixels), crowd regions may match any number of detections and count for
    nothing. VOC's difficult objects are treated like crowds. A number without a single object behind it (an absent
    class, no large objects) is -1 and left out of the means, as COCO has it.
    """

    def __init__(self, classes: Sequence[str], masks: bool = False) -> None:
        self.classes = check_class_names(classes)
        self.masks = masks
        self._images: list[tuple[int | str, Row, list[Row], list[Row]]] = []

    def reset(self) -> None:
        """Forget all images."""
        self._images = []

    def update(self, detections: list[Detections], targets: list[Target]) -> None:
        """Take in a batch (both in pixels of the original image); masks are kept run-length encoded."""
        check_batch(detections, targets, len(self.classes))
        for one, target in zip(detections, targets, strict=True):
            if self.masks:
                _check_masks(one, target)
            size: Row = {"height": target.size[0], "width": target.size[1]}
            rows = _target_rows(target, self.masks), _detection_rows(one, self.masks)
            self._images.append((target.image_id, size, *rows))

    def merge(self, other: CocoAP) -> None:
        """Take in the images of another process's metric, which must have the same classes and masks."""
        if (self.classes, self.masks) != (other.classes, other.masks):
            raise ValueError(
                f"other: expected a CocoAP with the same classes and masks, got {len(other.classes)} classes and "
                f"masks={other.masks}"
            )
        self._images.extend(other._images)

    def compute(self) -> CocoResult:
        """The numbers over all images so far (class docstring)."""
        images: list[Row] = []
        annotations: list[Row] = []
        results: list[Row] = []
        ordered = sorted(self._images, key=lambda image: image_order(image[0]))
        for number, (_, size, objects, detections) in enumerate(ordered, start=1):
            images.append({"id": number, **size})
            annotations.extend({**row, "image_id": number} for row in objects)
            results.extend({**row, "image_id": number} for row in detections)
        annotations = [{**row, "id": i} for i, row in enumerate(annotations, start=1)]
        boxes = coco_result(images, annotations, results, self.classes, "bbox")
        if not self.masks:
            return boxes
        return replace(boxes, masks=coco_result(images, annotations, results, self.classes, "segm"))


def coco_result(
    images: list[Row], annotations: list[Row], results: list[Row], classes: Sequence[str], iou_type: IouType
) -> CocoResult:
    """Score rows in COCO's own form.

    Args:
        images: rows with ``id`` (positive int), ``height``, ``width``.
        annotations: rows with ``id``, ``image_id``, ``category_id``, ``bbox`` (x, y, width, height), ``area``,
            ``iscrowd``, and ``segmentation`` for masks.
        results: rows with ``image_id``, ``category_id``, ``score``, and ``bbox`` or ``segmentation`` (RLE).
        classes: class names; ``category_id`` of the rows is ``1 ..`` C in this order.
        iou_type: what overlaps: boxes or masks.
    """
    require("hotcoco")
    import hotcoco

    categories = [{"id": i, "name": name} for i, name in enumerate(classes, start=1)]
    # The unused shape is left out: a mask beside a box would be measured by the box's area in the size classes.
    unused = "segmentation" if iou_type == "bbox" else "bbox"
    results = [{key: value for key, value in row.items() if key != unused} for row in results]
    truth = hotcoco.COCO({"images": images, "annotations": annotations, "categories": categories})
    evaluation = hotcoco.COCOeval(truth, truth.load_res(results), iou_type)
    evaluation.evaluate()
    evaluation.accumulate()
    assert evaluation.eval is not None
    return _read_tables(evaluation.eval, classes)


def _read_tables(tables: Mapping[str, Any], classes: Sequence[str]) -> CocoResult:
    """Means over the tables ``precision [T, R, C, A, M]`` and ``recall [T, C, A, M]``, where -1 means nothing there."""
    arrays = {kind: np.asarray(tables[kind]) for kind in ("precision", "recall")}
    values = []
    for kind, threshold, area, limit in _TABLES:
        table = arrays[kind][..., area, limit]
        values.append(_mean_of_present(table if threshold is None else table[threshold]))
    precision = arrays["precision"]
    per_class = {name: _mean_of_present(precision[:, :, index, 0, 2]) for index, name in enumerate(classes)}
    return CocoResult.of(values, per_class)


def _mean_of_present(values: npt.NDArray[np.float64]) -> float:
    present = values[values > -1]
    return float(present.mean()) if present.size else -1.0


def _check_masks(detections: Detections, target: Target) -> None:
    for name, masks in (("detections", detections.masks), ("targets", target.masks)):
        if masks is None:
            raise ValueError(f"{name}: expected masks in image {target.image_id!r}, got none; use CocoAP(masks=False)")
        if tuple(masks.shape[1:]) != tuple(target.size):
            raise ValueError(
                f"{name}: expected masks of {target.size} in image {target.image_id!r}, got {tuple(masks.shape[1:])}"
            )


def _target_rows(target: Target, masks: bool) -> list[Row]:
    assert target.area is not None
    areas = target.area.tolist()
    crowds = target.ignored.tolist()
    rows: list[Row] = []
    for box, label, area, crowd in zip(_xywh(target), target.labels.tolist(), areas, crowds, strict=True):
        rows.append({"bbox": box, "category_id": label + 1, "area": area, "iscrowd": int(crowd)})
    return _with_masks(rows, target) if masks else rows


def _detection_rows(detections: Detections, masks: bool) -> list[Row]:
    rows: list[Row] = []
    columns = zip(_xywh(detections), detections.labels.tolist(), detections.scores.tolist(), strict=True)
    for box, label, score in columns:
        rows.append({"bbox": box, "category_id": label + 1, "score": score})
    return _with_masks(rows, detections) if masks else rows


def _xywh(of: Detections | Target) -> list[list[float]]:
    return to_xywh(of.boxes.detach().double().cpu()).tolist()


def _with_masks(rows: list[Row], of: Detections | Target) -> list[Row]:
    from hotcoco import mask

    assert of.masks is not None
    stack = np.asfortranarray(of.masks.permute(1, 2, 0).cpu().numpy().astype(np.uint8))
    return [{**row, "segmentation": rle} for row, rle in zip(rows, mask.encode(stack), strict=True)]
