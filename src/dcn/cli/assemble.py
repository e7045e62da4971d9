"""Where the parts meet: what a recipe names, built and put together."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dcn.api import make_predictor
from dcn.cli.label_maps import draw_map_validation, validate_maps
from dcn.data.batching import TrainingBatches, evaluation_loader, training_loader
from dcn.data.catalog import open_dataset
from dcn.data.catalog import options_of as options_of_format
from dcn.data.dataset import Dataset, Transform
from dcn.data.geometry import resize_image
from dcn.data.images import write_image
from dcn.data.transforms import Compose, RandomCrop, RandomFlip, RandomScale, Resize
from dcn.engine.config import Recipe, TransformsConfig
from dcn.engine.distributed import World
from dcn.engine.evaluate import evaluate
from dcn.engine.predict import Predictor
from dcn.engine.recipe import find_weights_file
from dcn.engine.train import Batches
from dcn.metrics import CocoAP, VocAP
from dcn.models import build, options_of
from dcn.models.checkpoints import load_backbone, load_state
from dcn.models.checkpoints.mmdet import rename
from dcn.models.checkpoints.reading import read_state
from dcn.structures import Sample, Target
from dcn.vis.detections import draw_detections

LOGGER = logging.getLogger("dcn")


@dataclass(frozen=True)
class ResizeImage:
    """Resize the image and leave the target in pixels of the file: what evaluation wants."""

    shorter: int
    longer: int

    def __call__(self, sample: Sample, generator: torch.Generator) -> Sample:
        """Resize the image of a sample; nothing here is random."""
        return Sample(resize_image(sample.image, self.shorter, self.longer)[0], sample.target)


@dataclass(frozen=True)
class Part:
    """Some images of a data set, in the order of ``indices``."""

    dataset: Dataset
    indices: list[int]

    @property
    def name(self) -> str:
        """The name of the whole set."""
        return self.dataset.name

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names."""
        return self.dataset.classes

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """``(height, width)`` of every image."""
        return [self.dataset.sizes[index] for index in self.indices]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Sample:
        return self.dataset[self.indices[index]]

    def image_path(self, index: int) -> Path | None:
        """The image file."""
        return self.dataset.image_path(self.indices[index])


