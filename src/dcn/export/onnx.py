"""Whole models as ONNX files: pixels in, results out, with what a runtime must know inside."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from dcn.export.metadata import KEY, Metadata
from dcn.export.network import input_names, output_names
from dcn.export.trace import Function, quiet, written
from dcn.extras import require

OPSET = 20


def export_onnx(function: Function, path: Path) -> Metadata:
    """Write a function of a model as an ONNX file of standard operators (opset 20).

    Inputs: ``images [N, 3, H, W]`` uint8 RGB, resized by the caller and padded at the right and the bottom; ``sizes
    [N, 2]`` float32, height and width without padding; detectors also ``output_sizes [N, 2]`` float32, in whose pixels
    boxes come out, and ``min_score``, a float32. Normalisation, suppression and selection are in the file.

    Outputs of a detector: ``boxes [N, D, 4]`` xyxy, ``scores [N, D]``, ``labels [N, D]``, ``valid [N, D]`` (which slots
    are filled; they come first) and with masks ``masks [N, D, m, m]``, probabilities inside of the boxes. Of a
    segmentation model: ``labels [N, H, W]``. Raw: ``boxes [N, P, K, 4]`` and ``scores [N, P, C]``, or
    ``scores [N, C, H, W]``.

    Args:
        function: see :func:`dcn.export.trace.function_of`.
        path: the file, which is written whole or not at all.

    Returns:
        The record that the file carries.
    """
    require("onnx", "onnxscript")
    with torch.no_grad(), quiet():
        program = torch.onnx.export(
            function.network,
            function.example,
            input_names=list(input_names(function.metadata)),
            output_names=list(output_names(function.metadata)),
            dynamic_shapes=function.shapes,
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    for output in program.model.graph.outputs if function.metadata.task == "detection" else ():
        _name_slots(output, "candidates" if function.metadata.raw else "detections")
    program.model.metadata_props[KEY] = function.metadata.to_json()
    with written(path) as temporary:
        program.save(temporary, external_data=False)
    return function.metadata


def _name_slots(output: Any, name: str) -> None:
    """Call the second axis by its name; torch writes the formula of its length, which fills lines."""
    import onnx_ir

    sides = list(output.shape)
    if not isinstance(sides[1], int):
        output.shape = onnx_ir.Shape([sides[0], name, *sides[2:]])
