"""The report of a detector: metrics, classes, confusion, kinds of error, calibration, the worst images."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dcn.report.diagnosis import ERRORS, CalibrationBin, Diagnosis
from dcn.report.page import Bar, Page
from dcn.report.run_page import RunFacts, add_examples, add_offsets, add_origin, add_training, size_facts
from dcn.vis.plots import calibration_curve, confusion_matrix, precision_recall

METRICS = {
    "AP": "mean over IoU 0.50 to 0.95",
    "AP50": "IoU 0.50",
    "AP75": "IoU 0.75",
    "APs": "objects below 32x32 pixels",
    "APm": "objects from 32x32 to 96x96 pixels",
    "APl": "objects above 96x96 pixels",
    "AR1": "recall with one detection an image",
    "AR10": "recall with 10 detections an image",
    "AR100": "recall with 100 detections an image",
    "ARs": "recall, objects below 32x32 pixels",
    "ARm": "recall, objects from 32x32 to 96x96 pixels",
    "ARl": "recall, objects above 96x96 pixels",
}
"""The metrics of COCO and what they measure."""

_AREAS = {"small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, math.inf)}
_MOST_CONFUSIONS = 10
_MOST_IMAGES = 12


def detection_page(
    facts: RunFacts, truth: Mapping[str, Any], diagnoses: Mapping[str, Diagnosis], names: Sequence[str]
) -> Page:
    """The report of a detector.

    Args:
        facts: of the run.
        truth: the data set in COCO's form.
        diagnoses: of its detections by what overlaps, ``"boxes"`` and perhaps ``"masks"``, see
            :func:`dcn.report.diagnosis.diagnose`. The first one is shown in full.
        names: of the images, which are numbered from 1 in this order.
    """
    diagnosis = next(iter(diagnoses.values()))
    page = Page(facts.title, f"Evaluated on {facts.data} with the rules of COCO.")
    page.tiles(_tiles(truth, diagnosis))
    _add_metrics(page, diagnoses)
    add_training(page, facts.history)
    _add_classes(page, truth, diagnoses)
    _add_errors(page, diagnosis)
    _add_calibration(page, diagnosis.calibration, diagnosis.calibration_error)
    _add_images(page, diagnosis, names)
    add_examples(page, facts.examples)
    add_offsets(page, facts)
    _add_data(page, facts, truth)
    return add_origin(page, facts)


def _tiles(truth: Mapping[str, Any], diagnosis: Diagnosis) -> dict[str, object]:
    shown = {name: diagnosis.metrics[name] for name in ("AP", "AP50", "AP75") if diagnosis.metrics[name] >= 0}
    costs = diagnosis.error_costs
    worst = max(costs, key=lambda kind: costs[kind])
    cause = {"most costly error": ERRORS[worst].partition(":")[0]} if costs[worst] > 0 else {}
    return {**shown, "images": len(truth["images"]), "objects": len(truth["annotations"]), **cause}


def _add_metrics(page: Page, diagnoses: Mapping[str, Diagnosis]) -> None:
    rows: list[list[object]] = []
    for name, meaning in METRICS.items():
        values = [diagnosis.metrics.get(name, -1.0) for diagnosis in diagnoses.values()]
        if max(values) >= 0:  # -1: the data has no such object
            rows.append([name, *(Bar(value) for value in values), meaning])
    names = ["value"] if len(diagnoses) == 1 else list(diagnoses)
    page.section("Result").table(["metric", *names, "measured over"], rows, "AP and AR of COCO, 0 to 1.")


def _add_classes(page: Page, truth: Mapping[str, Any], diagnoses: Mapping[str, Diagnosis]) -> None:
    first = next(iter(diagnoses.values()))
    counts = _objects_by_class(truth)
    kinds = [f"AP of {kind}" if len(diagnoses) > 1 else "AP" for kind in diagnoses]
    rows = [
        [
            name,
            counts.get(name, 0),
            *(Bar(one.per_class.get(name, math.nan)) for one in diagnoses.values()),
            _ap50(first, name),
        ]
        for name in first.classes
        if first.per_class.get(name, -1) >= 0
    ]
    page.section("Classes").table(["class", "objects", *kinds, "AP50"], rows, "AP by class.")
    names = [*first.classes, "background"]
    pictures: list[tuple[Any, str, str]] = []
    if first.curves:
        curves = precision_recall(first.curves)
        pictures.append((curves, "Precision over recall, a line for each class", "Precision and recall at IoU 0.5."))
    matrix = (
        confusion_matrix(first.confusion, names),
        "Confusion matrix, rows are annotated classes, columns detected ones",
        f"Confusion at IoU 0.5 and score {first.min_score:g}, shares of each row. Background as a row: detections of "
        "nothing; as a column: missed.",
    )
    if len(names) <= 12:
        page.figure_grid([*pictures, matrix], cell=420)
    else:
        page.figure_grid(pictures, cell=420).image(*matrix)
    _add_confusions(page, first)


def _ap50(diagnosis: Diagnosis, name: str) -> float:
    """Mean of the class's precision at IoU 0.5 over 101 recalls."""
    return float(np.mean(diagnosis.curves[name][1])) if name in diagnosis.curves else math.nan


