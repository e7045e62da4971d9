"""``dcn report``: the page about one run."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dcn.data.dataset import Dataset
from dcn.data.subset import spread
from dcn.engine.config import Recipe
from dcn.engine.distributed import World, choose_device
from dcn.engine.folder import RECIPE_FILE, versions
from dcn.engine.log import METRICS_FILE, progress, read_rows, shell_command
from dcn.engine.recipe import dump_recipe
from dcn.formats.coco_writer import coco_rows, target_rows
from dcn.metrics import MeanIoU
from dcn.report.diagnosis import diagnose
from dcn.report.page import Page
from dcn.report.run_page import Example, RunFacts, detection_page, segmentation_page
from dcn.runs.build import evaluation_batches, test_size
from dcn.runs.evaluate import find_run, open_for
from dcn.runs.load import read_model, ready_model
from dcn.runs.measure import predictions
from dcn.runs.predictor import Predictor
from dcn.runs.sources import StrPath, as_words
from dcn.runs.tasks import DETECTION, Task

Counts = npt.NDArray[np.int64]

EXAMPLES = 6
"""Worst images that the page shows."""

MIN_SCORE = 0.3
"""Score threshold of the detections that are drawn and counted in the confusion matrix."""


def report(
    source: StrPath,
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
        source: a run folder (its best weights), a weights file, or a :class:`dcn.Run`.
        split: see :func:`dcn.evaluate`.
        output: the page; ``None``: ``report.html`` in the run folder, or beside the weights.
        recipe: see :func:`dcn.evaluate`, as the rest.
        device: likewise.
        changes: likewise.
        overrides: likewise.

    Returns:
        The page.

    Raises:
        ValueError: as :func:`dcn.evaluate`, or the split has no annotations.
    """
    opened = open_run_data(source, split, recipe=recipe, device=device, changes=[*as_words(overrides), *changes])
    facts = _facts(opened)
    page = _detections(opened, facts) if opened.task is DETECTION else _segmentation(opened, facts)
    return page.write(Path(output) if output is not None else opened.folder / "report.html")


@dataclass(frozen=True)
class Opened:
    """A model and the data that it is looked at with.

    Attributes:
        folder: the run folder, or that of the weights.
        recipe: of the run, with its changes.
        predictor: the model, ready to predict.
        dataset: the images.
        split: their split, as the caller named it.
        world: this process.
    """

    folder: Path
    recipe: Recipe
    predictor: Predictor
    dataset: Dataset
    split: str
    world: World

    @property
    def task(self) -> Task:
        """The task of the model."""
        return self.predictor.task

    def pairs(self) -> Iterator[tuple[Any, Any]]:
        """Predictions and targets, batch by batch."""
        view = self.predictor.view()
        batches = evaluation_batches(self.recipe, self.dataset, view.size, self.world)
        pairs = predictions(self.task, self.predictor.model, view, batches, self.world.device, self.recipe.amp)
        return progress(pairs, math.ceil(len(self.dataset) / self.recipe.eval.batch_size), self.dataset.name)


def open_run_data(
    source: StrPath, split: str, *, recipe: StrPath | Recipe | None, device: str | None, changes: list[str]
) -> Opened:
    """Open a run and a split of its data; arguments as in :func:`report`.

    Raises:
        ValueError: as :func:`report`.
    """
    origin, settings = find_run(source, recipe, changes)
    world = World(choose_device(device))
    model = read_model(origin.weights)
    dataset = spread(open_for(settings, split, model), settings.eval.images)
    if not getattr(dataset, "annotated", True):
        raise ValueError(f"{dataset.name}: expected annotations, got none; choose another split")
    ready = ready_model(model, settings.tta, optimize=True, precision="float32", compile=False, cuda_graph=False)
    predictor = Predictor(ready, world.device, settings.tta, test_size(settings))
    return Opened(origin.run or origin.weights.parent, settings, predictor, dataset, split, world)


def _facts(opened: Opened) -> RunFacts:
    recipe, dataset, folder = opened.recipe, opened.dataset, opened.folder
    rows = read_rows(folder / METRICS_FILE) if (folder / METRICS_FILE).is_file() else []
    parameters = sum(parameter.numel() for parameter in opened.predictor.model.parameters())
    facts: dict[str, object] = {
        "model": f"{recipe.model.name}, {parameters / 1e6:.2f} M parameters",
        "weights": recipe.model.weights or recipe.model.backbone_weights or "random",
        "data": f"{dataset.name}, {len(dataset)} images",
        "classes": ", ".join(dataset.classes),
        "seed": recipe.seed,
        **{name: value for name, value in versions().items() if value},
    }
    commands = [
        shell_command("dcn", "train", folder / RECIPE_FILE),
        shell_command("dcn", "eval", folder, "--split", opened.split),
    ]
    title = f"Run {folder.absolute().parent.name}/{folder.absolute().name}"
    return RunFacts(title, f"{len(dataset)} images of {dataset.name}", rows, facts, commands, dump_recipe(recipe))