def spread(dataset: Dataset, count: int | None) -> Dataset:
    """At most ``count`` images, spread evenly over the set."""
    if count is None or count >= len(dataset):
        return dataset
    return Part(dataset, [place * len(dataset) // count for place in range(count)])


def open_split(recipe: Recipe, split: str, *, training: bool = False, masks: bool | None = None) -> Dataset:
    """A split of the recipe's data; for training, without images that have nothing to train on.

    Masks are decoded if the network finds masks, unless ``data.options`` says otherwise. ``masks`` says whether it does
    where the network is not the recipe's own.

    Raises:
        ValueError: the folder is missing, or the classes found are not those of the recipe.
    """
    config = recipe.data
    if config.root is not None and not Path(config.root).is_dir():
        raise ValueError(
            f"data.root: no folder {config.root!r} (looked for from {Path.cwd()}); "
            "give the folder of the data as data.root=FOLDER"
        )
    known = options_of_format(config.format)
    options = dict(config.options)
    if training and "keep_empty" in known:
        options.setdefault("keep_empty", False)
    if "masks" in known:
        own = recipe.model.options.get("masks", options_of(recipe.model.name).get("masks", False))
        options.setdefault("masks", bool(own) if masks is None else masks)
    if config.classes is not None and "classes" in known:
        options.setdefault("classes", list(config.classes))
    dataset = open_dataset(config.format, config.root, split, **options)
    if config.classes is not None and tuple(dataset.classes) != config.classes:
        raise ValueError(f"data.classes: {dataset.name} has {list(dataset.classes)}, not {list(config.classes)}")
    return dataset


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


def build_model(recipe: Recipe, classes: tuple[str, ...]) -> nn.Module:
    """The recipe's network with the weights it starts from; the random ones follow ``recipe.seed``."""
    torch.manual_seed(recipe.seed)
    try:
        model = build(recipe.model.name, classes, **model_options(recipe))
    except (ValueError, TypeError) as error:
        raise ValueError(f"model: {error}") from error
    if recipe.model.backbone_weights is not None:
        load_backbone(model, find_weights_file(recipe.model.backbone_weights))
    if recipe.model.weights is not None:
        start_from(model, find_weights_file(recipe.model.weights))
    return model


def start_from(model: nn.Module, path: str | Path) -> list[str]:
    """Load a whole network's weights; layers whose shape depends on the classes keep their values where it differs.

    Returns:
        Names of the parameters that were not loaded; they are logged too.

    Raises:
        ValueError: names are missing or too many, that is, the file is of another network.
    """
    own = model.state_dict()
    state = rename(read_state(path).tensors)
    other = {name for name, value in state.items() if name in own and own[name].shape != value.shape}
    fitting = {name: value for name, value in state.items() if name not in other}
    kept = load_state(model, fitting, str(path), optional=other.__contains__)
    if kept:
        LOGGER.info("%s: of another shape, start afresh: %s", path, ", ".join(kept))
    return kept


def training_batches(recipe: Recipe, dataset: Dataset, world: World) -> tuple[Batches, int]:
    """The stream of training samples as a function of the first step, and the updates of an epoch."""
    total = recipe.schedule.batch_size
    if total % (world.size * recipe.schedule.accumulate):
        raise ValueError(
            f"schedule.batch_size: {total} images cannot be shared by {world.size} processes "
            f"in {recipe.schedule.accumulate} parts; choose a multiple"
        )
    batches = TrainingBatches(dataset.sizes, total // world.size, recipe.seed, rank=world.rank, world=world.size)
    transform = training_transform(recipe.transforms)

    def stream(start: int) -> Iterator[list[Sample]]:
        return training_loader(dataset, batches, transform, start=start, workers=recipe.workers)

    return stream, batches.steps_per_epoch


def training_transform(sizes: TransformsConfig) -> Compose:
    """What happens to a training image, in this order: size, random scale, crop, flip."""
    steps: list[Transform] = [Resize(sizes.short, sizes.long)]
    if sizes.scale is not None:
        steps.append(RandomScale(*sizes.scale))
    if sizes.crop is not None:
        # A smaller image is not filled up: the network pads its batch with the mean and leaves that out of the loss.
        steps.append(RandomCrop(sizes.crop))
    return Compose((*steps, RandomFlip(sizes.flip)))


def evaluation_batches(
    recipe: Recipe, dataset: Dataset, size: tuple[int, int] | None, world: World
) -> Iterator[list[Sample]]:
    """This process's share of a data set, images resized (``None``: not) and targets in pixels of the files."""
    transform = None if size is None else ResizeImage(*size)
    return evaluation_loader(
        dataset, recipe.eval.batch_size, transform, workers=recipe.workers, rank=world.rank, world=world.size
    )


def make_metric(recipe: Recipe, dataset: Dataset, model: nn.Module) -> CocoAP | VocAP:
    """The recipe's metric; masks are judged where the network finds them and the data has them."""
    if recipe.eval.metric == "voc":
        return VocAP(dataset.classes, method=recipe.eval.voc_method)
    return CocoAP(dataset.classes, masks=finds_masks(model) and _has_masks(dataset))


def finds_masks(model: nn.Module) -> bool:
    """Whether a network has a mask head."""
    return any("mask_head" in name.split(".") for name, _ in model.named_modules())


def _has_masks(dataset: Dataset) -> bool:
    target = dataset[0].target if len(dataset) else None
    return isinstance(target, Target) and target.masks is not None


def validation(
    recipe: Recipe, dataset: Dataset, model: nn.Module, world: World, folder: Path
) -> Callable[[int], dict[str, float]]:
    """What judges the model while training: figures, and pictures in ``folder/pictures``."""
    judged = spread(dataset, recipe.eval.images)
    size = test_size(recipe)

    def judge_maps(step: int) -> dict[str, float]:
        batches = evaluation_batches(recipe, judged, size, world)
        figures = validate_maps(recipe, model, batches, dataset.classes, world)
        if world.is_main and recipe.eval.pictures:
            shown = spread(dataset, recipe.eval.pictures)
            draw_map_validation(recipe, model, shown, folder / "pictures", world)
        return figures

    def judge(step: int) -> dict[str, float]:
        metric = make_metric(recipe, dataset, model)
        batches = evaluation_batches(recipe, judged, size, world)
        figures = evaluate(model, batches, metric, world, recipe.amp)
        if world.is_main and recipe.eval.pictures:
            draw_validation(
                make_predictor(model, world.device), spread(dataset, recipe.eval.pictures), folder / "pictures"
            )
        return figures

    return judge_maps if recipe.eval.metric == "miou" else judge


def draw_validation(network: Predictor, dataset: Dataset, folder: Path, threshold: float = 0.3) -> None:
    """Draw what a network finds in every image of a data set; files are replaced at every evaluation."""
    folder.mkdir(exist_ok=True)
    for index in range(len(dataset)):
        image = dataset[index].image
        found = network.predict(image, score_threshold=threshold)
        path = dataset.image_path(index)
        name = path.stem if path is not None else f"{index:04d}"
        drawn = draw_detections(image, found.boxes, found.labels, found.scores, found.masks, network.classes)
        write_image(folder / f"{name}.jpg", drawn)
