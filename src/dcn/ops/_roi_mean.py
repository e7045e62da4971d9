"""The operator behind every averaging RoI pooling: ``dcn::roi_mean``, its checks and its gradients.

The public functions of :mod:`dcn.ops.roi_pool` and :mod:`dcn.ops.deform_roi_pool` say what they are as a
:class:`~dcn.kernels.roi_grid.RoiRule`; one operator computes them all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias, cast

import torch
from torch import Tensor

from dcn import checks
from dcn.kernels.cpu import roi_mean as cpu
from dcn.kernels.reference import roi_mean as reference
from dcn.kernels.roi_grid import FORMS, Form, RoiRule, check_images
from dcn.kernels.triton import roi_mean as triton
from dcn.ops._backends import Table, check_name, choose
from dcn.ops._contract import Fold, Gradients
from dcn.ops._operator import Operator

BACKENDS: Table = (("triton", triton), ("cpu", cpu), ("reference", reference))
MOST_SAMPLES = 1024
"""Largest explicit number of samples per bin and axis: more are a mistake and would only cost time."""

Boxes: TypeAlias = Tensor | Sequence[Tensor]
"""RoIs: ``[R, 5]`` with the image's index first, or one tensor ``[R_i, 4]`` per image."""


class _Tensors(NamedTuple):
    input: Tensor
    boxes: Tensor
    offset: Tensor | None
    mask: Tensor | None


class _Options(NamedTuple):
    form: str
    output_size: Sequence[int]
    group: Sequence[int]
    spatial_scale: float
    samples: int
    gamma: float
    backend: str | None

    def rule(self) -> RoiRule:
        """The same without the backend."""
        rows, columns = self.output_size
        group_rows, group_columns = self.group
        size, group = (rows, columns), (group_rows, group_columns)
        return RoiRule(cast("Form", self.form), size, group, self.spatial_scale, self.samples, self.gamma)


class _Needs(NamedTuple):
    input: bool
    boxes: bool
    offset: bool
    mask: bool


def gather_boxes(boxes: Boxes, images: int) -> Tensor:
    """RoIs as one tensor ``[R, 5]``: image, x1, y1, x2, y2.

    Raises:
        ValueError: neither a tensor ``[R, 5]`` nor one tensor ``[R_i, 4]`` per image.
    """
    if isinstance(boxes, Tensor):
        checks.ndim("boxes", boxes, 2, "[R, 5] (image, x1, y1, x2, y2)")
        if boxes.shape[1] != 5:
            checks.shape("boxes", boxes, (boxes.shape[0], 5), "image, x1, y1, x2, y2")
        checks.floating("boxes", boxes)
        return boxes
    if not isinstance(boxes, (list, tuple)) or len(boxes) != images or not boxes:
        given = f"{len(boxes)} entries" if isinstance(boxes, (list, tuple)) else type(boxes).__name__
        raise ValueError(f"boxes: expected a tensor [R, 5] or a list with one tensor [R_i, 4] per image, got {given}")
    for index, entry in enumerate(boxes):
        checks.ndim(f"boxes[{index}]", entry, 2, "[R_i, 4] (x1, y1, x2, y2)")
        checks.shape(f"boxes[{index}]", entry, (entry.shape[0], 4), "x1, y1, x2, y2")
        checks.floating(f"boxes[{index}]", entry)
        checks.same_device(f"boxes[{index}]", entry, boxes[0], "boxes[0]")
    # In float32 at least: half precision cannot tell image 2049 from 2048.
    wide = [b.float() if b.dtype in checks.HALVES else b for b in boxes]
    return torch.cat([torch.cat((b.new_full((b.shape[0], 1), index), b), 1) for index, b in enumerate(wide)])


def check_call(input: Tensor, boxes: Tensor, rule: RoiRule) -> None:
    """Refuse a call that no RoI pooling can compute; reads no data.

    Raises:
        ValueError: naming the argument.
    """
    if input.ndim != 4:
        checks.ndim("input", input, 4, "[N, C, H, W]")
    checks.floating("input", input)
    if boxes.device != input.device:
        checks.same_device("boxes", boxes, input)
    if min(input.shape[1:]) < 1:
        raise ValueError(f"input: expected at least 1 channel and 1 pixel, got shape {list(input.shape)}")
    cells = rule.group[0] * rule.group[1]
    if input.shape[1] % cells:
        raise ValueError(
            f"input: expected a multiple of {cells} channels ({rule.group[0]}x{rule.group[1]} groups), "
            f"got shape {list(input.shape)}"
        )


def check_rule(rule: RoiRule) -> None:
    """Refuse options that the public functions would have refused: ``torch.ops.dcn`` can be called directly.

    Raises:
        ValueError: naming the option.
    """
    checks.choice("form", rule.form, FORMS)
    checks.number("spatial_scale", rule.spatial_scale, above=0.0)
    checks.number("gamma", rule.gamma)
    checks.whole("samples", rule.samples, 0, MOST_SAMPLES)


