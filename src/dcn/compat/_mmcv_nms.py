"""mmcv's suppression functions: boxes with scores out, tensors or arrays as they came in."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal, TypeVar, cast

import numpy as np
import torch
from torch import Tensor

from dcn import checks, ops
from dcn.compat._layers import Refused, renamed

Array = TypeVar("Array", Tensor, "np.ndarray[Any, Any]")


def _tensors(boxes: Any, scores: Any) -> tuple[Tensor, Tensor]:
    tensors = []
    for name, value in (("boxes", boxes), ("scores", scores)):
        if not isinstance(value, (Tensor, np.ndarray)):
            raise Refused(f"{name}: expected a tensor or an array, got {type(value).__name__}")
        tensors.append(
            torch.from_numpy(np.require(value, requirements="W")) if isinstance(value, np.ndarray) else value
        )
    if tensors[0].ndim != 2 or tensors[0].shape[1] != 4 or tensors[0].shape[0] != tensors[1].shape[0]:
        raise Refused(
            f"boxes, scores: expected [N, 4] and [N], got shapes {list(tensors[0].shape)} and {list(tensors[1].shape)}"
        )
    return tensors[0], tensors[1]


def _check_offset(offset: int) -> None:
    if offset not in (0, 1):
        raise Refused(f"offset: expected 0 or 1, got {offset!r}")


def _result(boxes: Any, dets: Tensor, inds: Tensor) -> tuple[Any, Any]:
    return (dets.cpu().numpy(), inds.cpu().numpy()) if isinstance(boxes, np.ndarray) else (dets, inds)


@renamed(iou_thr="iou_threshold")
def nms(
    boxes: Array,
    scores: Array,
    iou_threshold: float,
    offset: int = 0,
    score_threshold: float = 0,
    max_num: int = -1,
) -> tuple[Array, Array]:
    """``mmcv.ops.nms``.

    Args:
        boxes: ``[N, 4]`` xyxy, a tensor or an array.
        scores: ``[N]``.
        iou_threshold: a box is dropped when its overlap with a better one exceeds this.
        offset: 0 or 1; widths are ``x2 - x1 + offset``.
        score_threshold: above 0: only boxes with a higher score take part.
        max_num: above 0: the number of boxes to stop after.

    Returns:
        ``[K, 5]`` boxes with scores, best first, and their indices ``[K]``, of the kind that ``boxes`` is.

    Raises:
        ValueError: (also an ``AssertionError``) an argument does not fit; the message names it.
    """
    corners, marks = _tensors(boxes, scores)
    dets, inds = _suppress(corners, marks, None, iou_threshold, offset, score_threshold, max_num)
    return cast("tuple[Array, Array]", _result(boxes, dets, inds))


def _suppress(
    boxes: Tensor,
    scores: Tensor,
    labels: Tensor | None,
    iou_threshold: float,
    offset: int = 0,
    score_threshold: float = 0,
    max_num: int = -1,
) -> tuple[Tensor, Tensor]:
    _check_offset(offset)
    chosen = (scores > score_threshold).nonzero()[:, 0] if score_threshold > 0 else None
    candidates = [t if t is None or chosen is None else t[chosen] for t in (boxes, scores, labels)]
    assert candidates[0] is not None
    assert candidates[1] is not None
    most = max_num if max_num > 0 else None
    inds = ops.nms(
        candidates[0], candidates[1], float(iou_threshold), candidates[2], plus_one=offset == 1, max_output=most
    )
    inds = inds if chosen is None else chosen[inds]
    return torch.cat((boxes[inds], scores[inds].reshape(-1, 1)), 1), inds


def _just_below(threshold: float) -> float:
    """mmcv's soft suppression acts from the threshold on, the operator above it: the next lower float32."""
    return float(np.nextafter(np.float32(threshold), np.float32(-math.inf)))


