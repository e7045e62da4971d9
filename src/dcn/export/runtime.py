"""Exported files as functions of images: onnxruntime, programs of torch, and the function before its export."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dcn.export.metadata import KEY, Metadata, read_metadata
from dcn.extras import require
from dcn.models.detection.shared.frames import Size
from dcn.models.preprocess import LEAST_SIDE
from dcn.suggest import counted

_CONV = "DeformConv"


class Runner:
    """Runs an exported function on images.

    Args:
        metadata: what the function takes and gives.
    """

    where = "torch"
    """What runs it, in words."""

    def __init__(self, metadata: Metadata) -> None:
        self.metadata = metadata

    def call(self, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        """The outputs."""
        raise NotImplementedError

    def inputs(self, images: Sequence[Tensor], output_sizes: Sequence[Size], min_score: float) -> list[Tensor]:
        """The inputs for images ``[3, h_i, w_i]`` uint8 RGB that need the same padding; missing ones are black."""
        images = [self.fitted(image) for image in images]
        missing = max(0, (self.metadata.batch or 1) - len(images))
        canvases = [self._canvas(image) for image in images]
        sizes = [[image.shape[1], image.shape[2]] for image in images]
        canvases += [torch.zeros_like(canvases[0])] * missing
        sizes += sizes[:1] * missing
        feeds = [torch.stack(canvases), torch.tensor(sizes, dtype=torch.float32)]
        if self.metadata.task == "detection":
            outputs = [list(size) for size in output_sizes]
            feeds.append(torch.tensor(outputs + outputs[:1] * missing, dtype=torch.float32))
            feeds += [] if self.metadata.raw else [torch.tensor(min_score, dtype=torch.float32)]
        return feeds

    def run(self, images: Sequence[Tensor], output_sizes: Sequence[Size], min_score: float) -> list[Tensor]:
        """The outputs for at most ``metadata.batch`` images; arguments as for :meth:`inputs`."""
        outputs = self.call(self.inputs(images, output_sizes, min_score))
        return [value[: len(images)] for value in outputs]

    def fitted(self, image: Tensor) -> Tensor:
        """The image as it is, or shrunk to fit into a file of a fixed size."""
        height, width = image.shape[1:]
        tall, wide = self.metadata.size or (height, width)
        factor = min(tall / height, wide / width)
        if factor >= 1:
            return image
        size = (max(1, int(height * factor + 1e-6)), max(1, int(width * factor + 1e-6)))
        shrunk = F.interpolate(image[None].float(), size, mode="bilinear", antialias=True)[0]
        return shrunk.round().clamp(0, 255).to(torch.uint8)

    def _canvas(self, image: Tensor) -> Tensor:
        """The image padded to what the function takes."""
        height, width = image.shape[1:]
        divisor = self.metadata.divisor
        tall, wide = self.metadata.size or (max(LEAST_SIDE, -(-side // divisor) * divisor) for side in (height, width))
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


class OnnxRunner(Runner):
    """An ONNX file of ``dcn export``, run by onnxruntime.

    Args:
        path: the file.
        threads: of onnxruntime; ``None``: as many as torch uses.

    Raises:
        ValueError: not an ONNX file, or one of another program; the package onnxruntime is missing.
    """

    where = "onnxruntime"

    def __init__(self, path: Path, threads: int | None = None) -> None:
        require("onnxruntime")
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = torch.get_num_threads() if threads is None else threads
        self._session: Any
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's errors have no common class of their own
            advice = (
                "; install onnxruntime 1.25 or newer for it, on Python 3.11 or newer" if _CONV in str(error) else ""
            )
            raise ValueError(
                f"{path}: expected an ONNX file that onnxruntime {onnxruntime.__version__} can run, "
                f"got: {error}{advice}"
            ) from error
        super().__init__(read_metadata(self._session.get_modelmeta().custom_metadata_map.get(KEY), str(path)))
        self._names = [entry.name for entry in self._session.get_inputs()]

    def call(self, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        """The outputs.

        Raises:
            ValueError: onnxruntime cannot compute them.
        """
        feeds = {name: value.numpy() for name, value in zip(self._names, inputs, strict=True)}
        try:
            values = self._session.run(None, feeds)
        except Exception as error:  # onnxruntime's errors have no common class of their own
            count, _, height, width = inputs[0].shape
            raise ValueError(
                f"onnxruntime: expected results of the file for {counted(count, 'image')} of {height}x{width}, got the "
                f"error: {error}; export with another precision or format, or use another version of onnxruntime"
            ) from error
        return [torch.from_numpy(np.asarray(value)) for value in values]


def open_runner(path: Path) -> Runner:
    """What runs a file of ``dcn export``, by its ending.

    Raises:
        ValueError: a file of another kind or program, or the package that runs it is missing.
    """
    if path.suffix == ".onnx":
        return OnnxRunner(path)
    from dcn.export.torch_program import open_program

    return open_program(path)
