"""What the verbs do differently for networks that give every pixel a class."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from dcn.api import make_segmenter
from dcn.class_names import CITYSCAPES_CLASSES
from dcn.data.dataset import Dataset
from dcn.data.datasets.cityscapes import result_path, to_label_ids
from dcn.data.images import write_image
from dcn.engine.config import Recipe
from dcn.engine.distributed import World
from dcn.engine.predict import Resize
from dcn.engine.segment import Segmenter, evaluate_maps, segment_samples
from dcn.metrics import MeanIoU
from dcn.models.segmentation import DeepLab
from dcn.structures import Sample, SegmentationMap
from dcn.tta import TTA
from dcn.vis.masks import draw_segmentation, write_index_png
from dcn.vis.palette import Color, cityscapes_palette, voc_palette

Pair = tuple[SegmentationMap, SegmentationMap]
"""A prediction and its annotation."""


def palette_of(classes: Sequence[str]) -> list[Color]:
    """The colours of Cityscapes for its classes, of Pascal VOC for all others."""
    return cityscapes_palette() if tuple(classes) == CITYSCAPES_CLASSES else voc_palette()


def as_segmenter(model: nn.Module) -> DeepLab:
    """The model, if it gives label maps.

    Raises:
        ValueError: it is a detector.
    """
    if not isinstance(model, DeepLab):
        raise ValueError(f"eval.metric: miou judges label maps, but {type(model).__name__} finds objects")
    return model


def make_map_metric(recipe: Recipe, classes: Sequence[str]) -> MeanIoU:
    """The recipe's metric for label maps."""
    return MeanIoU(len(classes), absent=recipe.eval.absent, classes=classes)


def predicted(recipe: Recipe, model: nn.Module, batches: Iterable[list[Sample]], world: World) -> Iterator[Pair]:
    """Predictions for samples whose image is resized and whose target is not."""
    return segment_samples(as_segmenter(model), batches, world.device, recipe.tta, recipe.amp)


def validate_maps(
    recipe: Recipe, model: nn.Module, batches: Iterable[list[Sample]], classes: Sequence[str], world: World
) -> dict[str, float]:
    """Figures of a network for label maps."""
    pairs = predicted(recipe, model, batches, world)
    return evaluate_maps(pairs, make_map_metric(recipe, classes), world, recipe.eval.compare_at)


def draw_map_validation(recipe: Recipe, model: nn.Module, dataset: Dataset, folder: Path, world: World) -> None:
    """Draw the predicted map into every image of a data set; files are replaced at every evaluation."""
    network = make_segmenter(as_segmenter(model), world.device)
    folder.mkdir(exist_ok=True)
    for index in range(len(dataset)):
        image, path = dataset[index].image, dataset.image_path(index)
        labels = network.predict(image, config=recipe.tta).labels
        drawn = draw_segmentation(image, labels, palette_of(network.classes), network.classes)
        write_image(folder / f"{path.stem if path is not None else f'{index:04d}'}.jpg", drawn)


def judge_maps(
    recipe: Recipe, pairs: Iterable[Pair], dataset: Dataset, folder: Path, split: str, save: bool
) -> dict[str, float]:
    """Figures over a whole split; writes the confusion matrix, and with ``save`` the predicted maps.

    Maps are written at the size of the annotation: index PNGs with palette in ``<split>_maps``, for the classes of
    Cityscapes also the files that its server takes in ``<split>_server``.
    """
    metric = make_map_metric(recipe, dataset.classes)
    folder.mkdir(parents=True, exist_ok=True)

    def seen() -> Iterator[Pair]:
        for found, target in pairs:
            if save:
                full = found.resized((target.labels.shape[0], target.labels.shape[1]))
                _write_map(folder, split, full.labels, str(target.image_id), dataset.classes)
            yield found, target

    figures = evaluate_maps(seen(), metric, World(torch.device("cpu")), recipe.eval.compare_at)
    write_confusion(folder / f"{split}_confusion.csv", metric)
    return figures


def write_confusion(path: Path, metric: MeanIoU) -> None:
    """Pixel counts as a table: a row for each annotated class, a column for each predicted one."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["annotated \\ predicted", *metric.classes])
        for name, row in zip(metric.classes, metric.confusion.tolist(), strict=True):
            writer.writerow([name, *row])


def _write_map(folder: Path, split: str, labels: Tensor, image_id: str, classes: Sequence[str]) -> None:
    palette = palette_of(classes)
    path = folder / f"{split}_maps" / f"{image_id}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_index_png(path, labels, palette)
    if tuple(classes) == CITYSCAPES_CLASSES:
        path = result_path(folder / f"{split}_server", image_id)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_index_png(path, to_label_ids(labels), [(value, value, value) for value in range(256)])


def predict_maps(
    network: Segmenter,
    opened: Iterable[tuple[Path, Tensor]],
    folder: Path,
    resize: Resize,
    config: TTA,
    pictures: bool,
) -> int:
    """Write ``<stem>.png``, the map with palette, and with ``pictures`` ``<stem>.jpg``, the image with the map over it.

    Images of the same name from different folders get a number. Returns the number of images.
    """
    palette, used = palette_of(network.classes), set[str]()
    for path, image in opened:
        labels = network.predict(image, resize, config).labels
        stem = path.stem if path.stem not in used else f"{path.stem}_{len(used)}"
        used.add(stem)
        write_index_png(folder / f"{stem}.png", labels, palette)
        if pictures:
            write_image(folder / f"{stem}.jpg", draw_segmentation(image, labels, palette, network.classes))
    return len(used)
