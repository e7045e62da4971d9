"""What a recipe names, built: data, batches and the model."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dcn.data.batching import TrainingBatches, evaluation_loader, training_loader
from dcn.data.catalog import find_format, open_dataset
from dcn.data.catalog import options_of as options_of_format
from dcn.data.dataset import Dataset, Transform
from dcn.data.geometry import resize_image
from dcn.data.transforms import (
    Compose,
    RandomColor,
    RandomCrop,
    RandomFlip,
    RandomQuarterTurn,
    RandomRotation,
    RandomScale,
    Resize,
)
from dcn.engine.config import Recipe, TransformsConfig
from dcn.engine.distributed import World
from dcn.engine.train import Batches
from dcn.models import Model, build, is_segmentation, options_of
from dcn.models.checkpoints import load_backbone, load_state
from dcn.models.checkpoints.detectron2 import is_detectron2
from dcn.models.checkpoints.mmdet import rename
from dcn.models.checkpoints.reading import StateFile, read_state
from dcn.nn import FrozenBatchNorm2d
from dcn.runs.check_hint import checked, naming_the_check
from dcn.runs.weights import find_weights_file
from dcn.structures import Sample

LOGGER = logging.getLogger("dcn")
ROLES = ("train", "val", "test")


@dataclass(frozen=True)
class ResizeImage:
    """Resize the image and leave the target in pixels of the file, as evaluation needs it."""

    shorter: int
    longer: int

    def __call__(self, sample: Sample, generator: torch.Generator) -> Sample:
        """Resize the image of a sample; nothing is random."""
        return Sample(resize_image(sample.image, self.shorter, self.longer)[0], sample.target)


def split_name(recipe: Recipe, split: str) -> str:
    """The data set's name of a split that the recipe may call ``train``, ``val`` or ``test``."""
    return str(getattr(recipe.data, split)) if split in ROLES else split


def open_split(
    recipe: Recipe, split: str, *, training: bool = False, masks: bool | None = None, semantic: bool | None = None
) -> Dataset:
    """A split of the recipe's data.

    Args:
        recipe: names format, folder and options. An option may have a value for each split, as a mapping with keys
            among ``train``, ``val`` and ``test`` (``annotations: {train: a.json, val: b.json}``).
        split: ``train``, ``val`` or ``test`` of the recipe, or the data set's own name of a split.
        training: leave out images without anything to train on.
        masks: decode masks; ``None``: as the recipe's model needs them, unless ``data.options`` says otherwise.
        semantic: make segmentation masks of outlines; ``None``: if the recipe's model is one of segmentation.

    Raises:
        ValueError: the folder is missing, or the classes are not those of the recipe.
    """
    config = recipe.data
    if config.root is not None and not Path(config.root).expanduser().is_dir():
        raise ValueError(
            f"data.root: expected a folder, got {config.root!r}, which does not exist (looked for from {Path.cwd()}); "
            "give the folder of the data as data.root=FOLDER"
        )
    known = options_of_format(config.format)
    options = {name: _of_split(name, value, split) for name, value in config.options.items()}
    if find_format(config.format).outlines:
        options.setdefault("semantic", is_segmentation(recipe.model.name) if semantic is None else semantic)
    if training and "keep_empty" in known and not options.get("semantic"):
        options.setdefault("keep_empty", False)
    for name, value in (("broken", config.broken), ("outside", config.outside)):
        if name in known:
            options.setdefault(name, value)
    if "masks" in known:
        own = recipe.model.options.get("masks", options_of(recipe.model.name).get("masks", False))
        options.setdefault("masks", bool(own) if masks is None else masks)
    if config.classes is not None and "classes" in known:
        options.setdefault("classes", list(config.classes))
    root = None if config.root is None else Path(config.root).expanduser()
    with naming_the_check(config):
        dataset = open_dataset(config.format, root, split_name(recipe, split), **options)
    if config.classes is not None and tuple(dataset.classes) != config.classes:
        raise ValueError(
            f"data.classes: expected the classes of {dataset.name}, {list(dataset.classes)}, got {list(config.classes)}"
        )
    return dataset


def _of_split(name: str, value: Any, split: str) -> Any:
    """The value of an option for one split."""
    if not (isinstance(value, Mapping) and value and set(value) <= set(ROLES)):
        return value
    if split not in value:
        raise ValueError(f"data.options.{name}: expected a value for the split {split!r}, got {dict(value)}")
    return value[split]


