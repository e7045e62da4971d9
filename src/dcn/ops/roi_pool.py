"""Pooling of regions of interest: RoIAlign, RoI max pooling and the position-sensitive variants.

All take boxes in pixels of the image as ``[R, 5]`` (image index, x1, y1, x2, y2) or as a list with one ``[R_i, 4]`` per
image, and return ``[R, channels, rows, columns]`` in the type of the map. Boxes get no gradient. A box with NaN or
infinity gives zeros; boxes may lie anywhere and be of any size. Half-precision maps are pooled in float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from torch import Tensor

from dcn import checks
from dcn.kernels.cpu import roi_max as cpu
from dcn.kernels.reference import roi_max as reference
from dcn.kernels.roi_grid import Form, RoiRule, check_images
from dcn.kernels.triton import roi_max as triton
from dcn.ops._backends import Table, check_name, choose
from dcn.ops._contract import Gradients
from dcn.ops._operator import Operator
from dcn.ops._roi_mean import MOST_SAMPLES, Boxes, check_call, fold_rois, gather_boxes, roi_mean

Rounding = Literal["before_scale", "after_scale"]
MOST_BINS = 1 << 14
"""Largest number of rows or columns: enough to cut whole images out, and far from what overflows."""


def bins(output_size: int | tuple[int, int]) -> tuple[int, int]:
    """``output_size`` as ``(rows, columns)``.

    Raises:
        ValueError: not one or two integers from 1 to :data:`MOST_BINS`.
    """
    rows, columns = checks.int_tuple("output_size", output_size, 2, 1, MOST_BINS)
    return rows, columns


def samples(name: str, value: int) -> int:
    """The samples per bin and axis that the argument ``name`` asks for; 0 for adaptive.

    Raises:
        ValueError: no integer, or more than any use needs.
    """
    return max(checks.whole(name, value, -checks.LARGEST_INT, MOST_SAMPLES), 0)


def roi_align(
    input: Tensor,
    boxes: Boxes,
    output_size: int | tuple[int, int],
    spatial_scale: float = 1.0,
    sampling_ratio: int = -1,
    aligned: bool = False,
    *,
    backend: str | None = None,
) -> Tensor:
    """RoIAlign: the mean of bilinear samples in each bin (He et al., "Mask R-CNN", section 3).

    Args:
        input: map ``[N, C, H, W]``.
        boxes: ``[R, 5]`` (image index, x1, y1, x2, y2) in pixels of the image, or a list of ``[R_i, 4]`` per image.
        output_size: bins, one number or ``(rows, columns)``.
        spatial_scale: map pixels per box pixel, such as 1/16.
        sampling_ratio: samples per bin and axis; 0 or less: ``ceil(bin size)``, about one per map pixel. A RoI that
            reaches far beyond the map costs no more than one that covers it: samples outside count as 0 unread.
        aligned: half a pixel to the upper left, and no least RoI size (detectron2, mmdetection). Otherwise RoIs are at
            least 1 x 1 map pixel (the first Caffe2 and torchvision rule).
        backend: ``None`` chooses, ``"triton"``, ``"cpu"`` or ``"reference"``.

    Returns:
        ``[R, C, rows, columns]``.

    Raises:
        ValueError: a wrong shape, type, device, option, or (on the CPU) an image index that does not exist.
    """
    form: Form = "half_pixel" if checks.flag("aligned", aligned) else "align"
    scale = checks.number("spatial_scale", spatial_scale, above=0.0)
    rule = RoiRule(form, bins(output_size), (1, 1), scale, samples("sampling_ratio", sampling_ratio), 0.0)
    return roi_mean(input, boxes, None, None, rule, backend)


def ps_roi_align(
    input: Tensor,
    boxes: Boxes,
    output_size: int | tuple[int, int],
    spatial_scale: float = 1.0,
    sampling_ratio: int = -1,
    *,
    backend: str | None = None,
) -> Tensor:
    """Position-sensitive RoIAlign (Li et al., "Light-Head R-CNN"; torchvision's rule).

    RoIs are placed as in ``roi_align(aligned=True)``; bin ``(p, q)`` of output channel ``d`` reads only input channel
    ``(d * rows + p) * columns + q``. Empty RoIs with an adaptive ``sampling_ratio`` give 0 (torchvision: NaN).

    Args:
        input: map ``[N, D * rows * columns, H, W]``.
        boxes: ``[R, 5]`` (image index, x1, y1, x2, y2) in pixels of the image, or a list of ``[R_i, 4]`` per image.
        output_size: bins, one number or ``(rows, columns)``.
        spatial_scale: map pixels per box pixel.
        sampling_ratio: samples per bin and axis; 0 or less: ``ceil(bin size)``.
        backend: as for :func:`roi_align`.

    Returns:
        ``[R, D, rows, columns]``.

    Raises:
        ValueError: as for :func:`roi_align`.
    """
    size = bins(output_size)
    scale = checks.number("spatial_scale", spatial_scale, above=0.0)
    rule = RoiRule("half_pixel", size, size, scale, samples("sampling_ratio", sampling_ratio), 0.0)
    return roi_mean(input, boxes, None, None, rule, backend)


def ps_roi_pool(
    input: Tensor,
    boxes: Boxes,
    output_size: int | tuple[int, int],
    spatial_scale: float = 1.0,
    *,
    group_size: int | tuple[int, int] | None = None,
    rounding: Rounding = "before_scale",
    backend: str | None = None,
) -> Tensor:
    """Position-sensitive RoI pooling: the mean of whole cells (Dai et al., "R-FCN", equation 1).

    Args:
        input: map ``[N, D * group * group, H, W]``; bin ``(p, q)`` of output channel ``d`` reads channel
            ``(d * group + p * group // rows) * group + q * group // columns``.
        boxes: ``[R, 5]`` (image index, x1, y1, x2, y2) in pixels of the image, or a list of ``[R_i, 4]`` per image.
        output_size: bins, one number or ``(rows, columns)``.
        spatial_scale: map pixels per box pixel.
        group_size: channel groups per axis; ``None``: ``output_size``.
        rounding: ``"before_scale"`` is the rule of the original R-FCN code: corners are rounded in image pixels (halves
            away from zero), the last one belongs to the RoI (+1), then both are scaled; least size 0.1 map pixels.
            ``"after_scale"`` is torchvision's: scaled corners are rounded, no +1, least size 1; its forward never
            reads the map's last row and column, and the gradient here follows that forward.
        backend: as for :func:`roi_align`.

    Returns:
        ``[R, D, rows, columns]``, 0 for bins without a cell.

    Raises:
        ValueError: as for :func:`roi_align`.
    """
    checks.choice("rounding", rounding, ("before_scale", "after_scale"))
    size = bins(output_size)
    rows, columns = size if group_size is None else checks.int_tuple("group_size", group_size, 2, 1)
    form: Form = "cells_first" if rounding == "before_scale" else "cells_after"
    scale = checks.number("spatial_scale", spatial_scale, above=0.0)
    return roi_mean(input, boxes, None, None, RoiRule(form, size, (rows, columns), scale, 0, 0.0), backend)


MAX_BACKENDS: Table = (("triton", triton), ("cpu", cpu), ("reference", reference))


class _MaxTensors(NamedTuple):
    input: Tensor
    boxes: Tensor


class _MaxOptions(NamedTuple):
    output_size: Sequence[int]
    spatial_scale: float
    backend: str | None


class _MaxNeeds(NamedTuple):
    input: bool
    boxes: bool


def _max_call(tensors: _MaxTensors, options: _MaxOptions) -> tuple[Tensor, Tensor, tuple[int, int], float]:
    """The arguments of the kernels, checked."""
    rows, columns = options.output_size
    scale = options.spatial_scale
    check_call(tensors.input, tensors.boxes, RoiRule("cells_after", (rows, columns), (1, 1), scale, 0, 0.0))
    return tensors.input, tensors.boxes, (rows, columns), scale


def _max_fake(tensors: _MaxTensors, options: _MaxOptions) -> Tensor:
    input, boxes, size, scale = _max_call(tensors, options)
    checks.number("spatial_scale", scale, above=0.0)
    return input.new_empty((boxes.shape[0], input.shape[1], *size))


def _max_forward(tensors: _MaxTensors, options: _MaxOptions) -> Tensor:
    call = _max_call(tensors, options)
    module = choose(MAX_BACKENDS, options.backend, *call)
    if not module.CHECKS_IMAGES:
        check_images(tensors.input.shape[0], tensors.boxes)
    output: Tensor = module.forward(*call)
    return output


def _max_reference_forward(tensors: _MaxTensors, options: _MaxOptions) -> Tensor:
    return reference.forward(*_max_call(tensors, options))


def _max_backward(grad: Tensor, tensors: _MaxTensors, options: _MaxOptions, needs: _MaxNeeds) -> Gradients:
    call = _max_call(tensors, options)
    return (choose(MAX_BACKENDS, options.backend, *call).backward(grad, *call) if needs.input else None), None


def _max_reference_backward(grad: Tensor, tensors: _MaxTensors, options: _MaxOptions, needs: _MaxNeeds) -> Gradients:
    return (reference.backward(grad, *_max_call(tensors, options)) if needs.input else None), None


_MAX_OPERATOR = Operator(
    name="roi_max",
    tensors=_MaxTensors,
    options=_MaxOptions,
    needs=_MaxNeeds,
    forward=_max_forward,
    reference_forward=_max_reference_forward,
    backward=_max_backward,
    reference_backward=_max_reference_backward,
    fake=_max_fake,
    fold=lambda own: fold_rois(("boxes",), own.input),
    constant=("boxes",),
)


def roi_pool(
    input: Tensor,
    boxes: Boxes,
    output_size: int | tuple[int, int],
    spatial_scale: float = 1.0,
    *,
    backend: str | None = None,
) -> Tensor:
    """RoI max pooling (Girshick, "Fast R-CNN", section 2.1): the rule shared by MXNet, Caffe and torchvision.

    Scaled corners are rounded (halves away from zero), the last one belongs to the RoI, the least size is one cell.

    Args:
        input: map ``[N, C, H, W]``; a NaN is passed on as the largest value of its bins.
        boxes: ``[R, 5]`` (image index, x1, y1, x2, y2) in pixels of the image, or a list of ``[R_i, 4]`` per image.
        output_size: bins, one number or ``(rows, columns)``.
        spatial_scale: map pixels per box pixel.
        backend: as for :func:`roi_align`.

    Returns:
        ``[R, C, rows, columns]``, 0 for bins without a cell. The gradient of a bin goes to the first of its largest
        cells in reading order.

    Raises:
        ValueError: as for :func:`roi_align`.
    """
    checks.ndim("input", input, 4, "[N, C, H, W]")
    check_name(MAX_BACKENDS, backend)
    tensors = _MaxTensors(input, gather_boxes(boxes, input.shape[0]))
    options = _MaxOptions(bins(output_size), checks.number("spatial_scale", spatial_scale, above=0.0), backend)
    _max_call(tensors, options)
    return _MAX_OPERATOR(tensors, options)