@renamed(iou_thr="iou_threshold")
def soft_nms(
    boxes: Array,
    scores: Array,
    iou_threshold: float = 0.3,
    sigma: float = 0.5,
    min_score: float = 1e-3,
    method: str = "linear",
    offset: int = 0,
) -> tuple[Array, Array]:
    """``mmcv.ops.soft_nms``.

    Args:
        boxes: ``[N, 4]`` xyxy, a tensor or an array.
        scores: ``[N]``.
        iou_threshold: for ``"linear"`` and ``"naive"``.
        sigma: width of the Gaussian.
        min_score: a box whose score falls below this is dropped; the best box of all stays in any case.
        method: ``"linear"``, ``"gaussian"`` or ``"naive"`` (ordinary suppression).
        offset: 0 or 1; widths are ``x2 - x1 + offset``.

    Returns:
        ``[K, 5]`` boxes with their final scores in the order of selection, and their indices ``[K]``, of the kind that
        ``boxes`` is.

    Raises:
        ValueError: (also an ``AssertionError``) an argument does not fit; the message names it.
    """
    corners, marks = _tensors(boxes, scores)
    dets, inds = _soften(corners, marks, None, iou_threshold, sigma, min_score, method, offset)
    return cast("tuple[Array, Array]", _result(boxes, dets, inds))


def _soften(
    boxes: Tensor,
    scores: Tensor,
    labels: Tensor | None,
    iou_threshold: float = 0.3,
    sigma: float = 0.5,
    min_score: float = 1e-3,
    method: str = "linear",
    offset: int = 0,
) -> tuple[Tensor, Tensor]:
    _check_offset(offset)
    if method not in ("naive", "linear", "gaussian"):
        raise Refused(f"method: expected 'naive', 'linear' or 'gaussian', got {method!r}")
    limit, plus_one = _just_below(iou_threshold), offset == 1
    if method == "naive":
        if min_score <= 0:
            raise Refused(f"min_score: expected above 0 with method='naive', got {min_score}")
        inds = ops.nms(boxes, scores, limit, labels, plus_one=plus_one)
        inds = inds[scores[inds] >= min_score]
        final = scores[inds]
    else:
        decay = cast("Literal['linear', 'gaussian']", method)
        rule: dict[str, Any] = {"sigma": sigma, "iou_threshold": limit, "min_score": min_score}
        inds, final = ops.soft_nms(boxes, scores, decay, labels=labels, plus_one=plus_one, **rule)
    if not len(inds) and len(scores):
        inds = scores.argmax().view(1)
        final = scores[inds]
    return torch.cat((boxes[inds], final.to(boxes.dtype).reshape(-1, 1)), 1), inds


_KINDS: dict[str, Callable[..., tuple[Tensor, Tensor]]] = {"nms": _suppress, "soft_nms": _soften}


def batched_nms(
    boxes: Tensor, scores: Tensor, idxs: Tensor, nms_cfg: dict[str, Any] | None, class_agnostic: bool = False
) -> tuple[Tensor, Tensor]:
    """``mmcv.ops.batched_nms``: boxes of different classes do not touch each other.

    Args:
        boxes: ``[N, 4]`` xyxy.
        scores: ``[N]``.
        idxs: ``[N]`` classes.
        nms_cfg: ``type`` (``"nms"`` or ``"soft_nms"``), ``class_agnostic``, ``split_thr`` (which has no effect) and the
            arguments of that function. ``None``: only sort.
        class_agnostic: all boxes are of one class.

    Returns:
        ``[K, 5]`` boxes with scores, best first, and their indices ``[K]``.

    Raises:
        ValueError: an argument does not fit; the message names it.
    """
    if nms_cfg is None:
        values, inds = scores.sort(descending=True)
        return torch.cat((boxes[inds], values[:, None]), 1), inds
    options = dict(nms_cfg)
    class_agnostic = options.pop("class_agnostic", class_agnostic)
    options.pop("split_thr", None)
    kind = options.pop("type", "nms")
    checks.choice("nms_cfg['type']", kind, list(_KINDS))
    if "iou_thr" in options:
        options["iou_threshold"] = options.pop("iou_thr")
    _tensors(boxes, scores)
    most = options.pop("max_num", -1)
    dets, inds = _KINDS[kind](boxes, scores, None if class_agnostic else idxs.long(), **options)
    return (dets[:most], inds[:most]) if most > 0 else (dets, inds)
