"""Exported files as models: they answer as the model they were made from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dcn.export.metadata import Metadata
from dcn.export.runtime import Runner, open_runner
from dcn.models.detection.detector import Detector, Limits, sizes_of, with_pasted_masks
from dcn.models.detection.shared.frames import Size
from dcn.models.detection.shared.padded_detections import PaddedDetections
from dcn.models.detection.shared.selection import SelectionRule, select_detections
from dcn.models.preprocess import ImageBatch, Preprocess
from dcn.models.segmentation.model import SegmentationModel
from dcn.structures import Detections, SegmentationMap, Target


class ExportedDetector(Detector):
    """A detector in an exported file; for prediction and evaluation.

    Args:
        runner: the file.

    Attributes:
        metadata: the record in the file.
    """

    exported = True

    def __init__(self, runner: Runner) -> None:
        metadata = runner.metadata
        super().__init__(
            Preprocess(divisor=metadata.divisor),
            classes=metadata.classes,
            test_size=metadata.test_size,
            score_threshold=metadata.score_threshold,
        )
        self.inclusive_boxes = metadata.inclusive_boxes
        self._runner, self.metadata = runner, metadata

    @property
    def limits(self) -> Limits:
        """Those of the model that was exported."""
        return Limits(self.metadata.nms_iou, self.metadata.max_detections)

    @property
    def has_masks(self) -> bool:
        """Whether detections have masks."""
        return self.metadata.masks

    def candidates(self, pixels: Tensor, frames: Any) -> tuple[Tensor, Tensor]:
        """Refused: the file takes pixels as they are."""
        raise ValueError(f"model: {_refused(self._runner)}")

    def forward(
        self,
        images: Sequence[Tensor],
        targets: Sequence[Target] | None = None,
        output_sizes: Sequence[Size] | None = None,
    ) -> dict[str, Tensor] | list[Detections]:
        """Detections of every image, see :meth:`Detector.forward`.

        Raises:
            ValueError: in training mode.
        """
        if self.training:
            raise ValueError(f"model: expected one to train, this one {_refused(self._runner)}")
        sizes = sizes_of(images, output_sizes)
        results: dict[int, Detections] = {}
        for members in _calls(self.metadata, self.preprocess, images):
            own = [sizes[index] for index in members]
            outputs = self._runner.run([images[index].cpu() for index in members], own, self.score_threshold)
            results.update(zip(members, with_pasted_masks(self._detections(outputs, own), own), strict=True))
        return [results[index] for index in range(len(images))]

    def _detections(self, outputs: Sequence[Tensor], sizes: Sequence[Size]) -> PaddedDetections:
        if not self.metadata.raw:
            return PaddedDetections(*outputs)
        limits = self.limits
        rule = SelectionRule(self.score_threshold, limits.nms_iou, limits.max_detections, self.inclusive_boxes)
        return select_detections(outputs[0], outputs[1], torch.tensor(sizes, dtype=torch.float32), rule)


class ExportedSegmentation(SegmentationModel):
    """A segmentation model in an exported file; for prediction and evaluation.

    Args:
        runner: the file.

    Attributes:
        metadata: the record in the file.
    """

    exported = True

    def __init__(self, runner: Runner) -> None:
        metadata = runner.metadata
        super().__init__(_Pixels(), classes=metadata.classes, test_size=metadata.test_size)
        self.colors = metadata.colors
        self._padding = Preprocess(divisor=metadata.divisor)
        self._runner, self.metadata = runner, metadata

    def scores(self, pixels: Tensor) -> Tensor:
        """Logits of a raw file, and otherwise 1 for the class of each pixel and 0 for the others, ``[N, C, H, W]``.

        Args:
            pixels: ``[N, 3, H, W]`` uint8.
        """
        values = self._values(list(pixels))
        raw = self.metadata.raw
        return torch.stack([value if raw else _one_hot(value, len(self.classes)) for value in values])

    def forward(
        self, images: Sequence[Tensor], targets: Sequence[SegmentationMap] | None = None
    ) -> dict[str, Tensor] | list[SegmentationMap]:
        """The class of every pixel, see :meth:`SegmentationModel.forward`.

        Raises:
            ValueError: in training mode.
        """
        if self.training:
            raise ValueError(f"model: expected one to train, this one {_refused(self._runner)}")
        return [SegmentationMap(value.argmax(0) if self.metadata.raw else value) for value in self._values(images)]

    def _values(self, images: Sequence[Tensor]) -> list[Tensor]:
        """Labels ``[h_i, w_i]`` of every image, or logits ``[C, h_i, w_i]``."""
        results: dict[int, Tensor] = {}
        for members in _calls(self.metadata, self._padding, images):
            own = [self._runner.fitted(images[index].cpu()) for index in members]
            for index, image, value in zip(members, own, self._runner.run(own, [], 0.0)[0], strict=True):
                results[index] = _of_size(value[..., : image.shape[1], : image.shape[2]], images[index].shape[1:])
        return [results[index] for index in range(len(images))]


def _of_size(value: Tensor, size: Sequence[int]) -> Tensor:
    """Labels or logits of an image that was shrunk, in its own size."""
    if value.shape[-2:] == torch.Size(size):
        return value
    if value.ndim == 2:
        return F.interpolate(value[None, None].float(), tuple(size), mode="nearest-exact")[0, 0].to(value.dtype)
    return F.interpolate(value[None], tuple(size), mode="bilinear")[0]


def _one_hot(labels: Tensor, classes: int) -> Tensor:
    return torch.zeros(classes, *labels.shape, dtype=torch.uint8).scatter_(0, labels[None], 1)


class _Pixels(Preprocess):
    """Images as they are: the file normalises them."""

    def __init__(self) -> None:
        super().__init__(divisor=1)

    def forward(self, images: Sequence[Tensor]) -> ImageBatch:
        """A batch of uint8 pixels of images of one size."""
        return ImageBatch(torch.stack(list(images)), [(image.shape[1], image.shape[2]) for image in images], 1)


def _calls(metadata: Metadata, preprocess: Preprocess, images: Sequence[Tensor]) -> Iterator[list[int]]:
    """Indices of images of one call each: they need the same padding, and are no more than the file takes."""
    groups = [list(range(len(images)))] if metadata.size is not None else preprocess.groups(images)
    for members in groups:
        most = metadata.batch or max(len(members), 1)
        yield from (members[start : start + most] for start in range(0, len(members), most))


def _refused(runner: Runner) -> str:
    return f"runs in {runner.where} and holds final results; use the weights it was exported from"


def read_exported(path: Path) -> ExportedDetector | ExportedSegmentation:
    """The model in a file of ``dcn export``.

    Raises:
        ValueError: a file of another kind or program, or the package that runs it is missing.
    """
    return model_of(open_runner(path))


def model_of(runner: Runner) -> ExportedDetector | ExportedSegmentation:
    """The model that a runner runs."""
    return ExportedDetector(runner) if runner.metadata.task == "detection" else ExportedSegmentation(runner)
