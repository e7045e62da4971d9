"""A model in an ONNX file, run by onnxruntime: it answers as the model it was made from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dcn.export.onnx import KEY, Metadata, read_metadata
from dcn.extras import require
from dcn.models.detection.detector import Detector, Limits, sizes_of, with_pasted_masks
from dcn.models.detection.shared.frames import Size
from dcn.models.detection.shared.padded_detections import PaddedDetections
from dcn.models.preprocess import Preprocess
from dcn.models.segmentation.model import SegmentationModel
from dcn.structures import Detections, SegmentationMap, Target

_REFUSED = "runs in onnxruntime and holds final results; use the weights it was exported from"


class Runner:
    """Runs an exported function on one image at a time.

    Args:
        metadata: what the function takes and gives.
    """

    def __init__(self, metadata: Metadata) -> None:
        self.metadata = metadata

    def call(self, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        """The outputs."""
        raise NotImplementedError

    def run(self, image: Tensor, output_size: Size, min_score: float) -> Sequence[Tensor]:
        """The outputs for one image ``[3, h, w]`` uint8 RGB, each with a batch axis of 1."""
        size = torch.tensor([[image.shape[1], image.shape[2]]], dtype=torch.float32)
        inputs = [self._canvas(image)[None], size]
        if self.metadata.task == "detection":
            inputs += [torch.tensor([output_size], dtype=torch.float32), torch.tensor(min_score)]
        return self.call(inputs)

    def _canvas(self, image: Tensor) -> Tensor:
        """The image padded to what the function takes."""
        height, width = image.shape[1:]
        divisor = self.metadata.divisor
        tall, wide = self.metadata.size or (-(-height // divisor) * divisor, -(-width // divisor) * divisor)
        if height > tall or width > wide:
            raise ValueError(
                f"image: expected at most {tall}x{wide} pixels, the size this file was exported for, got "
                f"{height}x{width}; resize it, or export with --size dynamic"
            )
        return F.pad(image, (0, wide - width, 0, tall - height))


class NetworkRunner(Runner):
    """The function before its export, in torch: what a file is compared with.

    Args:
        network: of :func:`dcn.export.network.network_of`.
        metadata: of the export.
    """

    def __init__(self, network: nn.Module, metadata: Metadata) -> None:
        super().__init__(metadata)
        self._network = network

    @torch.no_grad()
    def call(self, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        """The outputs."""
        return tuple(self._network(*inputs))


class Session(Runner):
    """An ONNX file of ``dcn export``.

    Args:
        path: the file.
        threads: of onnxruntime; ``None``: its own choice.

    Attributes:
        metadata: the record in the file.

    Raises:
        ValueError: not an ONNX file, or one of another program.
    """

    def __init__(self, path: Path, threads: int | None = None) -> None:
        require("onnxruntime")
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        if threads is not None:
            options.intra_op_num_threads = threads
        self._session: Any
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's errors have no common class of their own
            raise ValueError(f"{path}: expected an ONNX file that onnxruntime can run, got: {error}") from error
        super().__init__(read_metadata(self._session.get_modelmeta().custom_metadata_map.get(KEY), str(path)))

    def call(self, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        """The outputs."""
        names = [entry.name for entry in self._session.get_inputs()]
        feeds = {name: value.numpy() for name, value in zip(names, inputs, strict=True)}
        return [torch.from_numpy(np.asarray(value)) for value in self._session.run(None, feeds)]


class OnnxDetector(Detector):
    """A detector in an ONNX file; for prediction and evaluation.

    Args:
        session: the file.
    """

    exported = True

    def __init__(self, session: Runner) -> None:
        metadata = session.metadata
        super().__init__(
            Preprocess(divisor=metadata.divisor),
            classes=metadata.classes,
            test_size=_fitting(metadata),
            score_threshold=metadata.score_threshold,
        )
        self._session, self.metadata = session, metadata
        self._limits = Limits(metadata.nms_iou, metadata.max_detections)
        self._masks = metadata.masks

    @property
    def limits(self) -> Limits:
        """Those of the model that was exported."""
        return self._limits

    @property
    def has_masks(self) -> bool:
        """Whether detections have masks."""
        return self._masks

    def candidates(self, pixels: Tensor, frames: Any) -> tuple[Tensor, Tensor]:
        """Refused: the file holds final detections."""
        raise ValueError(f"the model {_REFUSED}")

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
            raise ValueError(f"model: expected one to train, this one {_REFUSED}")
        results: list[Detections] = []
        for image, size in zip(images, sizes_of(images, output_sizes), strict=True):
            detections = PaddedDetections(*self._session.run(image.cpu(), size, self.score_threshold))
            results += with_pasted_masks(detections, [size])
        return results


class OnnxSegmentation(SegmentationModel):
    """A segmentation model in an ONNX file; for prediction and evaluation.

    Args:
        session: the file.
    """

    exported = True

    def __init__(self, session: Runner) -> None:
        metadata = session.metadata
        super().__init__(_Pixels(), classes=metadata.classes, test_size=_fitting(metadata))
        self._session, self.metadata = session, metadata

    def scores(self, pixels: Tensor) -> Tensor:
        """1 for the class of each pixel and 0 for the others, ``[N, C, H, W]`` uint8, from uint8 pixels."""
        rows = []
        for image in pixels:
            labels = self._session.run(image.cpu(), (0, 0), 0.0)[0][0, : image.shape[1], : image.shape[2]]
            one = torch.zeros(len(self.classes), *labels.shape, dtype=torch.uint8)
            rows.append(one.scatter_(0, labels[None], 1))
        return torch.stack(rows)

    def forward(
        self, images: Sequence[Tensor], targets: Sequence[SegmentationMap] | None = None
    ) -> dict[str, Tensor] | list[SegmentationMap]:
        """The class of every pixel, see :meth:`SegmentationModel.forward`.

        Raises:
            ValueError: in training mode.
        """
        if self.training:
            raise ValueError(f"model: expected one to train, this one {_REFUSED}")
        return [SegmentationMap(self.scores(image[None])[0].argmax(0)) for image in images]


class _Pixels(Preprocess):
    """Images as they are: the file normalises them."""

    def __init__(self) -> None:
        super().__init__(divisor=1)

    def forward(self, images: Sequence[Tensor]) -> Any:
        """A batch of uint8 pixels of images of one size."""
        from dcn.models.preprocess import ImageBatch

        return ImageBatch(torch.stack(list(images)), [(image.shape[1], image.shape[2]) for image in images], 1)


def _fitting(metadata: Metadata) -> tuple[int, int]:
    """The test size; for a file of a fixed size one with which images of both orientations fit."""
    short, long = metadata.test_size
    if metadata.size is None:
        return short, long
    side = min(metadata.size)
    return min(short, side), min(long, side)


def read_onnx(path: Path) -> OnnxDetector | OnnxSegmentation:
    """The model in an ONNX file of ``dcn export``.

    Raises:
        ValueError: not an ONNX file, or one of another program; the package onnxruntime is missing.
    """
    return model_of(Session(path))


def model_of(runner: Runner) -> OnnxDetector | OnnxSegmentation:
    """The model that a runner runs."""
    return OnnxDetector(runner) if runner.metadata.task == "detection" else OnnxSegmentation(runner)
