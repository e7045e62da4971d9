"""The task detection: boxes with class and score, and masks where the model has them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dcn import checks
from dcn.data.dataset import Dataset
from dcn.data.geometry import resize_image
from dcn.engine.config import EvalConfig
from dcn.formats.coco_writer import coco_rows
from dcn.formats.images import write_image
from dcn.metrics import CocoAP, VocAP, write_coco_results, write_voc_results
from dcn.models.detection.tta import TTADetector
from dcn.runs.view import Size, View
from dcn.structures import Detections, Sample, Target
from dcn.suggest import counted, suggest
from dcn.tta import TTA
from dcn.vis.detections import draw_detections

_OTHER_TASK = ("window", "overlap")
_ABOUT_IMAGE = ("file_name", "frame", "time", "height", "width")


class DetectionTask:
    """What training, evaluation and prediction do for detectors; see :class:`dcn.runs.tasks.Task`."""

    name = "detection"
    default_score = 0.5
    stream = "detections.jsonl"

    def check_tta(self, tta: TTA, classes: Sequence[str]) -> None:
        """Refuse options of segmentation, and thresholds of classes that the model does not know."""
        for option in _OTHER_TASK:
            if getattr(tta, option) != getattr(TTA(), option):
                raise ValueError(
                    f"tta: expected options of detectors, got {option!r}, which is one of segmentation models"
                )
        for name in tta.class_thresholds:
            if name not in classes:
                raise ValueError(
                    f"tta.class_thresholds: expected classes of the model, got {name!r}; {suggest(name, classes)}"
                )

    def check_score(self, min_score: float | None) -> None:
        """Refuse a score threshold outside of ``[0, 1]``."""
        if min_score is not None and not 0 <= checks.number("min_score", min_score) <= 1:
            raise ValueError(f"min_score: expected a number in [0, 1], got {min_score}")

    def validation_tta(self, tta: TTA) -> TTA:
        """One pass, with the model's own selection."""
        return TTA()

    def view(self, model: Any, tta: TTA, size: Size | None) -> View:
        """One pass at ``size``, or the passes of ``tta``, which resize images themselves."""
        if tta.is_default:
            return View(size, partial(_detect, model))
        if size is None:
            raise ValueError("resize: with test-time options images are resized to a size, got None; set tta.scales")
        return View(None, partial(_detect, TTADetector(model, tta, _resize, size).eval()))

    def make_metric(self, config: EvalConfig, model: nn.Module, dataset: Dataset) -> CocoAP | VocAP:
        """AP by the rules of COCO or of Pascal VOC; masks are evaluated where the model and the data have them."""
        if config.metric == "voc":
            return VocAP(dataset.classes, method=config.voc_method)
        if config.metric == "miou":
            raise ValueError("eval.metric: expected coco or voc for a detector, got miou")
        return CocoAP(dataset.classes, masks=bool(model.has_masks) and _has_masks(dataset))

    def annotations(self, samples: Sequence[Sample]) -> list[Target]:
        """The targets of a batch; all of them must be boxes."""
        return [_target(sample) for sample in samples]

    def output_sizes(self, targets: Sequence[Target]) -> list[Size]:
        """Detections are compared in pixels of the original images."""
        return [target.size for target in targets]

    def update(
        self,
        metric: CocoAP | VocAP,
        predictions: Sequence[Detections],
        targets: Sequence[Target],
        config: EvalConfig,
    ) -> None:
        """Add a batch to the metric."""
        metric.update(list(predictions), list(targets))

    def draw(self, image: Tensor, prediction: Detections, classes: Sequence[str]) -> Tensor:
        """The image with boxes, masks, class names and scores."""
        one = prediction
        return draw_detections(image, one.boxes, one.labels, one.scores, one.masks, classes)

    def draw_target(self, image: Tensor, target: Target, classes: Sequence[str]) -> Tensor:
        """The image with the annotated boxes, masks and class names."""
        return draw_detections(image, target.boxes, target.labels, masks=target.masks, classes=classes)

    def result_writer(self, folder: Path, split: str, dataset: Dataset) -> _ResultWriter:
        """Writes ``<split>_detections.json`` in COCO's form and ``<split>_voc/`` in Pascal VOC's."""
        return _ResultWriter(folder, split, dataset)

    def write_details(self, folder: Path, split: str, metric: object) -> None:
        """A detection metric has no details to write."""

    def record(self, prediction: Detections, classes: Sequence[str]) -> dict[str, Any]:
        """``{"annotations": [...]}``: rows of COCO with ``category``, the class name, without the id of the image."""
        rows = coco_rows(prediction, 0, range(1, len(classes) + 1))
        for row, label in zip(rows, prediction.labels.tolist(), strict=True):
            del row["image_id"]
            row["category"] = classes[label]
        return {"annotations": rows}

    def suffixes(self, pictures: bool) -> tuple[str, ...]:
        """A picture for each image, if any."""
        return (".jpg",) if pictures else ()

    def files(
        self, prediction: Detections, image: Tensor, classes: Sequence[str], pictures: bool
    ) -> dict[str, Callable[[Path], None]]:
        """Writers of the files of one image, by suffix."""
        if not pictures:
            return {}
        return {".jpg": lambda path: write_image(path, self.draw(image, prediction, classes))}

    def summaries(self, records: Sequence[dict[str, Any]], classes: Sequence[str]) -> dict[str, str]:
        """``detections.json``: a COCO data set whose annotations have scores."""
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for number, record in enumerate(records, start=1):
            images.append({"id": number, **{key: record[key] for key in _ABOUT_IMAGE if key in record}})
            for row in record["annotations"]:
                own = {key: value for key, value in row.items() if key != "category"}
                annotations.append({"id": len(annotations) + 1, "image_id": number, **own})
        categories = [{"id": number, "name": name} for number, name in enumerate(classes, start=1)]
        content = {"images": images, "categories": categories, "annotations": annotations}
        return {"detections.json": json.dumps(content)}

    def conclusion(self, records: Sequence[dict[str, Any]]) -> str:
        """The number of detections, in words."""
        found = sum(len(record["annotations"]) for record in records)
        return f"{counted(found, 'detection')} in {counted(len(records), 'image')}"


