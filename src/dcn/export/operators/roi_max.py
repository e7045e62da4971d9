"""RoI max pooling: ONNX's ``MaxRoiPool`` has the same rule."""

from __future__ import annotations

from collections.abc import Sequence

from onnxscript import opset20 as op

from dcn.export.operators._values import Value, finite_rois


def translate(
    input: Value, boxes: Value, output_size: Sequence[int], spatial_scale: float, backend: str | None = None
) -> Value:
    """``dcn::roi_max``; arguments as there.

    Args:
        input: ``[N, C, H, W]``.
        boxes: ``[R, 5]``.
        output_size: bins ``(rows, columns)``.
        spatial_scale: map pixels per box pixel.
        backend: has no meaning here.
    """
    rois, finite = finite_rois(boxes)
    rois = op.CastLike(rois, input)
    output = op.MaxRoiPool(input, rois, pooled_shape=list(output_size), spatial_scale=float(spatial_scale))
    return op.Where(finite, output, op.CastLike(0.0, output))