def _check_offset(input: Tensor, boxes: Tensor, offset: Tensor, rule: RoiRule) -> None:
    checks.ndim("offset", offset, 4, "[R, 2*classes, parts, parts]")
    checks.same_dtype("offset", offset, input, or_float32=True)
    checks.same_device("offset", offset, input)
    rois, channels = boxes.shape[0], input.shape[1] // (rule.group[0] * rule.group[1])
    if rule.form == "half_pixel":
        checks.shape("offset", offset, (rois, 2, *rule.output_size), "RoIs, x and y, bins")
    checks.shape("offset", offset, (rois, *offset.shape[1:]), "RoIs, x and y per class, parts")
    classes = offset.shape[1] // 2
    if offset.shape[1] % 2 or classes < 1 or channels % classes or min(offset.shape[2:]) < 1:
        raise ValueError(
            f"offset: expected [R, 2*classes, parts, parts] with classes a divisor of the {channels} output channels, "
            f"got shape {list(offset.shape)}"
        )


def _check(tensors: _Tensors, rule: RoiRule) -> tuple[int, ...]:
    """Refuse every wrong call; the shape of the output otherwise."""
    input, boxes, offset, mask = tensors
    check_call(input, boxes, rule)
    if offset is not None:
        _check_offset(input, boxes, offset, rule)
    if mask is not None:
        checks.ndim("mask", mask, 4, "[R, 1, rows, columns]")
        checks.same_dtype("mask", mask, input, or_float32=True)
        checks.same_device("mask", mask, input)
        checks.shape("mask", mask, (boxes.shape[0], 1, *rule.output_size), "RoIs, 1, bins")
    return boxes.shape[0], input.shape[1] // (rule.group[0] * rule.group[1]), *rule.output_size


def _fake(tensors: _Tensors, options: _Options) -> Tensor:
    rule = options.rule()
    check_rule(rule)
    return tensors.input.new_empty(_check(tensors, rule))


def _forward(tensors: _Tensors, options: _Options) -> Tensor:
    rule = options.rule()
    module = choose(BACKENDS, options.backend, *tensors, rule)
    if not module.CHECKS_IMAGES:
        check_images(tensors.input.shape[0], tensors.boxes)
    output: Tensor = module.forward(*tensors, rule)
    return output


def _reference_forward(tensors: _Tensors, options: _Options) -> Tensor:
    return reference.forward(*tensors, options.rule())


def _backward(grad: Tensor, tensors: _Tensors, options: _Options, needs: _Needs) -> Gradients:
    rule = options.rule()
    return _gradients(choose(BACKENDS, options.backend, *tensors, rule), grad, tensors, rule, needs)


def _reference_backward(grad: Tensor, tensors: _Tensors, options: _Options, needs: _Needs) -> Gradients:
    return _gradients(reference, grad, tensors, options.rule(), needs)


def _gradients(module: Any, grad: Tensor, tensors: _Tensors, rule: RoiRule, needs: _Needs) -> Gradients:
    """The RoIs' corners get no gradient, as in every published implementation."""
    grads = module.backward(grad, *tensors, rule, (needs.input, needs.offset, needs.mask))
    return (grads[0], None, *grads[1:])


def fold_rois(names: Sequence[str], own_map: bool) -> Fold:
    """RoIs of all calls become RoIs of one; maps, where each call (or its gradient) has its own, images of one.

    Args:
        names: of all tensors with one entry per RoI.
        own_map: whether each call has a map (or a gradient of it) of its own.
    """
    rois = dict.fromkeys(names, 0)
    return Fold({"input": 0, **rois}, output=0, adjust=_own_images) if own_map else Fold(rois, output=0)


def _own_images(calls: int, tensors: Any) -> Any:
    """The RoIs of call ``i`` on its own images; an index that did not exist must not become one that does."""
    boxes = tensors.boxes.float() if tensors.boxes.dtype in checks.HALVES else tensors.boxes
    images, rois = tensors.input.shape[0] // calls, boxes.shape[0] // calls
    first = torch.arange(calls, device=boxes.device).repeat_interleave(rois) * images
    index = boxes[:, 0]
    index = torch.where((index >= 0) & (index < images), index + first, torch.nan)
    return tensors._replace(boxes=torch.cat((index[:, None], boxes[:, 1:]), 1))


def _autocast(tensors: _Tensors, dtype: torch.dtype) -> _Tensors:
    """The map stays as it came and decides the type; offsets of half-precision layers go to float32."""
    input, boxes, offset, mask = tensors
    if offset is not None and offset.dtype in checks.HALVES and input.dtype != torch.float64:
        offset = offset.float()
    return _Tensors(input, boxes, offset, None if mask is None else mask.to(input.dtype))


_OPERATOR = Operator(
    name="roi_mean",
    tensors=_Tensors,
    options=_Options,
    needs=_Needs,
    forward=_forward,
    reference_forward=_reference_forward,
    backward=_backward,
    reference_backward=_reference_backward,
    fake=_fake,
    fold=lambda own: fold_rois(("boxes", "offset", "mask"), own.input),
    constant=("boxes",),
    autocast=_autocast,
)


def roi_mean(
    input: Tensor, boxes: Boxes, offset: Tensor | None, mask: Tensor | None, rule: RoiRule, backend: str | None
) -> Tensor:
    """``[R, D, P, Q]``: check the call and pool by ``rule``."""
    checks.ndim("input", input, 4, "[N, C, H, W]")
    check_name(BACKENDS, backend)
    rois = gather_boxes(boxes, input.shape[0])
    tensors = _OPERATOR.cast(_Tensors(input, rois, offset, mask))
    _check(tensors, rule)
    return _OPERATOR(tensors, _Options(*rule, backend))