class _ResultWriter:
    """Keeps the detections of an evaluation and writes them at its end."""

    def __init__(self, folder: Path, split: str, dataset: Dataset) -> None:
        self.folder, self.split, self.dataset = folder, split, dataset
        self._detections: list[Detections] = []
        self._ids: list[int | str] = []

    def add(self, predictions: Sequence[Detections], targets: Sequence[Target]) -> None:
        """Keep the detections of a batch."""
        self._detections += predictions
        self._ids += [target.image_id for target in targets]

    def close(self) -> None:
        """Write the files."""
        classes = self.dataset.classes
        categories = getattr(self.dataset, "category_ids", range(1, len(classes) + 1))
        write_coco_results(self.folder / f"{self.split}_detections.json", self._detections, self._ids, categories)
        stems = [str(key) for key in self._ids]
        write_voc_results(self.folder / f"{self.split}_voc", self._detections, stems, classes, split=self.split)


@torch.no_grad()
def _detect(
    model: nn.Module, images: Sequence[Tensor], output_sizes: Sequence[Size] | None, min_score: float | None
) -> list[Detections]:
    with _score_threshold(model, min_score):
        detections = [one.to("cpu") for one in model(list(images), output_sizes=output_sizes)]
    if min_score is None:
        return detections
    return [one.select(one.scores >= min_score) for one in detections]


@contextmanager
def _score_threshold(model: nn.Module, min_score: float | None) -> Iterator[None]:
    """A detector drops what lies below its own threshold: a lower one must be set in it."""
    own: Any = model.score_threshold
    if min_score is not None and min_score < own:
        model.score_threshold = min_score  # type: ignore[assignment]  # nn.Module attributes are untyped
    try:
        yield
    finally:
        model.score_threshold = own


def _resize(image: Tensor, shorter: int, longer: int) -> Tensor:
    """Resizing gives the same pixels on every machine: it happens on the CPU."""
    return resize_image(image.cpu(), shorter, longer)[0].to(image.device)


def _target(sample: Sample) -> Target:
    if not isinstance(sample.target, Target):
        raise ValueError(
            f"target: a detector is trained and evaluated on boxes, got a {type(sample.target).__name__}; "
            "choose another data.format or data.options"
        )
    return sample.target


def _has_masks(dataset: Dataset) -> bool:
    target = dataset[0].target if len(dataset) else None
    return isinstance(target, Target) and target.masks is not None
