"""``dcn.export``: a run, a weights file or a name as an ONNX file, with a proof that it gives the same results."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from os import fspath
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dcn.data.geometry import resize_image
from dcn.engine.checkpoint import read_weights
from dcn.export import example
from dcn.export.network import network_of
from dcn.export.onnx import Metadata, export_onnx
from dcn.export.parity import Parity, Tolerance, compare
from dcn.export.runtime import NetworkRunner, model_of, read_onnx
from dcn.extras import require
from dcn.models.inference import prepare
from dcn.runs.images import open_image
from dcn.runs.load import read_model
from dcn.runs.sources import StrPath, find_source

_GENERATED = ((0.5, 0.7), (0.7, 0.5), (0.6, 0.6))
"""Sizes of the generated images as shares of the model's shorter side."""


@dataclass(frozen=True)
class Exported:
    """What an export wrote.

    Attributes:
        path: the file.
        metadata: the record in it.
        parity: how its results differ from the model's.
    """

    path: Path
    metadata: Metadata
    parity: Parity

    def __str__(self) -> str:
        size = "any size" if self.metadata.size is None else "{}x{}".format(*self.metadata.size)
        millions = self.path.stat().st_size / 1e6
        return f"{self.path}: {self.metadata.model}, {self.metadata.task}, {size}, {millions:.1f} MB\n{self.parity}"


def export(
    source: StrPath,
    output: StrPath = "model.onnx",
    *,
    weights: StrPath | None = None,
    classes: Sequence[str] | None = None,
    size: tuple[int, int] | None = None,
    images: Sequence[Any] = (),
    min_score: float | None = None,
    tolerance: Tolerance | None = None,
    with_example: bool = False,
) -> Exported:
    """Write a model as an ONNX file that takes pixels and gives final detections or labels, and prove that it does.

    >>> print(dcn.export("runs/bccd_deformable/0", "cells.onnx", images=["a.jpg", "b.jpg"]))

    Args:
        source: a run folder (its best weights), a weights file, or a name; as for :func:`dcn.load`.
        output: the file; ``dcn.load`` opens it.
        weights: with a name, as for :func:`dcn.load`.
        classes: with a name, as for :func:`dcn.load`.
        size: ``(height, width)`` of the input; ``None``: any.
        images: what the results are compared on, paths or arrays; without any, three generated images.
        min_score: detectors: detections with larger scores are compared; ``None``: the model's own threshold.
        tolerance: the largest differences that pass.
        with_example: also write ``<output>_example.py``, which runs the file without this package.

    Returns:
        What was written. ``print`` shows it.

    Raises:
        ValueError: the results differ by more than the tolerance (no file is left), a size that does not fit, or
            as :func:`dcn.load`.
    """
    require("onnx", "onnxscript", "onnxruntime")
    path = Path(fspath(output)).expanduser()
    if path.suffix != ".onnx":
        raise ValueError(f"output: expected a name that ends in .onnx, got {str(path)!r}")
    origin = find_source(source)
    name = fspath(source) if origin is None else read_weights(origin.weights)[1].model
    model: Any = prepare(read_model(source, weights, classes)).eval()
    metadata = export_onnx(model, path, name=name, size=size)
    try:
        parity = _parity(model, path, images, min_score, tolerance or Tolerance())
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    if parity.failures:
        path.unlink(missing_ok=True)
        raise ValueError(f"{path}: the exported model differs ({'; '.join(parity.failures)}); no file was written")
    if with_example:
        shutil.copyfile(str(example.__file__), path.with_name(f"{path.stem}_example.py"))
    return Exported(path, metadata, parity)


def _parity(model: Any, path: Path, images: Sequence[Any], min_score: float | None, tolerance: Tolerance) -> Parity:
    exported: Any = read_onnx(path).eval()
    metadata = exported.metadata
    if metadata.size is not None:
        # Padding up to a fixed size changes results near the borders, in torch as in the file.
        model = model_of(NetworkRunner(network_of(model), metadata)).eval()
    if model.task == "detection":
        model.score_threshold = exported.score_threshold = model.score_threshold if min_score is None else min_score
    opened = [open_image(image) for image in images] or _generated(exported.test_size)
    resized = [resize_image(image, *exported.test_size)[0] if images else image for image in opened]
    return compare(model, exported, resized, [(image.shape[1], image.shape[2]) for image in opened], tolerance)


def _generated(test_size: tuple[int, int]) -> list[Tensor]:
    """Smooth noise of three shapes, always the same."""
    generator = torch.Generator().manual_seed(0)
    made = []
    for shares in _GENERATED:
        height, width = (max(32, int(test_size[0] * share)) for share in shares)
        coarse = torch.rand(1, 3, max(2, height // 8), max(2, width // 8), generator=generator)
        smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")
        made.append((smooth[0] * 255).to(torch.uint8))
    return made
