"""Non-maximum suppression, its soft form and box voting.

Boxes are ``[N, 4]`` xyxy with one score each. Equal scores are taken in the order given, a NaN score is the lowest. An
overlap that is not a number (empty boxes, NaN or infinite corners) suppresses nothing. None of these has a gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from dcn import checks
from dcn.kernels.cpu import nms as cpu
from dcn.kernels.reference import nms as reference
from dcn.kernels.reference import soft_nms as reference_soft
from dcn.kernels.triton import nms as triton
from dcn.kernels.triton import soft_nms as triton_soft
from dcn.ops._backends import Table, check_name, choose
from dcn.ops._contract import materialized
from dcn.ops._operator import traced

BACKENDS: Table = (("triton", triton), ("cpu", cpu), ("reference", reference))
SOFT_BACKENDS: Table = (("triton", triton_soft), ("reference", reference_soft))
_WHOLE = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool)


def check_call(boxes: Tensor, scores: Tensor, labels: Tensor | None, threshold: float, most: int | None) -> None:
    """Refuse boxes, scores, labels and limits that no suppression can work on."""
    checks.ndim("boxes", boxes, 2, "[N, 4] (x1, y1, x2, y2)")
    _check_sets(boxes, scores, labels, threshold)
    if most is not None:
        checks.whole("max_output", most, 0)


def _check_sets(boxes: Tensor, scores: Tensor, labels: Tensor | None, threshold: float) -> None:
    """What holds for one set of boxes ``[N, 4]`` and for any number of them ``[..., N, 4]``."""
    count = boxes.shape[:-1]
    checks.shape("boxes", boxes, (*count, 4), "x1, y1, x2, y2")
    checks.shape("scores", scores, count, "one per box")
    checks.floating("boxes", boxes)
    checks.floating("scores", scores)
    checks.same_device("scores", scores, boxes, "boxes")
    if labels is not None:
        check_labels("labels", labels, count, boxes)
    checks.number("iou_threshold", threshold, finite=False)


def _check_flags(plus_one: bool, suppress_equal: bool) -> None:
    checks.flag("plus_one", plus_one)
    checks.flag("suppress_equal", suppress_equal)


def check_labels(name: str, labels: Tensor, count: Sequence[int], boxes: Tensor) -> None:
    """Refuse labels of another shape, type or device than boxes need."""
    checks.shape(name, labels, count, "one per box")
    checks.same_device(name, labels, boxes, "boxes")
    if labels.dtype not in _WHOLE:
        raise ValueError(f"{name}: expected whole numbers (int64), got {labels.dtype}; convert with .long()")


def _indices(
    boxes: Tensor,
    scores: Tensor,
    labels: Tensor | None,
    iou_threshold: float,
    plus_one: bool,
    suppress_equal: bool,
    max_output: int,
    backend: str | None,
) -> Tensor:
    """The boxes kept, by the backend that can."""
    boxes, scores, labels = materialized(boxes), materialized(scores), materialized(labels)
    call = (boxes, scores, labels, iou_threshold, plus_one, suppress_equal, max_output)
    return choose(BACKENDS, backend, *call).forward(*call)


_nms = torch.library.custom_op("dcn::nms", _indices, mutates_args=())


@_nms.register_fake
def _fake(
    boxes: Tensor,
    scores: Tensor,
    labels: Tensor | None,
    iou_threshold: float,
    plus_one: bool,
    suppress_equal: bool,
    max_output: int,
    backend: str | None,
) -> Tensor:
    kept = torch.library.get_ctx().new_dynamic_size()
    return boxes.new_empty(kept, dtype=torch.int64)


def nms(
    boxes: Tensor,
    scores: Tensor,
    iou_threshold: float,
    labels: Tensor | None = None,
    *,
    plus_one: bool = False,
    suppress_equal: bool = False,
    max_output: int | None = None,
    backend: str | None = None,
) -> Tensor:
    """Greedy suppression: take the best box, drop what overlaps it too much, and so on.

    Args:
        boxes: ``[N, 4]`` xyxy.
        scores: ``[N]``.
        iou_threshold: a box is dropped when its intersection over union with a better one that was kept exceeds this.
        labels: ``[N]`` whole numbers: only boxes of one label suppress each other (exactly: boxes are not moved apart
            by an offset per label, which costs float32 digits). ``None``: all of one.
        plus_one: widths are ``x2 - x1 + 1``, as in the original Fast R-CNN code.
        suppress_equal: an overlap equal to the threshold suppresses too (``cpu_nms`` of the original code; its
            ``py_nms``, torchvision and ONNX keep it).
        max_output: stop after so many boxes in all.
        backend: ``None`` chooses, ``"triton"``, ``"cpu"`` or ``"reference"``.

    Returns:
        Indices ``[K]`` int64 of the boxes kept, best first.

    Raises:
        ValueError: a wrong shape, type, device or option.
    """
    check_call(boxes, scores, labels, iou_threshold, max_output)
    _check_flags(plus_one, suppress_equal)
    check_name(BACKENDS, backend)
    if labels is not None:
        labels = labels.long()
    most = -1 if max_output is None else max_output
    call = (boxes.detach(), scores.detach(), labels, float(iou_threshold), plus_one, suppress_equal, most, backend)
    if torch.compiler.is_compiling() or traced((boxes, scores)):
        return _nms(*call)
    return _indices(*call)


def _keep(
    boxes: Tensor,
    scores: Tensor,
    labels: Tensor | None,
    valid: Tensor | None,
    iou_threshold: float,
    plus_one: bool,
    suppress_equal: bool,
    backend: str | None,
) -> Tensor:
    """The sets of all leading axes side by side, by the backend that can."""
    rule = (iou_threshold, plus_one, suppress_equal)
    boxes, scores = materialized(boxes), materialized(scores)
    labels, valid = materialized(labels), materialized(valid)
    module = choose(BACKENDS, backend, boxes, scores, labels, *rule, -1)
    if boxes.ndim == 2:
        sets = [None if t is None else t[None] for t in (boxes, scores, labels, valid)]
    else:
        sets = [None if t is None else t.flatten(0, scores.ndim - 2) for t in (boxes, scores, labels, valid)]
    return module.keep(*sets, *rule).view(scores.shape)


_nms_keep = torch.library.custom_op("dcn::nms_keep", _keep, mutates_args=())


@_nms_keep.register_fake
def _keep_fake(
    boxes: Tensor,
    scores: Tensor,
    labels: Tensor | None,
    valid: Tensor | None,
    iou_threshold: float,
    plus_one: bool,
    suppress_equal: bool,
    backend: str | None,
) -> Tensor:
    return scores.new_empty(scores.shape, dtype=torch.bool)


def nms_keep(
    boxes: Tensor,
    scores: Tensor,
    iou_threshold: float,
    labels: Tensor | None = None,
    valid: Tensor | None = None,
    *,
    plus_one: bool = False,
    suppress_equal: bool = False,
    backend: str | None = None,
) -> Tensor:
    """:func:`nms` of many sets of boxes at once, as a mask: no shape depends on the data.

    On a GPU nothing waits for the device, and the call can be captured in a CUDA graph, compiled and exported. The
    boxes that stay are exactly those that :func:`nms` keeps of each set's valid boxes.

    Args:
        boxes: ``[..., N, 4]`` xyxy: one set of ``N`` boxes per entry of the leading axes, of which there may be none.
        scores: ``[..., N]``; equal ones are taken in the order given, NaN counts as the lowest.
        iou_threshold: a box is dropped when its intersection over union with a better one that was kept exceeds this.
        labels: ``[..., N]`` whole numbers: only boxes of one label suppress each other.
        valid: ``[..., N]`` bool: the others (padding) neither stay nor suppress. ``None``: all.
        plus_one: widths are ``x2 - x1 + 1``.
        suppress_equal: an overlap equal to the threshold suppresses too.
        backend: ``None`` chooses, ``"triton"``, ``"cpu"`` or ``"reference"``.

    Returns:
        ``[..., N]`` bool, whether each box stays.

    Raises:
        ValueError: a wrong shape, type, device or option.
    """
    checks.tensor("boxes", boxes)
    if boxes.ndim < 2:
        raise ValueError(f"boxes: expected at least 2 axes [..., N, 4] (x1, y1, x2, y2), got {list(boxes.shape)}")
    _check_sets(boxes, scores, labels, iou_threshold)
    if valid is not None:
        checks.shape("valid", valid, scores.shape, "one per box")
        checks.same_device("valid", valid, boxes, "boxes")
        if valid.dtype != torch.bool:
            raise ValueError(f"valid: expected torch.bool, got {valid.dtype}; convert with valid != 0")
    _check_flags(plus_one, suppress_equal)
    check_name(BACKENDS, backend)
    if labels is not None:
        labels = labels.long()
    call = (boxes.detach(), scores.detach(), labels, valid, float(iou_threshold), plus_one, suppress_equal, backend)
    if torch.compiler.is_compiling() or traced((boxes, scores)):
        return _nms_keep(*call)
    return _keep(*call)


def _soft(
    boxes: Tensor,
    scores: Tensor,
    labels: Tensor | None,
    gaussian: bool,
    sigma: float,
    iou_threshold: float,
    least: float,
    max_output: int,
    plus_one: bool,
    backend: str | None,
) -> tuple[Tensor, Tensor]:
    """The selections and their scores, by the backend that can."""
    boxes, scores, labels = materialized(boxes), materialized(scores), materialized(labels)
    call = (boxes, scores, labels, gaussian, sigma, iou_threshold, least, max_output, plus_one)
    return choose(SOFT_BACKENDS, backend, *call).forward(*call)


_soft_nms = torch.library.custom_op("dcn::soft_nms", _soft, mutates_args=())


@_soft_nms.register_fake
def _soft_fake(
    boxes: Tensor,
    scores: Tensor,
    labels: Tensor | None,
    gaussian: bool,
    sigma: float,
    iou_threshold: float,
    least: float,
    max_output: int,
    plus_one: bool,
    backend: str | None,
) -> tuple[Tensor, Tensor]:
    selected = torch.library.get_ctx().new_dynamic_size()
    wide = torch.promote_types(scores.dtype, torch.float32)
    return boxes.new_empty(selected, dtype=torch.int64), scores.new_empty(selected, dtype=wide)


def soft_nms(
    boxes: Tensor,
    scores: Tensor,
    method: Literal["gaussian", "linear"] = "gaussian",
    *,
    sigma: float = 0.5,
    iou_threshold: float = 0.3,
    min_score: float = 0.0,
    max_output: int | None = None,
    labels: Tensor | None = None,
    plus_one: bool = False,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Soft-NMS (Bodla et al., 2017): overlapping boxes lose score instead of being dropped.

    After each selection the scores of the rest are multiplied by ``exp(-IoU² / sigma)`` (``"gaussian"``, equation 3) or
    by ``1 - IoU`` where the overlap exceeds ``iou_threshold`` (``"linear"``, equation 2), then the best is taken again.
    Labels are worked on side by side.

    Args:
        boxes: ``[N, 4]`` xyxy.
        scores: ``[N]``, not negative.
        method: the decay.
        sigma: width of the Gaussian, above 0. The code of the deformable FPN calls it with 0.6.
        iou_threshold: for ``"linear"``.
        min_score: a box whose score has fallen below this is not selected any more.
        max_output: stop after so many selections in all; ``None``: after all boxes.
        labels: ``[N]`` whole numbers: boxes of different labels do not touch each other.
        plus_one: widths are ``x2 - x1 + 1``, as in the original code.
        backend: ``None`` chooses, ``"triton"`` or ``"reference"``.

    Returns:
        Indices ``[K]`` int64 in the order of selection, and the score ``[K]`` each box had when it was selected, which
        falls from one to the next.

    Raises:
        ValueError: a wrong shape, type, device or option.
    """
    check_call(boxes, scores, labels, iou_threshold, max_output)
    checks.choice("method", method, ("gaussian", "linear"))
    checks.number("sigma", sigma, above=0.0, finite=False)
    checks.number("min_score", min_score, finite=False)
    checks.flag("plus_one", plus_one)
    check_name(SOFT_BACKENDS, backend)
    most = -1 if max_output is None else max_output
    rule = (method == "gaussian", float(sigma), float(iou_threshold), max(float(min_score), 0.0), most, plus_one)
    call = (boxes.detach(), scores.detach(), None if labels is None else labels.long(), *rule, backend)
    if torch.compiler.is_compiling() or traced((boxes, scores)):
        return _soft_nms(*call)
    return _soft(*call)