def _add_confusions(page: Page, diagnosis: Diagnosis) -> None:
    counts = diagnosis.confusion[:-1, :-1]
    pairs = [
        (int(counts[row, column]), diagnosis.classes[row], diagnosis.classes[column])
        for row, column in zip(*np.nonzero(counts), strict=True)
        if row != column
    ]
    rows = [[f"{annotated} taken for {taken}", count] for count, annotated, taken in sorted(pairs, reverse=True)]
    if rows:
        page.table(["classes", "objects"], rows[:_MOST_CONFUSIONS], "The classes that are confused most often.")


def _objects_by_class(truth: Mapping[str, Any]) -> dict[str, int]:
    names = {row["id"]: str(row["name"]) for row in truth["categories"]}
    counts = dict.fromkeys(names.values(), 0)
    for row in truth["annotations"]:
        counts[names[row["category_id"]]] += 1
    return counts


def _add_errors(page: Page, diagnosis: Diagnosis) -> None:
    costs = diagnosis.error_costs
    most = max(costs.values())
    rows = [
        [meaning, diagnosis.error_counts[kind], Bar(costs[kind], most) if most > 0 else costs[kind]]
        for kind, meaning in ERRORS.items()
    ]
    page.section("Kinds of error").text(
        "What each kind of error costs: the AP50 that would be gained without the errors of that kind (TIDE, Bolya et "
        "al. 2020). The rows do not add up, because one error can hide another."
    )
    page.table(["error", "count", "AP50 to gain"], rows, "Kinds of error at IoU 0.5.")


def _add_calibration(page: Page, bins: Sequence[CalibrationBin], error: float) -> None:
    filled = [one for one in bins if one.count]
    page.section("Calibration")
    if not filled:
        page.text("There are no detections.")
        return
    page.text(
        f"Expected calibration error {error:.3f}: the mean gap between score and share of correct detections. On the "
        "diagonal, 70 of 100 detections with a score of 0.7 are correct."
    )
    page.image(
        calibration_curve([(one.confidence, one.accuracy, one.count) for one in filled]),
        "Share of correct detections over score",
        "Share of correct detections over score; the area of a point is its share of the detections.",
    )
    rows = [[f"{one.low:.1f} to {one.high:.1f}", one.count, one.confidence, one.accuracy] for one in filled]
    page.table(["scores", "detections", "mean score", "correct"], rows, "Detections of similar score.")


def _add_images(page: Page, diagnosis: Diagnosis, names: Sequence[str]) -> None:
    rows = [
        [names[one.image_id - 1], one.correct, one.wrong, one.missed, one.ap]
        for one in diagnosis.images[:_MOST_IMAGES]
        if one.missed or one.wrong
    ]
    if rows:
        page.section("Images").table(
            ["image", "correct", "wrong", "missed", "AP50"],
            rows,
            f"Lowest F1 first, of detections with a score of {diagnosis.min_score:g} or more; AP50: of all detections.",
        )


def _add_data(page: Page, facts: RunFacts, truth: Mapping[str, Any]) -> None:
    areas = np.array([float(row["area"]) for row in truth["annotations"]])
    sizes = {f"{name} objects": int(((areas >= low) & (areas < high)).sum()) for name, (low, high) in _AREAS.items()}
    crowd = sum(bool(row.get("iscrowd")) for row in truth["annotations"])
    without = len(truth["images"]) - len({row["image_id"] for row in truth["annotations"]})
    page.section("Data").facts(
        {
            "images": f"{facts.data}, {without} without objects",
            **size_facts(facts.sizes),
            "objects": len(truth["annotations"]),
            **sizes,
            **({"crowd regions": crowd} if crowd else {}),
            "classes": ", ".join(str(row["name"]) for row in truth["categories"]),
        }
    )
