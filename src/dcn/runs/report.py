"""``dcn report``: the page about one run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from dcn.data.reading import intact_sample
from dcn.data.subset import spread
from dcn.engine.config import Recipe
from dcn.engine.folder import RECIPE_FILE, VERSIONS_FILE, versions
from dcn.engine.log import METRICS_FILE, read_rows, shell_command
from dcn.engine.recipe import dump_recipe
from dcn.formats.coco_writer import coco_rows, target_rows
from dcn.metrics import MeanIoU
from dcn.report.comparison import mean_iou
from dcn.report.detection_page import detection_page
from dcn.report.diagnosis import IouType, diagnose
from dcn.report.page import Page
from dcn.report.run_page import Example, RunFacts
from dcn.report.segmentation_page import segmentation_page
from dcn.runs.offsets import Offsets, has_offsets, watched_offsets
from dcn.runs.opening import Opened, image_name, open_run_data
from dcn.runs.outputs import page_path
from dcn.runs.predictor import Predictor
from dcn.runs.sources import StrPath, as_words
from dcn.runs.tasks import DETECTION
from dcn.vis.enlarge import enlarge

Counts = npt.NDArray[np.int64]

REPORT_FILE = "report.html"
"""The page in a run folder."""

EXAMPLES = 6
"""Worst images that the page shows."""

MIN_SCORE = 0.3
"""Score threshold of the detections that are drawn and counted in the confusion matrix."""

OFFSET_IMAGES = 16
"""Images over which the offsets of the final weights are measured."""


def report(
    source: StrPath | Predictor,
    split: str = "val",
    *,
    output: StrPath | None = None,
    recipe: StrPath | Recipe | None = None,
    device: str | None = None,
    changes: Sequence[str] = (),
    **overrides: Any,
) -> Path:
    """Evaluate a run and write the page about it.

    >>> from dcn.runs.report import report
    >>> report("runs/bccd_deformable/0", split="test")

    Args:
        source: a run folder (its best weights), a weights file, a :class:`dcn.Run`, or a predictor.
        split: see :func:`dcn.evaluate`.
        output: the page, or a folder for its ``report.html``; ``None``: the run folder, or that of the weights.
        recipe: see :func:`dcn.evaluate`, as the rest; a predictor needs one.
        device: likewise.
        changes: likewise.
        overrides: likewise.

    Returns:
        The page.

    Raises:
        ValueError: as :func:`dcn.evaluate`, or the split has no annotations.
    """
    words = [*as_words(overrides), *changes]
    path = None if output is None else page_path(output, REPORT_FILE)
    opened = open_run_data(source, split, recipe=recipe, device=device, changes=words)
    file = ReportFile(opened, path or opened.folder / REPORT_FILE)
    for predicted, targets in opened.pairs():
        file.add(predicted, targets)
    return file.close()


class ReportFile:
    """A page that is written when all predictions have been added.

    Args:
        opened: the model and the images.
        path: the page.
    """

    def __init__(self, opened: Opened, path: Path) -> None:
        self.opened, self.path = opened, path
        self._collector = make_collector(opened)

    def add(self, predicted: Sequence[Any], targets: Sequence[Any]) -> None:
        """Keep a batch."""
        self._collector.add(predicted, targets)

    def close(self) -> Path:
        """Write the page and return its path."""
        return self._collector.page(self.opened, _facts(self.opened)).write(self.path)


def collect(opened: Opened) -> CollectedDetections | CollectedConfusions:
    """All predictions and targets of a model and its data."""
    collector = make_collector(opened)
    for predicted, targets in opened.pairs():
        collector.add(predicted, targets)
    return collector


def make_collector(opened: Opened) -> CollectedDetections | CollectedConfusions:
    """What collects the predictions of a model of this task."""
    if opened.task is DETECTION:
        return CollectedDetections(opened.dataset.classes)
    return CollectedConfusions(opened)


@dataclass
class CollectedDetections:
    """The annotations and detections of a data set in COCO's form; images are numbered from 1 in its order.

    Attributes:
        classes: names of the labels.
        images: rows of the images.
        annotations: rows of the annotations.
        results: rows of the detections.
    """

    classes: Sequence[str]
    images: list[dict[str, Any]] = field(default_factory=list)
    annotations: list[dict[str, Any]] = field(default_factory=list)
    results: list[dict[str, Any]] = field(default_factory=list)

    @property
    def truth(self) -> dict[str, Any]:
        """The data set."""
        categories = [{"id": number, "name": name} for number, name in enumerate(self.classes, start=1)]
        return {"images": self.images, "annotations": self.annotations, "categories": categories}

    @property
    def iou_types(self) -> dict[str, IouType]:
        """What overlaps: boxes, and masks where the annotations and all detections have them."""
        rows = [*self.annotations[:1], *self.results[:1]]
        masks = len(rows) == 2 and all("segmentation" in row for row in rows)
        return {"boxes": "bbox", **({"masks": "segm"} if masks else {})}

    def add(self, predicted: Sequence[Any], targets: Sequence[Any]) -> None:
        """Keep a batch of detections and targets."""
        numbers = range(1, len(self.classes) + 1)
        for detections, target in zip(predicted, targets, strict=True):
            number = len(self.images) + 1
            self.images.append({"id": number, "height": target.size[0], "width": target.size[1]})
            shown = target if detections.masks is not None else replace(target, masks=None)
            for row in target_rows(shown, number):
                self.annotations.append({**row, "id": len(self.annotations) + 1})
            self.results += coco_rows(detections, number, numbers)

    def page(self, opened: Opened, facts: RunFacts) -> Page:
        """The page of a detector."""
        diagnoses = {
            name: diagnose(self.truth, self.results, iou_type=kind, min_score=MIN_SCORE)
            for name, kind in self.iou_types.items()
        }
        worst = [image for image in diagnoses["boxes"].images if image.missed or image.wrong][:EXAMPLES]
        indices = _indices(opened, len(self.images))
        names = [image_name(opened.dataset, index) for index in indices]
        examples = [
            _example(
                opened,
                indices[image.image_id - 1],
                f"{image.correct} correct, {image.wrong} wrong, {image.missed} missed at score {MIN_SCORE:g}; AP50 of "
                f"the image {image.ap:.2f}",
            )
            for image in worst
        ]
        return detection_page(replace(facts, examples=examples), self.truth, diagnoses, names)


@dataclass
class CollectedConfusions:
    """Confusion matrices of the images of a segmentation model.

    Attributes:
        opened: says at which size predictions are compared.
        counts: ``[C, C]`` of every image, rows are annotated classes.
    """

    opened: Opened
    counts: list[Counts] = field(default_factory=list)

    @property
    def confusion(self) -> Counts:
        """``[N, C, C]`` of all images."""
        return np.stack(self.counts)

    def add(self, predicted: Sequence[Any], targets: Sequence[Any]) -> None:
        """Count a batch."""
        task, recipe, classes = self.opened.task, self.opened.recipe, self.opened.dataset.classes
        for prediction, target in zip(predicted, targets, strict=True):
            metric = MeanIoU(len(classes), absent="skip", classes=classes)
            task.update(metric, [prediction], [target], recipe.eval)
            self.counts.append(metric.confusion.numpy())

    def page(self, opened: Opened, facts: RunFacts) -> Page:
        """The page of a segmentation model."""
        confusion = self.confusion
        right = np.diagonal(confusion, axis1=1, axis2=2).sum(1) / np.maximum(confusion.sum((1, 2)), 1)
        indices = _indices(opened, len(right))
        ious = mean_iou(confusion)
        examples = [
            _example(opened, indices[index], f"mean IoU {ious[index]:.2f}, {right[index]:.0%} of the pixels are right")
            for index in np.argsort(ious, kind="stable")[:EXAMPLES].tolist()
        ]
        names = [image_name(opened.dataset, index) for index in indices]
        facts, absent = replace(facts, examples=examples), opened.recipe.eval.absent
        return segmentation_page(facts, opened.dataset.classes, confusion, names, absent)


def _facts(opened: Opened) -> RunFacts:
    recipe, dataset, folder = opened.recipe, opened.dataset, opened.folder
    rows = read_rows(folder / METRICS_FILE) if (folder / METRICS_FILE).is_file() else []
    parameters = sum(parameter.numel() for parameter in opened.predictor.model.parameters())
    facts: dict[str, object] = {
        "model": f"{recipe.model.name}, {parameters / 1e6:.2f} M parameters",
        "started from": recipe.model.weights or recipe.model.backbone_weights or "random weights",
        "seed": recipe.seed,
        **_machine(folder),
    }
    offsets, images = _offsets(opened)
    return RunFacts(
        title=f"Run {opened.label}",
        data=f"{len(dataset)} images of {dataset.name}",
        history=rows,
        facts=facts,
        commands=_commands(opened),
        recipe=dump_recipe(recipe),
        offsets=offsets.layers,
        roi_offsets=offsets.rois,
        offset_images=images,
        sizes=list(dataset.sizes),
    )


def _machine(folder: Path) -> dict[str, object]:
    """Versions and machine of the training where the run recorded them, and of this evaluation where they differ."""
    here = versions()
    path = folder / VERSIONS_FILE
    if not path.is_file():
        return shown_values(here)
    trained: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    other = {f"{name} of this evaluation": value for name, value in here.items() if trained.get(name) != value}
    return shown_values(trained) | shown_values(other)


def shown_values(values: Mapping[str, Any]) -> dict[str, object]:
    """Facts for a page: lists in a line, without those that are empty."""
    joined = {name: ", ".join(value) if isinstance(value, list) else value for name, value in values.items()}
    return {name: value for name, value in joined.items() if value}


def _commands(opened: Opened) -> list[str]:
    if not (opened.folder / RECIPE_FILE).is_file():
        return []
    return [
        shell_command("dcn", "train", opened.folder / RECIPE_FILE),
        shell_command("dcn", "eval", opened.folder, "--split", opened.split),
        shell_command("dcn", "report", opened.folder, "--split", opened.split),
    ]


def _offsets(opened: Opened) -> tuple[Offsets, int]:
    """The offsets of every layer that ran, over some of the images; and how many images these were."""
    model = opened.predictor.model
    if not has_offsets(model):
        return Offsets([], None), 0
    images = spread(opened.dataset, OFFSET_IMAGES)
    with watched_offsets(model) as seen:
        for index in range(len(images)):
            opened.predictor.predict(images[index].image)
    return seen(), len(images)


def _indices(opened: Opened, evaluated: int) -> Sequence[int]:
    """The indices in the data of the images that were evaluated: damaged ones may have been skipped."""
    dataset = opened.dataset
    every = range(len(dataset))
    return every if evaluated == len(dataset) else [i for i in every if intact_sample(dataset, i) is not None]


def draw_example(opened: Opened, index: int) -> tuple[Tensor, Tensor]:
    """One image with its annotation, and with the prediction of the model; detections from :data:`MIN_SCORE` on."""
    sample, predictor, task = opened.dataset[index], opened.predictor, opened.task
    prediction = predictor.predict(sample.image, min_score=MIN_SCORE if task is DETECTION else None)
    target = task.draw_target(*enlarge(sample.image, sample.target), predictor.classes)
    return target, task.draw(*enlarge(sample.image, prediction), predictor.classes)


def _example(opened: Opened, index: int, caption: str) -> Example:
    return Example(image_name(opened.dataset, index), *draw_example(opened, index), caption)
