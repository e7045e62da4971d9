"""``dcn.train``: a recipe into a run folder; and :class:`Run`, what a run folder holds."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from html import escape
from os import fspath
from pathlib import Path
from typing import Any

from torch import nn

from dcn.data.dataset import Dataset, colors_of
from dcn.data.overlap import refuse_shared_images
from dcn.data.reading import BrokenImages, broken_images
from dcn.data.subset import spread
from dcn.engine.checkpoint import find_weights
from dcn.engine.config import Recipe
from dcn.engine.distributed import World, joined_world
from dcn.engine.folder import RECIPE_FILE, check_run_name, latest_run, new_run_folder, open_run
from dcn.engine.log import METRICS_FILE, read_rows, shell_command, two_columns
from dcn.engine.recipe import use_named_plugins
from dcn.engine.train import Outcome, best_metric
from dcn.engine.train import train as run_steps
from dcn.formats.images import write_image
from dcn.models.segmentation import SegmentationModel
from dcn.report.offset_words import last_offset, near_zero
from dcn.runs.batch_size import with_batch_size
from dcn.runs.build import (
    build_model,
    evaluation_batches,
    model_options,
    open_split,
    test_size,
    training_batches,
)
from dcn.runs.check_hint import naming_the_check
from dcn.runs.finetune import check_name, finetuning, is_model
from dcn.runs.load import load
from dcn.runs.measure import fill, predictions
from dcn.runs.offsets import offset_probe
from dcn.runs.outputs import stems_of
from dcn.runs.predictor import Predictor
from dcn.runs.record import record_data, with_color_table, with_used_plugins
from dcn.runs.report import REPORT_FILE, report
from dcn.runs.sources import StrPath, as_words, read_recipe
from dcn.runs.tasks import Task, task_of
from dcn.suggest import summary_of
from dcn.vis.plots import loss_curves

LOGGER = logging.getLogger("dcn")
PICTURE_SCORE = 0.3
"""Score threshold of the detections that are drawn during training."""


@dataclass(frozen=True)
class Run:
    """A run folder; what :func:`train` returns. Any run folder can be opened: ``dcn.Run("runs/demo/plain")``.

    Attributes:
        folder: the run folder.
        finished: whether training reached its last step; ``None`` where the run was opened, not trained.
    """

    folder: Path
    finished: bool | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "folder", Path(self.folder).expanduser())
        if not (self.folder / RECIPE_FILE).is_file():
            raise ValueError(f"folder: expected a run folder, got {self.folder}, which has no {RECIPE_FILE}")

    def __fspath__(self) -> str:
        return fspath(self.folder)

    @property
    def recipe(self) -> Recipe:
        """The recipe of the run, with its changes."""
        return read_recipe(self.folder / RECIPE_FILE, (), self.folder)

    @property
    def history(self) -> list[dict[str, Any]]:
        """The rows of ``metrics.jsonl``: losses (``kind`` ``"train"``) and metrics (``"eval"``) by step."""
        return read_rows(self.folder / METRICS_FILE)

    @property
    def metrics(self) -> dict[str, float]:
        """The metrics of the last evaluation during training; empty before the first."""
        rows = [row for row in self.history if row["kind"] == "eval"]
        return {key: value for key, value in rows[-1].items() if key not in ("kind", "step")} if rows else {}

    @property
    def step(self) -> int:
        """The last step in the history; 0 before the first."""
        rows = self.history
        return int(rows[-1]["step"]) if rows else 0

    def _repr_html_(self) -> str:
        rows = {"folder": str(self.folder), "model": self.recipe.model.name, "step": str(self.step)}
        rows |= summary_of(self.metrics)
        page = self.folder / REPORT_FILE
        link = f'<p><a href="{page.absolute().as_uri()}">report</a></p>' if page.is_file() else ""
        cells = "".join(
            f'<tr><th scope="row">{escape(name)}</th><td>{escape(text)}</td></tr>' for name, text in rows.items()
        )
        return f"<table><tbody>{cells}</tbody></table>{link}"

    def _repr_png_(self) -> bytes | None:
        """The losses over the steps; ``None``: the next form is shown."""
        rows = [row for row in self.history if row["kind"] == "train"]
        return loss_curves(rows) if any("loss" in row for row in rows) else None

    def best(self) -> Path:
        """The weights file of the best evaluation, or the last one where nothing was evaluated."""
        return find_weights(self.folder)

    def report(self, split: str = "val", **options: Any) -> Path:
        """Write the page about the run, see :func:`dcn.runs.report.report`, and return its path."""
        return report(self.folder, split, **options)

    def load(self, **options: Any) -> Predictor:
        """The best weights, ready to predict; options as in :func:`dcn.load`."""
        return load(self.folder, **options)


def train(
    recipe: StrPath | Recipe | None = None,
    data: StrPath | Mapping[str, Any] | None = None,
    *,
    output: StrPath = "runs",
    name: str | None = None,
    resume: StrPath | bool | None = None,
    device: str | None = None,
    changes: Sequence[str] = (),
    **overrides: Any,
) -> Run:
    """Train a model by a recipe.

    >>> run = dcn.train("bccd_deformable", data="data/bccd", schedule={"lr": 0.01})
    >>> run.load().predict("photo.jpg")

    Args:
        recipe: a shipped name (``dcn train --list``), a YAML file, a :class:`dcn.engine.Recipe`, or the name of a
            detector (``dcn models``), for which the settings are chosen from the data; may be left out with
            ``resume=FOLDER``.
        data: the folder of the data (``data.root``), or changes of the section ``data``.
        output: the run goes into ``<output>/<recipe>/<name>``.
        name: of the run folder; ``None``: the next number.
        resume: a run folder to continue, or ``True`` for the latest run of the recipe.
        device: ``"cpu"``, ``"cuda"``, ...; ``None``: the GPU where there is one.
        changes: changes of the recipe as on the command line: ``["schedule.lr=0.01"]``.
        overrides: the same by dotted key or as nested dictionaries: ``schedule={"lr": 0.01}`` or
            ``**{"schedule.lr": 0.01}``.

    Returns:
        The run. Under ``torchrun`` every process returns it.

    Raises:
        ValueError: whatever is wrong with recipe, data or options, before a run folder is made;
            :class:`dcn.engine.DivergedError` where a loss is not finite.
    """
    own = overrides if data is None else {**_data_changes(data), **overrides}
    words = [*as_words(own), *changes]
    use_named_plugins(words)
    with joined_world(device) as world:
        if resume is None or resume is False:
            if recipe is None:
                raise ValueError("recipe: expected a recipe, got None; `dcn train --list` lists the shipped ones")
            stem = recipe.model.name if isinstance(recipe, Recipe) else Path(fspath(recipe)).stem
            parent = Path(output).expanduser()
            check_run_name(parent, stem, name)
            if not isinstance(recipe, Recipe):
                check_name(recipe)
            if not isinstance(recipe, Recipe) and is_model(recipe):
                chosen = finetuning(fspath(recipe), words, world)
            else:
                chosen = read_recipe(recipe, words)
            return train_recipe(chosen, world, lambda: new_run_folder(parent, stem, name))
        folder = Path(fspath(resume)).expanduser() if resume is not True else _latest(recipe, output)
        if not (folder / RECIPE_FILE).is_file():
            raise ValueError(f"resume: expected a run folder, got {folder}, which has no {RECIPE_FILE}")
        return train_recipe(read_recipe(folder / RECIPE_FILE, words, folder), world, lambda: folder)


def train_recipe(recipe: Recipe, world: World, make_folder: Callable[[], Path]) -> Run:
    """Train by a recipe, or resume where the run folder has a checkpoint.

    Args:
        recipe: what to do.
        world: this process among the others.
        make_folder: makes the run folder, or names an earlier one; called in the first process, after everything was
            opened, so that a failed start leaves no folder.
    """
    recipe = with_color_table(with_used_plugins(recipe))
    training = open_split(recipe, "train", training=True)
    validation = open_split(recipe, "val")
    if tuple(validation.classes) != tuple(training.classes):
        raise ValueError(
            f"data: expected the classes {list(training.classes)} of {training.name}, got {list(validation.classes)} "
            f"in {validation.name}; set data.classes"
        )
    if not recipe.data.allow_shared:
        refuse_shared_images(training, validation, "val")
    model = build_model(recipe, tuple(training.classes))
    if isinstance(model, SegmentationModel):
        model.colors = colors_of(training)
    with naming_the_check(recipe.data):
        recipe = with_batch_size(recipe, model, training, world)
    task = task_of(model)
    task.check_tta(recipe.tta, training.classes)
    metric_names = list(task.make_metric(recipe.eval, model, validation).compute())
    deciding = best_metric(metric_names, recipe.eval.best)
    batches, steps_per_epoch = training_batches(recipe, training, world)
    folder = world.gather(make_folder() if world.is_main else None)[0]
    if world.is_main:
        _log_start(recipe, folder, world, model, (training, validation), steps_per_epoch)
        record_data(recipe, training, folder)
    with open_run(folder, recipe) if world.is_main else nullcontext():
        outcome = run_steps(
            model,
            batches,
            steps_per_epoch,
            recipe,
            folder,
            world,
            options=model_options(recipe),
            evaluate=_evaluation(task, recipe, validation, model, world, folder),
            metric_names=metric_names,
            probe=offset_probe(model),
        )
    if world.is_main:
        _log_end(folder, outcome, broken_images(training), deciding)
        if outcome.finished and recipe.eval.report:
            _write_report(folder, world)
    return Run(folder, outcome.finished)


def _write_report(folder: Path, world: World) -> None:
    """The page about the run. The weights are there already: whatever goes wrong here does not undo the training."""
    try:
        LOGGER.info("report        %s", report(folder, device=str(world.device)))
    except (ValueError, OSError, ImportError) as error:
        LOGGER.warning("no report was written: %s; %s writes it", error, shell_command("dcn", "report", folder))


def _latest(recipe: StrPath | Recipe | None, output: StrPath) -> Path:
    if recipe is None or isinstance(recipe, Recipe):
        got = "no recipe" if recipe is None else "a Recipe, which has no name"
        raise ValueError(
            f"resume: expected a run folder or the name of a recipe, whose latest run is continued, got {got}"
        )
    return latest_run(Path(output).expanduser() / Path(fspath(recipe)).stem)


def _data_changes(data: StrPath | Mapping[str, Any]) -> dict[str, Any]:
    return {"data": data} if isinstance(data, Mapping) else {"data.root": fspath(data)}


def _log_start(
    recipe: Recipe, folder: Path, world: World, model: nn.Module, data: tuple[Dataset, Dataset], steps_per_epoch: int
) -> None:
    """Log what the run starts with."""
    training, validation = data
    schedule, parameters = recipe.schedule, sum(p.numel() for p in model.parameters())
    total = schedule.total_steps(steps_per_epoch)
    rate = f"{schedule.scaled_lr:g}"
    if schedule.scaled_lr != schedule.lr:
        rate += f" = {schedule.lr:g} * {schedule.batch_size} / {schedule.lr_batch_size} (schedule.lr_batch_size)"
    rows = {
        "run folder": folder,
        "model": f"{recipe.model.name}, {parameters / 1e6:.1f} M parameters",
        "weights": recipe.model.weights or recipe.model.backbone_weights or "random",
        "device": world.device if world.size == 1 else f"{world.size} processes on {world.device.type}",
        "training": f"{training.name}, {len(training)} images, {total} steps of {schedule.batch_size} images",
        "validation": f"{validation.name}, {len(spread(validation, recipe.eval.images))} images",
        "classes": f"{len(training.classes)}: {_shortened(training.classes)}",
        "learning rate": rate,
    }
    LOGGER.info("%s", two_columns(rows))


def _shortened(names: Sequence[str], most: int = 12) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _log_end(folder: Path, outcome: Outcome, broken: BrokenImages, deciding: str) -> None:
    rows: dict[str, object] = {"run folder": folder, "step": outcome.step}
    if outcome.best is not None:
        rows["best"] = f"{deciding}={outcome.best:.4f} ({find_weights(folder).name})"
    if shown := summary_of(outcome.metrics):
        rows["last metrics"] = " ".join(f"{name}={text}" for name, text in shown.items())
    if broken.skipped or broken.repaired:
        rows["data"] = broken
    if outcome.finished:
        rows["next"] = shell_command("dcn", "eval", folder)
    history = read_rows(folder / METRICS_FILE)
    if offsets := _offset_sizes(history):
        rows["offsets"] = offsets
    LOGGER.info("%s", two_columns(rows))
    if outcome.finished and (still := near_zero(last_offset(history, "mean"), last_offset(history, "pool"))):
        LOGGER.warning("%s", still)


def _offset_sizes(history: Sequence[Mapping[str, Any]]) -> str:
    """How far the offsets of the last logged step moved, in words; empty where there are none."""
    mean, pool = last_offset(history, "mean"), last_offset(history, "pool")
    texts = [] if mean is None else [f"{mean:.2g} cells of the layers' input"]
    return ", ".join(texts + ([] if pool is None else [f"{pool:.2g} of the region's side in RoI pooling"]))


def _evaluation(
    task: Task, recipe: Recipe, dataset: Dataset, model: nn.Module, world: World, folder: Path
) -> Callable[[int], Mapping[str, float]]:
    """What evaluates the model during training: metrics, and pictures in ``folder/pictures``."""
    evaluated = spread(dataset, recipe.eval.images)
    tta, size = task.validation_tta(recipe.tta), test_size(recipe)

    def evaluate(step: int) -> Mapping[str, float]:
        view = task.view(model, tta, size)
        batches = evaluation_batches(recipe, evaluated, view.size, world)
        pairs = predictions(task, model, view, batches, world.device, recipe.amp)
        metric = fill(task, task.make_metric(recipe.eval, model, dataset), pairs, world, recipe.eval)
        if metric is None:
            return {}
        if recipe.eval.pictures:
            _draw(Predictor(model, world.device, tta), spread(dataset, recipe.eval.pictures), folder / "pictures")
        metrics: Mapping[str, float] = metric.compute()
        return metrics

    return evaluate


def _draw(predictor: Predictor, dataset: Dataset, folder: Path) -> None:
    """Draw the predictions for every image of a data set; files of an earlier evaluation are replaced."""
    folder.mkdir(exist_ok=True)
    paths = [dataset.image_path(index) or Path(f"{index:04d}") for index in range(len(dataset))]
    min_score = PICTURE_SCORE if predictor.task.name == "detection" else None
    for index, stem in enumerate(stems_of(paths)):
        image = dataset[index].image
        prediction = predictor.predict(image, min_score=min_score)
        write_image(folder / f"{stem}.jpg", predictor.task.draw(image, prediction, predictor.classes))