def model_options(recipe: Recipe) -> dict[str, Any]:
    """The builder's options: those of the recipe, and the test size of its transforms."""
    options = dict(recipe.model.options)
    if "test_size" in options_of(recipe.model.name):
        options.setdefault("test_size", recipe.transforms.test_size)
    return options


def test_size(recipe: Recipe) -> tuple[int, int]:
    """``(shorter side, largest longer side)`` of images in evaluation."""
    short, long = recipe.model.options.get("test_size", recipe.transforms.test_size)
    return int(short), int(long)


RANDOM = "random"
"""``model.backbone_weights=random``: train the whole backbone from random weights."""


def build_model(recipe: Recipe, classes: tuple[str, ...]) -> Model:
    """The recipe's model with the weights it starts from; random weights follow ``recipe.seed``.

    Raises:
        ValueError: options that do not fit; weights that cannot be found or do not fit; a backbone that is frozen,
            wholly or in part, and has no weights to start from.
    """
    start, model = recipe.model, random_model(recipe, classes)
    if start.backbone_weights == RANDOM:
        LOGGER.info(
            "model.backbone_weights=random: all stages and norms of the backbone are trained from random weights"
        )
    whole, backbone = starting_files(recipe)
    if backbone is not None:
        load_backbone(model, backbone)
    if whole is not None:
        start_from(model, whole)
    return model


def starting_files(recipe: Recipe) -> tuple[Path | None, Path | None]:
    """The weights that a model starts from: of all of it, or else of its backbone.

    Raises:
        ValueError: they cannot be found.
    """
    start = recipe.model
    if start.weights is not None:
        return find_weights_file(start.weights, "model.weights"), None
    if start.backbone_weights is None or start.backbone_weights == RANDOM:
        return None, None
    return None, find_weights_file(start.backbone_weights, "model.backbone_weights")


def random_model(recipe: Recipe, classes: tuple[str, ...]) -> Model:
    """The recipe's model with random weights, which follow ``recipe.seed``; as :func:`build_model` without its weights.

    Raises:
        ValueError: options that do not fit; no weights are named for a backbone that is frozen.
    """
    start = recipe.model
    options = model_options(recipe)
    if start.backbone_weights == RANDOM:
        options |= _trainable(start.name, options)
    torch.manual_seed(recipe.seed)
    try:
        model = build(start.name, classes, **options)
    except (ValueError, TypeError) as error:
        raise ValueError(f"model: {error}") from error
    if start.weights is None and start.backbone_weights is None:
        _refuse_random_frozen(model)
    return model


