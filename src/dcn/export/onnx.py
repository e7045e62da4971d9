"""Whole models as ONNX files: pixels in, final detections or labels out, with what a runtime must know inside."""

from __future__ import annotations

import json
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dcn import __version__
from dcn.export.network import (
    DETECTION_OUTPUTS,
    INPUTS,
    MASKS,
    SEGMENTATION_OUTPUTS,
    DetectionNetwork,
    SegmentationNetwork,
    network_of,
)
from dcn.extras import require
from dcn.models.inference import prepare

OPSET = 20
KEY = "dcn"
"""Name of the entry of the file's metadata."""
FORMAT = 1
_EXAMPLE = 4
"""Divisors per side of the example image with which a model of dynamic size is traced."""


@dataclass(frozen=True)
class Metadata:
    """What a file says about its model.

    Attributes:
        task: ``"detection"`` or ``"segmentation"``.
        model: name of the model.
        classes: names, in the order of the labels.
        test_size: shorter side and largest longer side to which images are resized before they are given.
        divisor: height and width of the input are multiples of it.
        size: ``(height, width)`` of the input, or ``None`` for any.
        masks: whether there are masks.
        score_threshold: of detections, where the caller does not say otherwise.
        max_detections: of an image.
        nms_iou: overlap above which a detection suppressed another of its class.
        version: of the package that wrote the file.
        format: of this record.
    """

    task: str
    model: str
    classes: tuple[str, ...]
    test_size: tuple[int, int]
    divisor: int
    size: tuple[int, int] | None
    masks: bool = False
    score_threshold: float = 0.0
    max_detections: int = 0
    nms_iou: float = 0.0
    version: str = __version__
    format: int = FORMAT

    def to_json(self) -> str:
        """As text, for the file."""
        return json.dumps(asdict(self))


def read_metadata(text: str | None, name: str) -> Metadata:
    """The record of a file named ``name``.

    Raises:
        ValueError: there is none, or not one that this version can read.
    """
    if not text:
        raise ValueError(
            f"{name}: expected an ONNX file of `dcn export`, got one without its metadata entry {KEY!r}; "
            "export the model anew, or run the file with onnxruntime itself"
        )
    try:
        fields = json.loads(text)
        if fields["format"] != FORMAT:
            raise ValueError(f"{name}: expected format {FORMAT}, got {fields['format']}; export the model anew")
        for key in ("classes", "test_size", "size"):
            fields[key] = None if fields[key] is None else tuple(fields[key])
        return Metadata(**fields)
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{name}: its metadata entry {KEY!r} is damaged ({error}); export the model anew") from error


def describe(model: Any, name: str, size: tuple[int, int] | None) -> Metadata:
    """The record of a model."""
    detector = model.task == "detection"
    limits = model.limits if detector else None
    return Metadata(
        task=model.task,
        model=name,
        classes=tuple(model.classes),
        test_size=(int(model.test_size[0]), int(model.test_size[1])),
        divisor=int(model.preprocess.divisor),
        size=size,
        masks=bool(model.has_masks),
        score_threshold=float(model.score_threshold) if detector else 0.0,
        max_detections=int(limits.max_detections) if limits else 0,
        nms_iou=float(limits.nms_iou) if limits else 0.0,
    )


def _example(detector: bool, size: tuple[int, int], batch: int) -> tuple[Tensor, ...]:
    sizes = torch.tensor([size] * batch, dtype=torch.float32)
    images = torch.randint(0, 256, (batch, 3, *size), dtype=torch.uint8)
    return (images, sizes, sizes * 1.5, torch.tensor(0.05)) if detector else (images, sizes)


def _dynamic(detector: bool, divisor: int) -> tuple[Any, ...]:
    """Any size that is a multiple of the divisor, of one image."""
    # Named after what they are multiplied by, since torch derives the input's size from them.
    rows, columns = torch.export.Dim("rows", min=1), torch.export.Dim("columns", min=1)
    if divisor == 1:
        shapes: dict[int, Any] = {2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    else:
        shapes = {2: divisor * rows, 3: divisor * columns}
    return (shapes, None, None, None) if detector else (shapes, None)


def export_onnx(model: nn.Module, path: Path, *, name: str, size: tuple[int, int] | None = None) -> Metadata:
    """Write a model as an ONNX file of standard operators (opset 20) that ends in final results.

    Inputs: ``images [1, 3, H, W]`` uint8 RGB, resized by the caller and padded at the right and the bottom; ``sizes
    [1, 2]`` float32, height and width without padding; detectors also ``output_sizes [1, 2]`` float32, in whose pixels
    boxes come out, and ``min_score``, a float32. Normalisation, suppression and selection are in the file.

    Outputs of a detector: ``boxes [1, D, 4]`` xyxy, ``scores [1, D]``, ``labels [1, D]``, ``valid [1, D]`` (which slots
    are filled; they come first) and with masks ``masks [1, D, m, m]``, probabilities inside of the boxes. Of a
    segmentation model: ``labels [1, H, W]``.

    Args:
        model: a model of :func:`dcn.models.build` with its weights; it is not changed.
        path: the file, which is written whole or not at all.
        name: the model's name, for the record.
        size: ``(height, width)`` of the input; ``None``: any.

    Returns:
        The record that the file carries.

    Raises:
        ValueError: a model of another kind, or a size that is no multiple of the model's divisor.
    """
    require("onnx", "onnxscript")
    ready = prepare(model)
    network: DetectionNetwork | SegmentationNetwork = network_of(ready)
    metadata = describe(ready, name, size)
    divisor = metadata.divisor
    if size is not None and (min(size) < 1 or size[0] % divisor or size[1] % divisor):
        raise ValueError(f"size: expected multiples of {divisor}, got {size[0]}x{size[1]}")
    detector = metadata.task == "detection"
    outputs = (DETECTION_OUTPUTS + ((MASKS,) if metadata.masks else ())) if detector else SEGMENTATION_OUTPUTS
    side = max(divisor, 32) * _EXAMPLE
    with torch.no_grad(), quiet():
        program = torch.onnx.export(
            network.eval(),
            _example(detector, size or (side, side + max(divisor, 32)), 1),
            input_names=list(INPUTS if detector else INPUTS[:2]),
            output_names=list(outputs),
            dynamic_shapes=None if size is not None else _dynamic(detector, divisor),
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    program.model.metadata_props[KEY] = metadata.to_json()
    _save(program, path)
    return metadata


_REMARKS = ("torch.fx.experimental.symbolic_shapes", "torch.onnx._internal.exporter._registration")
"""Loggers that speak of sizes of a trace, and of packages that this one does without."""


@contextmanager
def quiet() -> Iterator[None]:
    """Without torch's warnings about itself: its own deprecations, and remarks on the sizes of a trace."""
    loggers = [logging.getLogger(name) for name in _REMARKS]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _save(program: Any, path: Path) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        program.save(temporary, external_data=False)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
