"""8-bit integers for an ONNX file: onnxruntime's static quantisation, calibrated on images of the user."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from dcn.export.metadata import KEY, Metadata
from dcn.export.network import input_names
from dcn.export.runtime import Runner
from dcn.export.trace import quiet, written
from dcn.extras import require
from dcn.suggest import counted

LAYERS = ("Conv", "Gemm", "MatMul")
"""Operators that compute in integers; the rest of the file, deformable convolution too, stays in float32."""

PREDICTORS = ("rpn_cls", "rpn_reg", "fc_cls", "fc_reg", "maps", "offset_maps", "conv_logits", "score")
"""Layers that end in scores and boxes, by name: they cost little and stay in float32 (AP70 of a trained Faster R-CNN:
0.49 instead of 0.46)."""

_PARAMETERS = "model."
"""How the names of a model's parameters begin in a file, see :mod:`dcn.export.network`; constants that the export made
have other names."""


class _Feeds:
    """Inputs for onnxruntime, one image at a time; what its calibration asks for."""

    def __init__(self, runner: Runner, images: Sequence[Tensor]) -> None:
        self._runner, self._names = runner, input_names(runner.metadata)
        self._left: Iterator[Tensor] = iter(images)

    def get_next(self) -> dict[str, Any] | None:
        """The inputs of the next image; ``None`` after the last."""
        image = next(self._left, None)
        if image is None:
            return None
        metadata = self._runner.metadata
        values = self._runner.inputs([image], [(image.shape[1], image.shape[2])], metadata.score_threshold)
        return {name: value.numpy() for name, value in zip(self._names, values, strict=True)}


def quantize(source: Path, path: Path, metadata: Metadata, images: Sequence[Tensor]) -> Metadata:
    """Write an ONNX file of ``dcn export`` again, with integer convolutions and matrix products.

    Weights are signed integers with a scale for each channel; maps are unsigned ones with one scale each, from the
    smallest and largest values of the images, averaged over them. ``QuantizeLinear`` and ``DequantizeLinear`` stand
    around the operators, and onnxruntime fuses them.

    Args:
        source: the file in float32.
        path: the new file, which is written whole or not at all.
        metadata: of the source.
        images: ``[3, h, w]`` uint8 RGB, resized: at least one; a hundred that look like those to come are plenty.

    Returns:
        The record of the new file.

    Raises:
        ValueError: there are no images, or onnxruntime cannot run or quantise the file.
    """
    require("onnx", "onnxruntime")
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    if not images:
        raise ValueError("calibration: expected images that look like those to come, got none")
    record = replace(metadata, precision="int8")
    reader = type("Feeds", (_Feeds, CalibrationDataReader), {})(Runner(metadata), images)
    with written(path) as temporary, quiet(), _silent():
        try:
            quantize_static(
                str(source),
                str(temporary),
                reader,
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=list(LAYERS),
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                nodes_to_exclude=_in_float(onnx.load(str(source))),
                extra_options={"MatMulConstBOnly": True, "CalibMovingAverage": True},
            )
        except Exception as error:  # onnxruntime's errors have no common class of their own
            raise ValueError(
                f"onnxruntime: expected a calibration of the file on {counted(len(images), 'image')}, got the error: "
                f"{error}; use the precision float16 or float32"
            ) from error
        proto = onnx.load(str(temporary))
        onnx.helper.set_model_props(proto, {KEY: record.to_json()})
        onnx.save(proto, str(temporary))
    return record


def _in_float(proto: Any) -> list[str]:
    """Names of the nodes that stay in float32: those of :data:`PREDICTORS`, and all without a layer's weights.

    The latter are sums within the arithmetic of boxes and samples. A test such as "are the coordinates of this RoI
    finite" is a product with a column of ones, and gives the wrong answer in integers.
    """
    parameters = {entry.name for entry in proto.graph.initializer if entry.name.startswith(_PARAMETERS)}

    def quantized(node: Any) -> bool:
        weights = [name.split(".") for name in node.input if name in parameters]
        return bool(weights) and not any(words[-2:-1] == [layer] for words in weights for layer in PREDICTORS)

    return [node.name for node in proto.graph.node if node.op_type in LAYERS and not quantized(node)]


@contextmanager
def _silent() -> Iterator[None]:
    """Without the advice of onnxruntime's tools, which log through the root logger."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
