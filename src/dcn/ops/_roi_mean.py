"""The operator behind every averaging RoI pooling: ``dcn::roi_mean``, its checks and its gradients.

The public functions of :mod:`dcn.ops.roi_pool` and :mod:`dcn.ops.deform_roi_pool` say what they are as a
:class:`~dcn.kernels.roi_grid.RoiRule`; one operator computes them all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from dcn.kernels.cpu import deform_roi_pool as cpu
from dcn.kernels.reference import deform_roi_pool as reference
from dcn.kernels.roi_grid import RoiRule
from dcn.kernels.triton import deform_roi_pool as triton
from dcn.ops import _checks
from dcn.ops._backends import Table, check_name, choose
from dcn.ops._register import Fold, Needs, Operator, Options, Tensors

BACKENDS: Table = (("triton", triton), ("cpu", cpu), ("reference", reference))
MOST_SAMPLES = 1024
"""Largest explicit number of samples per bin and axis: more are a mistake and would only cost time."""

Boxes: TypeAlias = Tensor | Sequence[Tensor]
"""RoIs: ``[R, 5]`` with the image's index first, or one tensor ``[R_i, 4]`` per image."""


def gather_boxes(boxes: Boxes, images: int) -> Tensor:
    """RoIs as one tensor ``[R, 5]``: image, x1, y1, x2, y2.

    Raises:
        ValueError: neither a tensor ``[R, 5]`` nor one tensor ``[R_i, 4]`` per image.
    """
    if isinstance(boxes, Tensor):
        _checks.ndim("boxes", boxes, 2, "[R, 5] (image, x1, y1, x2, y2)")
        _checks.shape("boxes", boxes, (boxes.shape[0], 5), "image, x1, y1, x2, y2")
        _checks.floating("boxes", boxes)
        return boxes
    if not isinstance(boxes, (list, tuple)) or len(boxes) != images or not boxes:
        found = f"{len(boxes)} entries" if isinstance(boxes, (list, tuple)) else type(boxes).__name__
        raise ValueError(f"boxes: expected a tensor [R, 5] or a list with one tensor [R_i, 4] per image, got {found}")
    for place, entry in enumerate(boxes):
        _checks.ndim(f"boxes[{place}]", entry, 2, "[R_i, 4] (x1, y1, x2, y2)")
        _checks.shape(f"boxes[{place}]", entry, (entry.shape[0], 4), "x1, y1, x2, y2")
        _checks.floating(f"boxes[{place}]", entry)
        _checks.same_device(f"boxes[{place}]", entry, boxes[0], "boxes[0]")
    # In float32 at least: half precision cannot tell image 2049 from 2048.
    wide = [b.float() if b.dtype in _checks.HALVES else b for b in boxes]
    return torch.cat([torch.cat((b.new_full((b.shape[0], 1), place), b), 1) for place, b in enumerate(wide)])


def check_call(input: Tensor, boxes: Tensor, rule: RoiRule) -> None:
    """Refuse a call that no RoI pooling can compute; reads no data.

    Raises:
        ValueError: naming the argument.
    """
    _checks.ndim("input", input, 4, "[N, C, H, W]")
    _checks.floating("input", input)
    _checks.same_device("boxes", boxes, input)
    if min(input.shape[1:]) < 1:
        raise ValueError(f"input: expected at least 1 channel and 1 pixel, got shape {list(input.shape)}")
    cells = rule.group[0] * rule.group[1]
    if input.shape[1] % cells:
        raise ValueError(
            f"input: expected a multiple of {cells} channels ({rule.group[0]}x{rule.group[1]} groups), "
            f"got shape {list(input.shape)}"
        )
    _checks.number("spatial_scale", rule.spatial_scale, above=0.0)
    _checks.number("gamma", rule.gamma)
    _checks.whole("samples", rule.samples, 0, MOST_SAMPLES)


def check_images(input: Tensor, boxes: Tensor) -> None:
    """Refuse an image index that does not exist. On the CPU only: elsewhere it would wait for the device.

    Raises:
        ValueError: an index below 0, at or above the number of images, or NaN.
    """
    if boxes.device.type != "cpu" or not boxes.shape[0]:
        return
    low, high = (float(v) for v in boxes[:, 0].aminmax())
    if not (low >= 0 and high < input.shape[0]):
        raise ValueError(
            f"boxes: expected image indices in 0..{input.shape[0] - 1} in column 0, got values from {low:g} to {high:g}"
        )


def _check_offset(input: Tensor, boxes: Tensor, offset: Tensor, rule: RoiRule) -> None:
    _checks.ndim("offset", offset, 4, "[R, 2*classes, parts, parts]")
    _checks.same_dtype("offset", offset, input, or_float32=True)
    _checks.same_device("offset", offset, input)
    rois, channels = boxes.shape[0], input.shape[1] // (rule.group[0] * rule.group[1])
    if rule.form == "half_pixel":
        _checks.shape("offset", offset, (rois, 2, *rule.output_size), "RoIs, x and y, bins")
    _checks.shape("offset", offset, (rois, *offset.shape[1:]), "RoIs, x and y per class, parts")
    classes = offset.shape[1] // 2
    if offset.shape[1] % 2 or classes < 1 or channels % classes or min(offset.shape[2:]) < 1:
        raise ValueError(
            f"offset: expected [R, 2*classes, parts, parts] with classes a divisor of the {channels} output channels, "
            f"got shape {list(offset.shape)}"
        )


