"""``dcn.evaluate``: the metrics of a run or of a weights file on a data set."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dcn.data.dataset import Dataset
from dcn.data.reading import broken_images
from dcn.engine.config import Recipe
from dcn.engine.distributed import World, choose_device
from dcn.engine.log import progress
from dcn.formats.file_names import safe_name
from dcn.metrics.results import Result
from dcn.models.inference.prepare import Precision
from dcn.runs.build import evaluation_batches, test_size
from dcn.runs.load import read_model, ready_model
from dcn.runs.measure import fill, predictions
from dcn.runs.opening import Opened, find_run, folder_of, label_of, open_for
from dcn.runs.predictor import Predictor
from dcn.runs.report import ReportFile
from dcn.runs.sources import StrPath, as_words
from dcn.runs.tasks import Task, task_of

LOGGER = logging.getLogger("dcn")


def evaluate(
    source: StrPath,
    split: str = "test",
    *,
    recipe: StrPath | Recipe | None = None,
    device: str | None = None,
    output: StrPath | None = None,
    save: bool = False,
    report: bool = False,
    precision: Precision = "float32",
    compile: bool = False,
    cuda_graph: bool = False,
    changes: Sequence[str] = (),
    **overrides: Any,
) -> Result | None:
    """Evaluate a model on a split of its data.

    >>> metrics = dcn.evaluate("runs/bccd_deformable/0", split="val", tta={"flip": True})
    >>> metrics["AP50"]

    Args:
        source: a run folder (its best weights), a weights file of this package, a file of ``dcn export``, or a
            :class:`dcn.Run`.
        split: ``train``, ``val`` or ``test`` as the recipe names them, or the data set's own name of a split.
        recipe: name or file of the recipe that describes the data; ``None``: that of the run.
        device: ``"cpu"``, ``"cuda"``, ...; ``None``: the GPU where there is one.
        output: folder for ``<split>.json`` and what ``save`` adds; ``None``: ``eval/`` in the run folder, or beside the
            weights.
        save: write the detections as COCO JSON and VOC files, or the segmentation maps as PNGs.
        report: write ``<split>_report.html`` beside them: see :mod:`dcn.runs.report`.
        precision: of weights and maps.
        compile: run the model through ``torch.compile``.
        cuda_graph: on a GPU: record a CUDA graph for each size, and replay it.
        changes: changes of the recipe as on the command line: ``["eval.batch_size=4"]``.
        overrides: the same by dotted key or as nested dictionaries: ``eval={"batch_size": 4}``.

    Returns:
        The metrics, see :mod:`dcn.metrics.results`: a mapping of names to values with attributes, ``to_dict()``, and a
        table as text. ``None`` for a split without annotations, whose predictions are written with ``save``.

    Raises:
        ValueError: no such run, weights, recipe or data; classes of the model and of the data that differ.
    """
    origin, settings = find_run(source, recipe, [*as_words(overrides), *changes])
    if precision != "float32":
        settings = replace(settings, amp="off")  # the model itself is in that precision
    world = World(choose_device(device))
    model = read_model(origin.weights)
    task = task_of(model)
    task.check_tta(settings.tta, model.classes)
    dataset = open_for(settings, split, model)
    annotated = _annotated(dataset, save)
    ready = ready_model(
        model, settings.tta, optimize=True, precision=precision, compile=compile, cuda_graph=cuda_graph
    ).to(world.device)
    folder = Path(output).expanduser() if output is not None else folder_of(origin) / "eval"
    name = safe_name(split)
    keepers: list[Any] = [task.result_writer(folder, name, dataset)] if save else []
    if report and annotated:
        predictor = Predictor(ready, world.device, settings.tta, test_size(settings))
        opened = Opened(folder_of(origin), settings, predictor, dataset, split, world, label_of(origin))
        keepers.append(ReportFile(opened, folder / f"{name}_report.html"))
    metric = task.make_metric(settings.eval, ready, dataset) if annotated else None
    folder.mkdir(parents=True, exist_ok=True)
    pairs = _kept(_shown(task, ready, settings, dataset, world), keepers)
    if metric is None:
        for _ in pairs:
            pass
    else:
        fill(task, metric, pairs, world, settings.eval)
    if keepers:
        LOGGER.info("written into %s", folder)
    broken = broken_images(dataset)
    if broken.skipped or broken.repaired:
        LOGGER.warning("%s: %s", dataset.name, broken)
    return None if metric is None else _written(task, metric, folder, name)


def measure(model: nn.Module, recipe: Recipe, dataset: Dataset) -> Result:
    """The metrics of a model on the CPU, prepared for inference or exported; nothing is written.

    Args:
        model: see :func:`dcn.runs.load.ready_model`.
        recipe: says how images are resized and how metrics are computed.
        dataset: of :func:`open_for`, with annotations.
    """
    task, world = task_of(model), World(torch.device("cpu"))
    metric = task.make_metric(recipe.eval, model, dataset)
    fill(task, metric, _shown(task, model, recipe, dataset, world), world, recipe.eval)
    result: Result = metric.compute()
    return result


def _shown(
    task: Task, model: nn.Module, recipe: Recipe, dataset: Dataset, world: World
) -> Iterator[tuple[list[Any], list[Any]]]:
    """Predictions and targets, with a progress bar."""
    view = task.view(model, recipe.tta, test_size(recipe))
    batches = evaluation_batches(recipe, dataset, view.size, world)
    pairs = predictions(task, model, view, batches, world.device, recipe.amp)
    return progress(pairs, math.ceil(len(dataset) / recipe.eval.batch_size), dataset.name)


def _kept(
    pairs: Iterator[tuple[list[Any], list[Any]]], keepers: Sequence[Any]
) -> Iterator[tuple[list[Any], list[Any]]]:
    """The same pairs, of which each keeper gets every batch too; after the last one the keepers are closed."""
    for predicted, targets in pairs:
        for keeper in keepers:
            keeper.add(predicted, targets)
        yield predicted, targets
    for keeper in keepers:
        keeper.close()


def _annotated(dataset: Dataset, save: bool) -> bool:
    """Whether there are annotations; without them there must be something to save."""
    annotated: bool = getattr(dataset, "annotated", True)
    if not annotated and not save:
        raise ValueError(
            f"{dataset.name}: expected annotations to evaluate on, got none; save=True (--save) writes the files for a "
            "test server"
        )
    return annotated


def _written(task: Task, metric: Any, folder: Path, split: str) -> Result:
    metrics: Result = metric.compute()
    task.write_details(folder, split, metric)
    (folder / f"{split}.json").write_text(json.dumps(metrics.to_dict(), indent=2) + "\n", encoding="utf-8")
    return metrics
