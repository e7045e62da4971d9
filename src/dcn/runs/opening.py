"""A run, weights or a predictor, opened together with a split of its data."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from os import fspath
from pathlib import Path
from typing import Any

from torch import nn

from dcn.data.dataset import Dataset
from dcn.data.subset import spread
from dcn.engine.config import Recipe
from dcn.engine.distributed import World, choose_device
from dcn.engine.folder import RECIPE_FILE
from dcn.engine.log import progress
from dcn.runs.build import evaluation_batches, open_split, test_size
from dcn.runs.load import read_model, ready_model
from dcn.runs.measure import predictions
from dcn.runs.predictor import Predictor
from dcn.runs.sources import Source, StrPath, find_source, read_recipe, shipped_models
from dcn.runs.tasks import Task


def find_run(source: StrPath, recipe: StrPath | Recipe | None, changes: Sequence[str]) -> tuple[Source, Recipe]:
    """The weights, and the recipe with its changes, that a caller means.

    Raises:
        ValueError: neither a run folder nor a weights file, or weights outside of a run without a recipe.
    """
    origin = find_source(source)
    if origin is None:
        raise ValueError(f"source: expected a run folder or a weights file, got {str(source)!r}, which does not exist")
    if recipe is None and origin.weights == shipped_models().get(origin.weights.stem):
        recipe = origin.weights.stem
    if recipe is None and origin.run is None:
        raise ValueError(
            f"recipe: expected the one that describes the data (--recipe NAME), got none, and {origin.weights} is not "
            "in a run folder"
        )
    own = None if origin.run is None else origin.run / RECIPE_FILE
    chosen = own if recipe is None else _of_run(recipe)
    return origin, read_recipe(chosen, changes, origin.run)  # type: ignore[arg-type]  # one of the two, see above


def _of_run(recipe: StrPath | Recipe) -> StrPath | Recipe:
    """The recipe in a run folder, where one is named; anything else stays."""
    if isinstance(recipe, Recipe) or not (Path(fspath(recipe)).expanduser() / RECIPE_FILE).is_file():
        return recipe
    return Path(fspath(recipe)) / RECIPE_FILE


def recipe_beside_predictor(recipe: StrPath | Recipe | None, changes: Sequence[str]) -> Recipe:
    """The recipe that describes the data for a predictor, which brings none.

    Raises:
        ValueError: there is no recipe.
    """
    if recipe is None:
        raise ValueError("recipe: a predictor brings no data; expected the recipe that describes it, got None")
    return read_recipe(_of_run(recipe), changes)


def open_for(recipe: Recipe, split: str, model: nn.Module) -> Dataset:
    """A split of the recipe's data for a model that must know its classes."""
    dataset = open_split(
        recipe,
        split,
        masks=bool(getattr(model, "has_masks", False)),
        semantic=getattr(model, "task", None) == "segmentation",
    )
    own = tuple(model.classes)  # type: ignore[arg-type]  # nn.Module attributes are untyped
    if tuple(dataset.classes) != own:
        raise ValueError(
            f"classes: expected those of the model, {list(own)}, got {list(dataset.classes)} in {dataset.name}"
        )
    return dataset


@dataclass(frozen=True)
class Opened:
    """A model and the data that it is looked at with.

    Attributes:
        folder: the run folder, or that of the weights; the working directory for a predictor.
        recipe: of the run, with its changes.
        predictor: the model, ready to predict.
        dataset: the images.
        split: their split, as the caller named it.
        world: this process.
        label: a short name of the model, for headings.
    """

    folder: Path
    recipe: Recipe
    predictor: Predictor
    dataset: Dataset
    split: str
    world: World
    label: str

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
    source: StrPath | Predictor,
    split: str,
    *,
    recipe: StrPath | Recipe | None,
    device: str | None,
    changes: Sequence[str],
) -> Opened:
    """Open a model and a split of its data.

    Args:
        source: a run folder, a weights file, a :class:`dcn.Run`, or a predictor (with a ``recipe``).
        split: see :func:`dcn.evaluate`.
        recipe: likewise.
        device: likewise; a predictor stays where it is.
        changes: ``key=value`` changes of the recipe.

    Raises:
        ValueError: as :func:`dcn.evaluate`, or the split has no annotations.
    """
    if isinstance(source, Predictor):
        settings, folder, predictor = recipe_beside_predictor(recipe, changes), Path(), source
        world, label = World(source.device), type(source.model).__name__
    else:
        origin, settings = find_run(source, recipe, changes)
        world = World(choose_device(device))
        ready = ready_model(
            read_model(origin.weights),
            settings.tta,
            optimize=True,
            precision="float32",
            compile=False,
            cuda_graph=False,
        )
        predictor = Predictor(ready, world.device, settings.tta, test_size(settings))
        folder = folder_of(origin)
        label = label_of(origin)
    dataset = spread(open_for(settings, split, predictor.model), settings.eval.images)
    if not getattr(dataset, "annotated", True):
        raise ValueError(f"{dataset.name}: expected annotations, got none; choose another split")
    return Opened(folder, settings, predictor, dataset, split, world, label)


def folder_of(origin: Source) -> Path:
    """Where files about a model go: its run, or the folder of its weights; for those of the package the working one."""
    if origin.run is not None:
        return origin.run
    return Path() if origin.weights in shipped_models().values() else origin.weights.parent


def label_of(origin: Source) -> str:
    """A short name of a model, for headings: of its run, or of its weights file."""
    return origin.weights.stem if origin.run is None else run_label(origin.run)


def run_label(folder: Path) -> str:
    """The last two parts of a run's folder: recipe and number."""
    whole = folder.absolute()
    return f"{whole.parent.name}/{whole.name}"


def image_names(dataset: Dataset) -> list[str]:
    """The file names of the images, or their numbers where no files stand behind them."""
    return [image_name(dataset, index) for index in range(len(dataset))]


def image_name(dataset: Dataset, index: int) -> str:
    """The file name of one image, or its number."""
    path = dataset.image_path(index)
    return f"image {index}" if path is None else path.name