def _rule(options: Options) -> RoiRule:
    form, output_size, group, *rest = options[:-1]
    return RoiRule(form, tuple(output_size), tuple(group), *rest)


def _unpack(tensors: Tensors) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    input, boxes, offset, mask = tensors
    assert input is not None
    assert boxes is not None
    return input, boxes, offset, mask


def _check(tensors: Tensors, options: Options) -> tuple[int, ...]:
    """Refuse every wrong call; the shape of the output otherwise."""
    input, boxes, offset, mask = _unpack(tensors)
    rule = _rule(options)
    check_call(input, boxes, rule)
    if offset is not None:
        _check_offset(input, boxes, offset, rule)
    if mask is not None:
        _checks.ndim("mask", mask, 4, "[R, 1, rows, columns]")
        _checks.same_dtype("mask", mask, input, or_float32=True)
        _checks.same_device("mask", mask, input)
        _checks.shape("mask", mask, (boxes.shape[0], 1, *rule.output_size), "RoIs, 1, bins")
    return boxes.shape[0], input.shape[1] // (rule.group[0] * rule.group[1]), *rule.output_size


def _fake(tensors: Tensors, options: Options) -> Tensor:
    return _unpack(tensors)[0].new_empty(_check(tensors, options))


def _forward(tensors: Tensors, options: Options) -> Tensor:
    input, boxes, offset, mask = _unpack(tensors)
    check_images(input, boxes)
    call = (input, boxes, offset, mask, _rule(options))
    return choose(BACKENDS, options[-1], *call).forward(*call)


def _reference_forward(tensors: Tensors, options: Options) -> Tensor:
    return reference.forward(*_unpack(tensors), _rule(options))


def _backward(grad: Tensor, tensors: Tensors, options: Options, needs: Needs) -> Tensors:
    call = (*_unpack(tensors), _rule(options))
    return _gradients(choose(BACKENDS, options[-1], *call), grad, call, needs)


def _reference_backward(grad: Tensor, tensors: Tensors, options: Options, needs: Needs) -> Tensors:
    return _gradients(reference, grad, (*_unpack(tensors), _rule(options)), needs)


def _gradients(module: Any, grad: Tensor, call: tuple[Any, ...], needs: Needs) -> Tensors:
    """The RoIs' corners get no gradient, as in every published implementation."""
    found = module.backward(grad, *call, (needs[0], needs[2], needs[3]))
    return (found[0], None, *found[1:])


def fold_rois(dims: Sequence[int | None], needs: Needs | None) -> Fold:
    """RoIs of all calls become RoIs of one; maps, where each call (or its gradient) has its own, images of one."""
    own_map = dims[0] is not None or (needs is not None and needs[0])
    rest = (0,) * (len(dims) - 1)
    return Fold((0, *rest), 0, _own_images) if own_map else Fold((None, *rest), 0)


def _own_images(calls: int, tensors: Tensors) -> Tensors:
    """The RoIs of call ``i`` on its own images; an index that did not exist must not become one that does."""
    input, boxes, *others = tensors
    assert input is not None
    assert boxes is not None
    boxes = boxes.float() if boxes.dtype in _checks.HALVES else boxes
    images, rois = input.shape[0] // calls, boxes.shape[0] // calls
    first = torch.arange(calls, device=boxes.device).repeat_interleave(rois) * images
    index = boxes[:, 0]
    index = torch.where((index >= 0) & (index < images), index + first, torch.nan)
    return input, torch.cat((index[:, None], boxes[:, 1:]), 1), *others


def _autocast(tensors: Tensors, dtype: torch.dtype) -> Tensors:
    """The map stays as it came and decides the type; offsets of half-precision layers go to float32."""
    input, boxes, offset, mask = _unpack(tensors)
    if offset is not None and offset.dtype in _checks.HALVES and input.dtype != torch.float64:
        offset = offset.float()
    return input, boxes, offset, None if mask is None else mask.to(input.dtype)


_OPERATOR = Operator(
    name="roi_mean",
    tensors=("Tensor input", "Tensor boxes", "Tensor? offset", "Tensor? mask"),
    options=(
        "str form",
        "int[] output_size",
        "int[] group",
        "float spatial_scale",
        "int samples",
        "float gamma",
        "str? backend",
    ),
    forward=_forward,
    reference_forward=_reference_forward,
    backward=_backward,
    reference_backward=_reference_backward,
    fake=_fake,
    fold=fold_rois,
    autocast=_autocast,
)


def roi_mean(
    input: Tensor, boxes: Boxes, offset: Tensor | None, mask: Tensor | None, rule: RoiRule, backend: str | None
) -> Tensor:
    """``[R, D, P, Q]``: check the call and pool by ``rule``."""
    _checks.ndim("input", input, 4, "[N, C, H, W]")
    check_name(BACKENDS, backend)
    rois = gather_boxes(boxes, input.shape[0])
    options = (rule.form, list(rule.output_size), list(rule.group), *rule[3:], backend)
    tensors = _OPERATOR.cast((input, rois, offset, mask))
    _check(tensors, options)
    return _OPERATOR(tensors, options)
