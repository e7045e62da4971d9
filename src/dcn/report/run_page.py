"""The report of one run: curves, metrics per class, the kinds of error, calibration, the worst images, offsets."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from dcn.report.comparison import class_iou, mean_iou
from dcn.report.diagnosis import ERRORS, CalibrationBin, Diagnosis
from dcn.report.page import Page
from dcn.vis.plots import (
    calibration_curve,
    confusion_matrix,
    loss_curves,
    metric_curves,
    precision_recall,
)

Row = Mapping[str, Any]
OFFSETS = "offsets/"
"""Prefix of the rows' keys that hold sizes of offsets."""


@dataclass(frozen=True)
class Example:
    """One image of the page.

    Attributes:
        name: of the image.
        target: ``[3, H, W]`` uint8, the image with its annotation drawn.
        prediction: the same with the prediction.
        caption: what went wrong, in words.
    """

    name: str
    target: Tensor
    prediction: Tensor
    caption: str


@dataclass(frozen=True)
class RunFacts:
    """What a report says about the run itself.

    Attributes:
        title: heading of the page.
        data: what was evaluated, in words.
        history: the rows of ``metrics.jsonl``.
        facts: name -> value: model, data, machine, versions.
        commands: command lines that repeat the run.
        recipe: the recipe as YAML.
        examples: the worst images, the worst first.
    """

    title: str
    data: str
    history: Sequence[Row]
    facts: Mapping[str, object]
    commands: Sequence[str]
    recipe: str
    examples: Sequence[Example] = field(default_factory=list)


def detection_page(facts: RunFacts, diagnosis: Diagnosis) -> Page:
    """The report of a detector.

    Args:
        facts: of the run.
        diagnosis: of its detections, see :func:`dcn.report.diagnosis.diagnose`.
    """
    page = Page(facts.title, f"Evaluated on {facts.data} with the rules of COCO.")
    metrics = diagnosis.metrics
    page.section("Result").table(
        ["metric", "value"], [[name, value] for name, value in metrics.items() if value >= 0], "AP and AR in 0 to 1."
    )
    _add_curves(page, facts.history)
    page.section("Classes").table(
        ["class", "AP"], [[name, value] for name, value in diagnosis.per_class.items() if value >= 0], "AP by class."
    )
    if diagnosis.curves:
        page.image(
            precision_recall(diagnosis.curves),
            "Precision over recall, a line for each class",
            "Precision and recall at IoU 0.5.",
        )
    names = [*diagnosis.classes, "background"]
    page.image(
        confusion_matrix(diagnosis.confusion, names),
        "Confusion matrix, rows are annotated classes, columns detected ones",
        "Confusion at IoU 0.5, shares of each row. Background as a row: detections of nothing; as a column: missed.",
    )
    _add_errors(page, diagnosis)
    _add_calibration(page, diagnosis.calibration, diagnosis.calibration_error)
    _add_examples(page, facts.examples)
    return _add_origin(page, facts)


def segmentation_page(
    facts: RunFacts, classes: Sequence[str], confusion: npt.NDArray[np.integer[Any]], names: Sequence[str]
) -> Page:
    """The report of a segmentation model.

    Args:
        facts: of the run.
        classes: names of the classes.
        confusion: ``[N, C, C]`` pixel counts of every image, rows are annotated classes.
        names: of the N images.
    """
    total = confusion.sum(0)
    page = Page(facts.title, f"Evaluated on {facts.data}.")
    accuracy = float(np.trace(total) / max(1, total.sum()))
    page.section("Result").table(
        ["metric", "value"],
        [["mIoU", float(mean_iou(total))], ["pixel accuracy", accuracy]],
        "Mean IoU over the classes that are annotated or predicted.",
    )
    _add_curves(page, facts.history)
    ious = class_iou(total)
    rows: list[list[object]] = [
        [name, float(value), int(pixels)]
        for name, value, pixels in zip(classes, ious, total.sum(1), strict=True)
        if not math.isnan(value)
    ]
    page.section("Classes").table(["class", "IoU", "annotated pixels"], rows, "IoU by class.")
    page.image(
        confusion_matrix(total, classes),
        "Confusion matrix, rows are annotated classes, columns predicted ones",
        "Confusion of pixels, shares of each row.",
    )
    worst = sorted(zip(names, mean_iou(confusion).tolist(), strict=True), key=lambda row: row[1])[:20]
    page.section("Images").table(["image", "mean IoU"], [list(row) for row in worst], "The images with the lowest IoU.")
    _add_examples(page, facts.examples)
    return _add_origin(page, facts)


def _add_curves(page: Page, history: Sequence[Row]) -> None:
    training = [row for row in history if row.get("kind") == "train"]
    evaluations = [row for row in history if row.get("kind") == "eval"]
    pictures: list[tuple[Any, str, str]] = []
    if any(str(key).startswith("loss") for row in training for key in row):
        pictures.append((loss_curves(training), "Losses over steps", "Losses, smoothed over the raw values."))
    pictures += [
        (metric_curves({"run": evaluations}, key), f"{key} over steps", f"{key} on validation images.")
        for key in ("AP", "AP50", "mIoU")
        if any(row.get(key) is not None for row in evaluations)
    ]
    offsets = sorted({key for row in training for key in row if str(key).startswith(OFFSETS)})
    for key in offsets[:2]:
        name = key.removeprefix(OFFSETS)
        pictures.append(
            (
                metric_curves({"run": training}, key, smooth=0.8),
                f"Size of offsets ({name})",
                f"Size of offsets: {name}.",
            )
        )
    if pictures:
        page.section("Training").figure_grid(pictures, cell=420)
    if offsets and max((float(training[-1].get(key) or 0) for key in offsets), default=0) < 0.05:
        page.text("The offsets stayed near zero: the deformable layers are still almost ordinary convolutions.")


def _add_errors(page: Page, diagnosis: Diagnosis) -> None:
    rows = [[meaning, diagnosis.error_counts[kind], diagnosis.error_costs[kind]] for kind, meaning in ERRORS.items()]
    page.section("Kinds of error").text(
        "What each kind of error costs: the AP50 that would be gained if all errors of that kind were mended "
        "(TIDE, Bolya et al. 2020). The rows do not add up: one error can hide another."
    )
    page.table(["error", "count", "AP50 to gain"], rows, "Kinds of error at IoU 0.5.")


def _add_calibration(page: Page, bins: Sequence[CalibrationBin], error: float) -> None:
    filled = [one for one in bins if one.count]
    page.section("Calibration")
    if not filled:
        page.text("There are no detections.")
        return
    page.text(f"Expected calibration error {error:.3f}: the mean gap between score and share of correct detections.")
    page.image(
        calibration_curve([(one.confidence, one.accuracy, one.count) for one in filled]),
        "Share of correct detections over score",
        "On the diagonal a score of 0.7 is right in 70 of 100 cases.",
    )


def _add_examples(page: Page, examples: Sequence[Example]) -> None:
    if not examples:
        return
    page.section("Worst images").text("Left the annotation, right the prediction.")
    pictures = []
    for one in examples:
        pictures.append((one.target, f"{one.name} with its annotation", f"{one.name}: annotation"))
        pictures.append((one.prediction, f"{one.name} with its prediction", one.caption))
    page.figure_grid(pictures, cell=380)


def _add_origin(page: Page, facts: RunFacts) -> Page:
    page.section("Origin").facts(facts.facts)
    page.code("\n".join(facts.commands))
    return page.section("Recipe").code(facts.recipe)
