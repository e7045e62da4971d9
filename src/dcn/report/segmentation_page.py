"""The report of a segmentation model: metrics, classes, confusion, the worst images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from dcn.metrics.segmentation import Absent
from dcn.report.comparison import class_iou, mean_iou
from dcn.report.page import Bar, Page
from dcn.report.run_page import RunFacts, add_examples, add_offsets, add_origin, add_training, size_facts
from dcn.vis.plots import confusion_matrix

Counts = npt.NDArray[np.integer[Any]]
_MOST_CONFUSIONS = 10
_MOST_IMAGES = 20


def segmentation_page(
    facts: RunFacts,
    classes: Sequence[str],
    confusion: Counts,
    names: Sequence[str],
    absent: Absent = "skip",
) -> Page:
    """The report of a segmentation model.

    Args:
        facts: of the run.
        classes: names of the classes.
        confusion: ``[N, C, C]`` pixel counts of every image, rows are annotated classes.
        names: of the N images.
        absent: how a class counts in the mean IoU that is neither annotated nor predicted: not, or as 0.
    """
    total = confusion.sum(0)
    accuracy = float(np.trace(total) / max(1, total.sum()))
    miou, meaning = float(mean_iou(total, absent)), "mean IoU of the classes that are annotated or predicted"
    missing = int(np.isnan(class_iou(total)).sum())
    if absent == "zero" and missing:
        meaning = f"mean IoU of all classes, 0 for the {missing} of them that {'are' if missing > 1 else 'is'} neither "
        meaning += "annotated nor predicted (eval.absent=zero)"
    page = Page(facts.title, f"Evaluated on {facts.data}.")
    page.tiles({"mIoU": miou, "pixel accuracy": accuracy, "images": len(names), "classes": len(classes)})
    page.section("Result").table(
        ["metric", "value", "measured over"],
        [
            ["mIoU", Bar(miou), meaning],
            ["pixel accuracy", Bar(accuracy), "annotated pixels with the right class"],
            ["mean accuracy", Bar(_mean_accuracy(total)), "the same, mean of the annotated classes"],
        ],
        "0 to 1.",
    )
    add_training(page, facts.history)
    _add_classes(page, classes, total)
    _add_confusions(page, classes, total)
    worst = sorted(zip(names, mean_iou(confusion).tolist(), strict=True), key=lambda row: row[1])[:_MOST_IMAGES]
    page.section("Images").table(
        ["image", "mean IoU"], [[name, Bar(value)] for name, value in worst], "The images with the lowest IoU."
    )
    add_examples(page, facts.examples)
    add_offsets(page, facts)
    page.section("Data").facts({"images": facts.data, **size_facts(facts.sizes), "classes": ", ".join(classes)})
    return add_origin(page, facts)


def _mean_accuracy(total: Counts) -> float:
    annotated = total.sum(1)
    return float(np.mean(np.diagonal(total)[annotated > 0] / annotated[annotated > 0])) if annotated.any() else 0.0


def _add_classes(page: Page, classes: Sequence[str], total: Counts) -> None:
    ious = class_iou(total)
    hits, annotated, predicted = np.diagonal(total), total.sum(1), total.sum(0)
    rows: list[list[object]] = [
        [
            name,
            Bar(float(ious[index])),
            _share(hits[index], predicted[index]),
            _share(hits[index], annotated[index]),
            int(annotated[index]),
        ]
        for index, name in enumerate(classes)
        if not math.isnan(ious[index])
    ]
    header = ["class", "IoU", "precision", "recall", "annotated pixels"]
    page.section("Classes").table(header, rows, "Each class, by pixels.")


def _share(part: int, whole: int) -> float:
    return float(part / whole) if whole else math.nan


def _add_confusions(page: Page, classes: Sequence[str], total: Counts) -> None:
    page.section("Kinds of error").image(
        confusion_matrix(total, classes),
        "Confusion matrix, rows are annotated classes, columns predicted ones",
        "Confusion of pixels, shares of each row.",
    )
    wrong = max(1, int(total.sum() - np.trace(total)))
    pairs = [
        (int(total[row, column]), classes[row], classes[column])
        for row, column in zip(*np.nonzero(total), strict=True)
        if row != column
    ]
    rows = [
        [f"{annotated} taken for {taken}", count, Bar(count / wrong)] for count, annotated, taken in sorted(pairs)[::-1]
    ]
    if rows:
        header = ["classes", "pixels", "share of all wrong pixels"]
        page.table(header, rows[:_MOST_CONFUSIONS], "The classes that are confused most often.")
