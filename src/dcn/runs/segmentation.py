"""The task segmentation: a class for every pixel."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dcn.class_names import CITYSCAPES_CLASSES
from dcn.data.dataset import Dataset
from dcn.data.datasets.cityscapes import result_path, to_label_ids
from dcn.engine.config import EvalConfig
from dcn.formats.file_names import SafeNames
from dcn.formats.images import write_image
from dcn.metrics import MeanIoU
from dcn.metrics.segmentation import write_confusion
from dcn.models.segmentation.inference import segment
from dcn.runs.view import Size, View
from dcn.structures import Sample, SegmentationMap
from dcn.suggest import counted
from dcn.tta import TTA
from dcn.vis.masks import draw_segmentation, write_index_png
from dcn.vis.palette import Color, class_palette, drawing_palette

_OTHER_TASK = ("suppression", "iou", "sigma", "box_voting", "class_thresholds", "max_per_image")


class SegmentationTask:
    """What training, evaluation and prediction do for segmentation models; see :class:`dcn.runs.tasks.Task`."""

    name = "segmentation"
    default_score: float | None = None
    stream = "segmentation.jsonl"

    def check_tta(self, tta: TTA, classes: Sequence[str]) -> None:
        """Refuse options of detectors."""
        for option in _OTHER_TASK:
            if getattr(tta, option) != getattr(TTA(), option):
                raise ValueError(
                    f"tta: expected options of segmentation models, got {option!r}, which is one of detectors"
                )

    def check_score(self, min_score: float | None) -> None:
        """Refuse a score threshold."""
        if min_score is not None:
            raise ValueError(
                f"min_score: expected None for a segmentation model, which has no scores, got {min_score}; leave it out"
            )

    def validation_tta(self, tta: TTA) -> TTA:
        """One pass; windows stay, because they bound the memory."""
        return TTA(window=tta.window, overlap=tta.overlap)

    def view(self, model: nn.Module, tta: TTA, size: Size | None) -> View:
        """Images are resized to ``size``; scales, flips and windows are those of ``tta``."""
        return View(size, partial(_segment, model, tta))

    def make_metric(self, config: EvalConfig, model: nn.Module, dataset: Dataset) -> MeanIoU:
        """Mean IoU."""
        if config.metric == "voc":
            raise ValueError("eval.metric: expected miou for a segmentation model, got voc")
        return MeanIoU(len(dataset.classes), absent=config.absent, classes=dataset.classes)

    def annotations(self, samples: Sequence[Sample]) -> list[SegmentationMap]:
        """The targets of a batch; all of them must be segmentation maps."""
        return [_target(sample) for sample in samples]

    def output_sizes(self, targets: Sequence[SegmentationMap]) -> None:
        """Predictions keep the size that the model saw; ``eval.compare_at`` says where they are compared."""

    def update(
        self,
        metric: MeanIoU,
        predictions: Sequence[SegmentationMap],
        targets: Sequence[SegmentationMap],
        config: EvalConfig,
    ) -> None:
        """Add a batch to the metric, at the size that the recipe compares at."""
        for prediction, target in zip(predictions, targets, strict=True):
            labels, annotation = comparable(prediction, target, config.compare_at)
            metric.update([labels], [annotation])

    def draw(self, image: Tensor, prediction: SegmentationMap, classes: Sequence[str]) -> Tensor:
        """The image with the classes as colours and a legend."""
        labels = prediction.resized((image.shape[1], image.shape[2])).labels
        return draw_segmentation(image, labels, drawing_palette(classes, prediction.colors), classes)

    def draw_target(self, image: Tensor, target: SegmentationMap, classes: Sequence[str]) -> Tensor:
        """The image with the annotated classes as colours and a legend."""
        return draw_segmentation(image, target.labels, drawing_palette(classes, target.colors), classes)

    def result_writer(self, folder: Path, split: str, dataset: Dataset) -> _ResultWriter:
        """Writes the maps as index PNGs at the size of the annotation."""
        return _ResultWriter(folder, split, dataset.classes)

    def write_details(self, folder: Path, split: str, metric: MeanIoU) -> None:
        """Write ``<split>_confusion.csv``: a row for each annotated class, a column for each predicted one."""
        write_confusion(folder / f"{split}_confusion.csv", metric)

    def record(self, prediction: SegmentationMap, classes: Sequence[str]) -> dict[str, Any]:
        """``{"pixels": {class: count}}`` of the classes that occur."""
        counts = torch.bincount(prediction.labels.flatten(), minlength=len(classes)).tolist()
        return {"pixels": {name: count for name, count in zip(classes, counts, strict=False) if count}}

    def suffixes(self, pictures: bool) -> tuple[str, ...]:
        """The index PNG, and a picture with ``pictures``."""
        return (".png", ".jpg") if pictures else (".png",)

    def files(
        self, prediction: SegmentationMap, image: Tensor, classes: Sequence[str], pictures: bool
    ) -> dict[str, Callable[[Path], None]]:
        """Writers of the files of one image, by suffix."""
        palette = class_palette(classes, prediction.colors)
        writers: dict[str, Callable[[Path], None]] = {
            ".png": lambda path: write_index_png(path, prediction.labels, palette)
        }
        if pictures:
            writers[".jpg"] = lambda path: write_image(path, self.draw(image, prediction, classes))
        return writers

    def summaries(self, records: Sequence[dict[str, Any]], classes: Sequence[str]) -> dict[str, str]:
        """The index PNGs are complete: there is no file about all images."""
        return {}

    def conclusion(self, records: Sequence[dict[str, Any]]) -> str:
        """The number of maps, in words."""
        return f"segmentation maps of {counted(len(records), 'image')}"


class _ResultWriter:
    """Writes index PNGs as they come; for the classes of Cityscapes also the files that its server takes."""

    def __init__(self, folder: Path, split: str, classes: Sequence[str]) -> None:
        self.folder, self.split, self.classes = folder, split, tuple(classes)
        self._name = SafeNames()

    def add(self, predictions: Sequence[SegmentationMap], targets: Sequence[SegmentationMap]) -> None:
        """Write the maps of a batch."""
        for prediction, target in zip(predictions, targets, strict=True):
            height, width = target.labels.shape
            labels = prediction.resized((height, width)).labels
            name = self._name(target.image_id)
            palette = class_palette(self.classes, target.colors)
            _write(self.folder / f"{self.split}_maps" / f"{name}.png", labels, palette)
            if self.classes == CITYSCAPES_CLASSES:
                grey: list[Color] = [(value, value, value) for value in range(256)]
                _write(result_path(self.folder / f"{self.split}_server", name), to_label_ids(labels), grey)

    def close(self) -> None:
        """Nothing is left to write."""


def _write(path: Path, labels: Tensor, palette: Sequence[Color]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_index_png(path, labels, palette)


def comparable(prediction: SegmentationMap, target: SegmentationMap, compare_at: str) -> tuple[Tensor, Tensor]:
    """Prediction and annotation ``[H, W]`` at the size of the one or the other, nearest neighbour.

    Args:
        prediction: at the size that the model saw.
        target: at its own size.
        compare_at: ``annotation`` resizes the prediction (Cityscapes), ``prediction`` the annotation (the original code
            for Pascal VOC).
    """
    if compare_at == "annotation":
        return prediction.resized((target.labels.shape[0], target.labels.shape[1])).labels, target.labels
    return prediction.labels, target.resized((prediction.labels.shape[0], prediction.labels.shape[1])).labels


@torch.no_grad()
def _segment(
    model: Any,
    tta: TTA,
    images: Sequence[Tensor],
    output_sizes: Sequence[Size] | None,
    min_score: float | None,
) -> list[SegmentationMap]:
    """One image after another, so that memory does not grow with the batch."""
    colors = getattr(model, "colors", None)
    maps = [SegmentationMap(segment(model, image, tta).cpu(), colors=colors) for image in images]
    if output_sizes is None:
        return maps
    return [one.resized(size) for one, size in zip(maps, output_sizes, strict=True)]


def _target(sample: Sample) -> SegmentationMap:
    if not isinstance(sample.target, SegmentationMap):
        raise ValueError(
            f"target: a segmentation model is trained and evaluated on segmentation maps, got a "
            f"{type(sample.target).__name__}; choose another data.format or data.options"
        )
    return sample.target
