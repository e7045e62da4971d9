"""What a detector gets wrong: the kinds of error, confusion, calibration and the images with most of it.

Everything is computed by the library ``hotcoco`` from data and results in COCO's own form; this module runs it and
gives its answers names. The kinds of error are those of TIDE (Bolya et al., ECCV 2020).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

IouType = Literal["bbox", "segm"]
Row = dict[str, Any]

ERRORS = {
    "Loc": "localisation: right class, box off (IoU 0.1 to 0.5)",
    "Cls": "classification: right box, other class",
    "Both": "both: other class and box off",
    "Dupe": "duplicate: the object is detected already",
    "Bkg": "background: no object there",
    "Miss": "missed: no detection of the object",
}
"""TIDE's kinds of error and what they mean."""


@dataclass(frozen=True)
class ImageErrors:
    """One image.

    Attributes:
        image_id: of the annotation file.
        ap: AP at IoU 0.5 of this image alone, over all its detections.
        f1: of its detections above the score threshold of the diagnosis, as the rest.
        correct: detections that match an object.
        wrong: detections that match none.
        missed: objects without a detection.
    """

    image_id: int
    ap: float
    f1: float
    correct: int
    wrong: int
    missed: int


@dataclass(frozen=True)
class CalibrationBin:
    """Detections of similar score.

    Attributes:
        low: lowest score of the bin.
        high: highest score of the bin.
        count: number of detections.
        confidence: their mean score.
        accuracy: share of them that match an object at IoU 0.5.
    """

    low: float
    high: float
    count: int
    confidence: float
    accuracy: float


@dataclass(frozen=True)
class Diagnosis:
    """The answers of ``hotcoco`` about one set of detections.

    Attributes:
        metrics: the twelve metrics of COCO.
        per_class: AP by class name; -1 for a class without objects.
        curves: per class ``(recall, precision)`` at IoU 0.5, 101 points each.
        confusion: ``[C + 1, C + 1]`` counts at IoU 0.5: rows are annotated, columns detected classes, background last.
        classes: names in that order, without background.
        error_costs: AP50 that would be gained if the errors of a kind were mended (keys of :data:`ERRORS`).
        error_counts: how many errors of each kind.
        calibration_error: expected calibration error, the mean gap of confidence and accuracy.
        calibration: ten bins of scores.
        images: every image, the one with the lowest F1 first.
        min_score: detections below this score are left out of the confusion matrix, and of what is counted in each
            image.
    """

    metrics: dict[str, float]
    per_class: dict[str, float]
    curves: dict[str, tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]]
    confusion: npt.NDArray[np.int64]
    classes: tuple[str, ...]
    error_costs: dict[str, float]
    error_counts: dict[str, int]
    calibration_error: float
    calibration: tuple[CalibrationBin, ...]
    images: tuple[ImageErrors, ...]
    min_score: float = 0.3


def evaluator(truth: Mapping[str, Any], results: Sequence[Row], iou_type: IouType = "bbox") -> Any:
    """A ``hotcoco.COCOeval`` that has run.

    Args:
        truth: a data set in COCO's form: ``images``, ``annotations``, ``categories``.
        results: rows with ``image_id``, ``category_id``, ``score`` and ``bbox`` or ``segmentation``.
        iou_type: what overlaps.

    Raises:
        ValueError: hotcoco is not installed, or cannot read the data.
    """
    try:
        import hotcoco
    except ImportError:
        raise ValueError('the diagnosis needs hotcoco; pip install "deformable-convnets[train]"') from None
    data = hotcoco.COCO(dict(truth))
    # Without any detection there is no result file to load: an empty data set stands for it.
    loaded = data.loadRes(list(results)) if results else hotcoco.COCO({**truth, "annotations": []})
    with redirect_stdout(StringIO()):  # pycocotools' tables, which it imitates, are printed
        evaluation = hotcoco.COCOeval(data, loaded, iou_type)
        evaluation.run()
    return evaluation


def diagnose(
    truth: Mapping[str, Any], results: Sequence[Row], *, iou_type: IouType = "bbox", min_score: float = 0.3
) -> Diagnosis:
    """Everything about one set of detections.

    Args:
        truth: see :func:`evaluator`.
        results: see there.
        iou_type: what overlaps.
        min_score: detections below this score are left out of the confusion matrix, and of what is counted in each
            image.

    Raises:
        ValueError: as :func:`evaluator`.
    """
    evaluation = evaluator(truth, results, iou_type)
    report, confusion = evaluation.report(), evaluation.confusion_matrix(iou_thr=0.5, min_score=min_score)
    tide, calibration = evaluation.tide_errors(), evaluation.calibration()
    shown = evaluator(truth, [row for row in results if row["score"] >= min_score], iou_type)
    names = tuple(str(name) for name in confusion["cat_names"])
    return Diagnosis(
        metrics={name: float(value) for name, value in evaluation.get_results().items()},
        per_class={name: float(report["per_class"][name]["AP"]) for name in names if name in report["per_class"]},
        curves=_curves(evaluation, names),
        confusion=np.asarray(confusion["matrix"], dtype=np.int64),
        classes=names,
        error_costs={kind: float(tide["delta_ap"][kind]) for kind in ERRORS},
        error_counts={kind: int(tide["counts"][kind]) for kind in ERRORS},
        calibration_error=float(calibration["ece"]),
        calibration=tuple(_bin(row) for row in calibration["bins"]),
        images=_images(evaluation.image_diagnostics(), shown.image_diagnostics()),
        min_score=min_score,
    )


def _curves(
    evaluation: Any, names: Sequence[str]
) -> dict[str, tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]]:
    """Precision ``[thresholds, recalls, classes, areas, limits]`` at IoU 0.5, all areas, most detections."""
    precision = np.asarray(evaluation.eval["precision"])[0, :, :, 0, -1]
    recall = np.asarray(evaluation.params.recThrs, dtype=np.float64)
    return {name: (recall, precision[:, index]) for index, name in enumerate(names) if (precision[:, index] >= 0).any()}


def _bin(row: Mapping[str, Any]) -> CalibrationBin:
    low, high, count = float(row["bin_lower"]), float(row["bin_upper"]), int(row["count"])
    return CalibrationBin(low, high, count, float(row["avg_confidence"]), float(row["avg_accuracy"]))


def _images(every: Mapping[str, Any], shown: Mapping[str, Any]) -> tuple[ImageErrors, ...]:
    """From the diagnostics over all detections, and over those above the score threshold."""
    ap = {int(image): float(row["ap"]) for image, row in every["img_summary"].items()}
    rows = [
        ImageErrors(int(image), ap[int(image)], float(row["f1"]), int(row["tp"]), int(row["fp"]), int(row["fn"]))
        for image, row in shown["img_summary"].items()
    ]
    return tuple(sorted(rows, key=lambda row: (row.f1, -row.missed - row.wrong, row.image_id)))