def _trainable(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a model that train every stage and the statistics of every norm of its backbone."""
    options: dict[str, Any] = {"backbone": {**given["backbone"], "norm": "train"}} if "backbone" in given else {}
    if not options:
        options = {key: value for key, value in (("frozen_stages", 0), ("norm", "train")) if key in options_of(name)}
    return options


def _refuse_random_frozen(model: nn.Module) -> None:
    """Refuse a model that would keep random values: frozen parameters, or norms with fixed statistics."""
    backbone: Any = getattr(model, "backbone", None)
    if backbone is None:
        return
    frozen = sum(parameter.numel() for parameter in backbone.parameters() if not parameter.requires_grad)
    model.train()
    fixed = sum(_has_fixed_statistics(module) for module in backbone.modules())
    if not frozen and not fixed:
        return
    reasons = [f"{frozen:,} frozen parameters"] if frozen else []
    reasons += [f"{fixed} norms with fixed statistics"] if fixed else []
    raise ValueError(
        f"model.backbone_weights: expected weights for the backbone, which has {' and '.join(reasons)}, got none. "
        "Name a file or published weights, such as model.backbone_weights=resnet50 (`dcn weights` lists them), or "
        "train all of it from random weights with model.backbone_weights=random"
    )


def _has_fixed_statistics(module: nn.Module) -> bool:
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        return not module.training
    return isinstance(module, FrozenBatchNorm2d)


_OFFSET_BRANCH = re.compile(r"\.(conv_offset|offset_maps|offset_fc|offset_fc\.\d|mask_fc\.\d)\.(weight|bias)$")


def start_from(model: nn.Module, path: str | Path) -> list[str]:
    """Load the weights of a whole model; layers whose shape depends on the classes stay as they are where it differs.

    So do offset branches that the file does not have: a deformable model may start from the weights of the same model
    without offsets, which it equals as long as its offsets are zero.

    Returns:
        Names of the parameters that were re-initialised; they are logged too.

    Raises:
        ValueError: names are missing or unknown, that is, the file is of another model.
    """
    own, file = model.state_dict(), read_state(path)
    if is_detectron2(file.tensors):
        raise ValueError(
            f"{path}: expected weights under the names of this package or of mmdetection, got those of detectron2; "
            f"convert them with `dcn import {Path(path).name} -o FILE`"
        )
    _check_facts(model, file, path)
    state = rename(file.tensors_for(model))
    other = {name for name, value in state.items() if name in own and own[name].shape != value.shape}
    other |= {name for name in own if name not in state and _OFFSET_BRANCH.search(name)}
    fitting = {name: value for name, value in state.items() if name not in other}
    kept = load_state(model, fitting, str(path), optional=other.__contains__)
    if kept:
        LOGGER.info("%s: other shapes or not in it, re-initialised: %s", path, ", ".join(kept))
    return kept


def _check_facts(model: nn.Module, file: StateFile, path: str | Path) -> None:
    """Refuse weights that were trained on images normalised in another way, or with strides in other layers."""
    stated = file.meta.get("options")
    backbone = getattr(model, "backbone", None)
    built = {"preprocess": getattr(getattr(model, "preprocess", None), "name", None)}
    built |= {name: getattr(backbone, name, None) for name in ("style", "pool")}
    for name, value in built.items():
        expected = stated.get(name) if isinstance(stated, Mapping) else None
        if None not in (value, expected) and value != expected:
            raise ValueError(
                f"model.options.{name}: expected {expected!r}, with which {path} was trained, got {value!r}; "
                f"write model.options.{name}={expected}"
            )


def training_batches(recipe: Recipe, dataset: Dataset, world: World) -> tuple[Batches, int]:
    """The stream of training samples as a function of the first step, and the steps of an epoch."""
    total = recipe.schedule.images_per_step
    if total % (world.size * recipe.schedule.accumulate):
        raise ValueError(
            f"schedule.batch_size: expected a multiple of {world.size * recipe.schedule.accumulate} ({world.size} "
            f"processes in {recipe.schedule.accumulate} parts), got {total}"
        )
    with naming_the_check(recipe.data):
        sizes = dataset.sizes
    batches = TrainingBatches(sizes, total // world.size, recipe.seed, rank=world.rank, world=world.size)
    transform = training_transform(recipe.transforms)

    def stream(start: int) -> Iterator[list[Sample]]:
        loaded = training_loader(dataset, batches, transform, start=start, workers=recipe.workers)
        return checked(loaded, recipe.data)

    return stream, batches.steps_per_epoch


def training_transform(sizes: TransformsConfig) -> Compose:
    """The steps in their order: resize, random scale, quarter turn, rotation, crop, color, flip."""
    steps: list[Transform] = [Resize(sizes.short, sizes.long)]
    if sizes.scale is not None:
        steps.append(RandomScale(*sizes.scale))
    if sizes.quarter_turns:
        steps.append(RandomQuarterTurn())
    if sizes.rotation:
        steps.append(RandomRotation(sizes.rotation))
    if sizes.crop is not None:
        # A smaller image is not padded here: the model pads its batch with the mean and leaves that out of the loss.
        steps.append(RandomCrop(sizes.crop))
    if not sizes.color.is_default:
        color = sizes.color
        steps.append(RandomColor(color.brightness, color.contrast, color.saturation, color.hue))
    return Compose((*steps, RandomFlip(sizes.flip)))


def evaluation_batches(
    recipe: Recipe, dataset: Dataset, size: tuple[int, int] | None, world: World
) -> Iterator[list[Sample]]:
    """This process's share of a data set: images resized (``None``: not), targets in pixels of the files."""
    transform = None if size is None else ResizeImage(*size)
    loaded = evaluation_loader(
        dataset, recipe.eval.batch_size, transform, workers=recipe.workers, rank=world.rank, world=world.size
    )
    return checked(loaded, recipe.data)
