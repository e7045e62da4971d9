"""A model's name instead of a recipe: the settings of a fine-tuning are chosen from the data."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import torch

from dcn.data.dataset import Dataset
from dcn.data.splitting import target_of
from dcn.data.statistics import box_sizes
from dcn.engine.config import Recipe
from dcn.engine.distributed import World
from dcn.engine.parse import override, parse
from dcn.engine.recipe import recipe_names
from dcn.models import MODELS, is_segmentation
from dcn.runs.batch_size import AUTO, MOST, measured_batch_size
from dcn.runs.build import open_split, random_model, starting_files
from dcn.runs.check_hint import naming_the_check
from dcn.runs.sources import resolve_root
from dcn.structures import Target
from dcn.suggest import counted, suggest

LOGGER = logging.getLogger("dcn")

_SEEN_IMAGES = 24_000  # images that a training sees in all, as far as the epochs below allow
_EPOCHS = (12, 100)
_SHORT = (320, 800)
_LONG = 1333 / 800
_SMALL = 32  # pixels: a quarter of the objects may be smaller at the model's input
_BATCH = 4  # where memory cannot be measured
_STEPS = 1000  # a batch is small enough for so many steps


def is_model(name: str | PathLike[str]) -> bool:
    """Whether a text names a model of the package and no recipe."""
    return fspath(name) in MODELS and fspath(name) not in recipe_names()


def check_name(name: str | PathLike[str]) -> None:
    """Refuse a word that is neither a file, nor the name of a recipe, nor that of a model.

    Raises:
        ValueError: with near names of both.
    """
    text = fspath(name)
    if "/" in text or Path(text).suffix in (".yaml", ".yml") or text in recipe_names() or text in MODELS:
        return
    hint = suggest(text, {*recipe_names(), *MODELS}, "`dcn train --list` or `dcn models`")
    if Path(text).is_dir():
        hint = (
            f"a folder of data goes behind it, as data.root={text}; `dcn train --list` or `dcn models` lists the names"
        )
    raise ValueError(f"recipe: expected the name of a recipe or a model, or a .yaml file, got {text!r}; {hint}")


def finetuning(name: str, changes: Sequence[str], world: World) -> Recipe:
    """The recipe of a model for the data that the changes name; what the changes say is kept.

    Chosen are the image size (the usual size of the images, more where a quarter of the objects would be smaller than
    32 pixels), the number of epochs (24,000 images in all, 12 to 100 epochs), the batch size (what fits the memory, at
    most 16, and less where that would be fewer than 1000 steps), and what follows from them: warm-up, steps of the
    learning rate, evaluations.

    Args:
        name: of a detector or a segmentation model.
        changes: ``key=value`` words; one of them is ``data.root``.
        world: this process among the others; all of them must call it.

    Raises:
        ValueError: no data, data of the other task, or whatever is wrong with the changes.
    """
    recipe = _parsed(name, {}, changes)
    if recipe.data.root is None:
        raise ValueError(
            f"data.root: expected the folder of the data, got none; write dcn train {name} data.root=FOLDER"
        )
    dataset = open_split(recipe, "train", training=True, masks=False)
    with naming_the_check(recipe.data):
        settings = _settings(name, dataset)
    recipe = _parsed(name, settings, changes)
    if recipe.schedule.batch_size == AUTO:
        starting_files(recipe)  # what cannot be found is said before minutes of measuring
        changes = [word for word in changes if not word.startswith("schedule.batch_size=")]
        with naming_the_check(recipe.data):
            settings["schedule"]["batch_size"] = _batch_size(recipe, dataset, world)
        recipe = _parsed(name, settings, changes)
    timing = _timing(recipe, len(dataset))
    settings["schedule"] |= timing["schedule"]
    recipe = _parsed(name, {**settings, "eval": timing["eval"]}, changes)
    schedule, transforms = recipe.schedule, recipe.transforms
    shown = (
        f"{schedule.epochs:g} epoch{'' if schedule.epochs == 1 else 's'}"
        if schedule.epochs is not None
        else f"{schedule.steps} steps"
    )
    LOGGER.info(
        "%s: settings for %s: %s of batches of %d, short side %s, long side up to %d; recipe.yaml in the run "
        "folder has them all",
        name,
        counted(len(dataset), "image"),
        shown,
        schedule.images_per_step,
        ", ".join(map(str, transforms.short)),
        transforms.long,
    )
    return recipe


def _parsed(name: str, settings: dict[str, Any], changes: Sequence[str]) -> Recipe:
    content: dict[str, Any] = {
        "model": {"name": name},
        "data": {"format": "auto"},
        "schedule": {"batch_size": AUTO, "lr": 0.02, "lr_batch_size": 16, "clip_norm": 10.0},
        "eval": {"metric": "miou" if is_segmentation(name) else "coco"},
    }
    if is_segmentation(name):
        content["schedule"] |= {"weight_decay": 5e-4, "lr_multipliers": {"head.*": 2.0}}
    for section, values in (settings or {"schedule": {"epochs": _EPOCHS[0]}}).items():
        content.setdefault(section, {}).update(values)
    if any(word.startswith("schedule.steps=") for word in changes):
        content["schedule"]["epochs"] = None
    for word in changes:
        override(content, word)
    return resolve_root(parse(Recipe, content), None)


def _timing(recipe: Recipe, images: int) -> dict[str, Any]:
    """What follows from the length of the run: warm-up, steps of the learning rate, evaluations."""
    schedule = recipe.schedule
    total = schedule.total_steps(math.ceil(images / schedule.images_per_step))
    if schedule.epochs is not None:
        milestones, every = [schedule.epochs * 0.75, schedule.epochs * 0.92], max(schedule.epochs // 10, 1)
    else:  # a run of a few steps is evaluated at its end alone
        milestones = [max(1, round(total * share)) for share in (0.75, 0.92)]
        every = total if total <= 100 else total // 10
    warmup = {"steps": min(500, max(total // 10, 1)), "factor": 0.001, "kind": "linear"}
    return {"schedule": {"milestones": milestones, "warmup": warmup}, "eval": {"every": every}}


def _batch_size(recipe: Recipe, dataset: Dataset, world: World) -> int:
    """What fits the memory, and makes enough steps."""
    seen = (recipe.schedule.epochs or 0) * len(dataset)
    most = min(MOST, max(1, int(seen / _STEPS))) if seen else MOST
    count = measured_batch_size(recipe, random_model(recipe, tuple(dataset.classes)), dataset, world, most)
    unit = world.size * recipe.schedule.accumulate
    return max(_BATCH // unit, 1) * unit if count is None else count


def _settings(name: str, dataset: Dataset) -> dict[str, Any]:
    """What the data decides."""
    pixels = is_segmentation(name)
    if not len(dataset) or isinstance(target_of(dataset, 0), Target) == pixels:
        needed = "outlines or index PNGs for a segmentation model" if pixels else "boxes for a detector"
        raise ValueError(f"data: expected {needed}, got none in {dataset.name}; choose a model that fits the data")
    short = _short_side(dataset, boxes=not pixels)
    epochs = min(max(round(_SEEN_IMAGES / len(dataset)), _EPOCHS[0]), _EPOCHS[1])
    return {
        "transforms": {"short": [short], "long": math.ceil(short * _LONG)},
        "schedule": {"epochs": epochs},
    }


def _short_side(dataset: Dataset, *, boxes: bool) -> int:
    """The usual shorter side of the images in steps of 32 pixels, more where many objects would be small."""
    sides = torch.tensor([min(size) for size in dataset.sizes], dtype=torch.float32)
    needed = short = float(sides.median())
    if boxes:
        objects = box_sizes([dataset], max(int(short), 1), max(int(short * _LONG), 1)).sides
        small = float(objects.sort().values[(len(objects) - 1) // 4])
        needed = short * max(1.0, _SMALL / small)
    return int(min(max(math.ceil(needed / 32) * 32, _SHORT[0]), _SHORT[1]))