@dataclass(frozen=True)
class CollectedDetections:
    """The annotations and detections of a data set in COCO's form; images are numbered from 1 in its order.

    Attributes:
        truth: images, annotations and categories.
        results: the detections.
    """

    truth: dict[str, Any]
    results: list[dict[str, Any]]


def collect_detections(pairs: Iterable[tuple[Any, Any]], classes: Sequence[str]) -> CollectedDetections:
    """Predictions and targets of a detector in COCO's form.

    Args:
        pairs: batches, from :func:`dcn.runs.measure.predictions`.
        classes: names of the labels.
    """
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    numbers = range(1, len(classes) + 1)
    for predicted, targets in pairs:
        for detections, target in zip(predicted, targets, strict=True):
            number = len(images) + 1
            images.append({"id": number, "height": target.size[0], "width": target.size[1]})
            for row in target_rows(replace(target, masks=None), number):
                annotations.append({**row, "id": len(annotations) + 1})
            results += coco_rows(replace(detections, masks=None), number, numbers)
    categories = [{"id": number, "name": name} for number, name in zip(numbers, classes, strict=True)]
    return CollectedDetections({"images": images, "annotations": annotations, "categories": categories}, results)


def collect_confusions(task: Task, pairs: Iterable[tuple[Any, Any]], recipe: Recipe, classes: Sequence[str]) -> Counts:
    """``[N, C, C]`` pixel counts of every image of a segmentation model, rows are annotated classes.

    Args:
        task: of the model.
        pairs: batches, from :func:`dcn.runs.measure.predictions`.
        recipe: says at which size predictions are compared.
        classes: names of the labels.
    """
    confusions = []
    for predicted, targets in pairs:
        for prediction, target in zip(predicted, targets, strict=True):
            metric = MeanIoU(len(classes), absent="skip", classes=classes)
            task.update(metric, [prediction], [target], recipe.eval)
            confusions.append(metric.confusion.numpy())
    return np.stack(confusions)


def _detections(opened: Opened, facts: RunFacts) -> Page:
    collected = collect_detections(opened.pairs(), opened.dataset.classes)
    diagnosis = diagnose(collected.truth, collected.results, min_score=MIN_SCORE)
    worst = [image for image in diagnosis.images if image.missed or image.wrong][:EXAMPLES]
    examples = [
        _example(
            opened,
            image.image_id - 1,
            f"{image.correct} correct, {image.wrong} wrong, {image.missed} missed; AP50 of the image {image.ap:.2f}",
        )
        for image in worst
    ]
    return detection_page(replace(facts, examples=examples), diagnosis)


def _segmentation(opened: Opened, facts: RunFacts) -> Page:
    dataset = opened.dataset
    confusion = collect_confusions(opened.task, opened.pairs(), opened.recipe, dataset.classes)
    right = np.diagonal(confusion, axis1=1, axis2=2).sum(1) / np.maximum(confusion.sum((1, 2)), 1)
    examples = [
        _example(opened, int(index), f"{right[index]:.0%} of the pixels are right")
        for index in np.argsort(right, kind="stable")[:EXAMPLES]
    ]
    names = image_names(dataset)
    return segmentation_page(replace(facts, examples=examples), dataset.classes, confusion, names)


def _example(opened: Opened, index: int, caption: str) -> Example:
    """One image with its annotation and its prediction drawn."""
    sample, predictor, task = opened.dataset[index], opened.predictor, opened.task
    prediction = predictor.predict(sample.image, min_score=MIN_SCORE if task is DETECTION else None)
    target = task.draw_target(sample.image, sample.target, predictor.classes)
    picture = task.draw(sample.image, prediction, predictor.classes)
    return Example(_image_name(opened.dataset, index), target, picture, caption)


def image_names(dataset: Dataset) -> list[str]:
    """The file names of the images, or their numbers where no files stand behind them."""
    return [_image_name(dataset, index) for index in range(len(dataset))]


def _image_name(dataset: Dataset, index: int) -> str:
    path = dataset.image_path(index)
    return f"image {index}" if path is None else path.name
