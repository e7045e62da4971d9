"""Non-maximum suppression, its soft form and box voting.

Boxes are ``[N, 4]`` xyxy with one score each. Equal scores are taken in the order given, a NaN score is the lowest. An
overlap that is not a number (empty boxes, NaN or infinite corners) suppresses nothing. None of these has a gradient.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from dcn.kernels.cpu import nms as cpu
from dcn.kernels.reference import nms as reference
from dcn.ops import _checks
from dcn.ops._backends import Table, check_name, choose

BACKENDS: Table = (("cpu", cpu), ("reference", reference))


def _check(boxes: Tensor, scores: Tensor, labels: Tensor | None, threshold: float, most: int | None) -> None:
    _checks.ndim("boxes", boxes, 2, "[N, 4] (x1, y1, x2, y2)")
    _checks.shape("boxes", boxes, (boxes.shape[0], 4), "x1, y1, x2, y2")
    _checks.shape("scores", scores, (boxes.shape[0],), "one per box")
    _checks.floating("boxes", boxes)
    _checks.floating("scores", scores)
    _checks.same_device("scores", scores, boxes)
    if labels is not None:
        _checks.shape("labels", labels, (boxes.shape[0],), "one per box")
        _checks.same_device("labels", labels, boxes)
        if labels.is_floating_point() or labels.is_complex():
            raise ValueError(f"labels: expected whole numbers (int64), got {labels.dtype}; convert with .long()")
    if math.isnan(threshold):
        raise ValueError("iou_threshold: expected a number between 0 and 1, got NaN")
    if most is not None and most < 0:
        raise ValueError(f"max_output: expected None or at least 0, got {most}")


@torch.library.custom_op("dcn::nms", mutates_args=())
def _nms(
    boxes: Tensor,
    scores: Tensor,
    labels: Tensor | None,
    iou_threshold: float,
    plus_one: bool,
    suppress_equal: bool,
    max_output: int,
    backend: str | None,
) -> Tensor:
    call = (boxes, scores, labels, iou_threshold, plus_one, suppress_equal, max_output)
    return choose(BACKENDS, backend, *call).forward(*call)


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
        backend: ``None`` chooses, ``"cpu"`` or ``"reference"``.

    Returns:
        Indices ``[K]`` int64 of the boxes kept, best first.

    Raises:
        ValueError: a wrong shape, type, device or option.
    """
    _check(boxes, scores, labels, iou_threshold, max_output)
    check_name(BACKENDS, backend)
    if labels is not None:
        labels = labels.long()
    most = -1 if max_output is None else max_output
    call = (boxes.detach(), scores.detach(), labels, float(iou_threshold), plus_one, suppress_equal, most)
    if torch.compiler.is_compiling() or boxes.is_meta:
        return _nms(*call, backend)
    return choose(BACKENDS, backend, *call).forward(*call)


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
) -> tuple[Tensor, Tensor]:
    """Soft-NMS (Bodla et al., 2017): overlapping boxes lose score instead of being dropped.

    After each selection the scores of the rest are multiplied by ``exp(-IoU² / sigma)`` (``"gaussian"``, equation 3) or
    by ``1 - IoU`` where the overlap exceeds ``iou_threshold`` (``"linear"``, equation 2), then the best is taken again.
    Labels are worked on side by side: one step of the loop selects one box of every label.

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

    Returns:
        Indices ``[K]`` int64 in the order of selection, and the score ``[K]`` each box had when it was selected, which
        falls from one to the next.

    Raises:
        ValueError: a wrong shape, type, device or option.
    """
    _check(boxes, scores, labels, iou_threshold, max_output)
    _checks.choice("method", method, ("gaussian", "linear"))
    if not sigma > 0:
        raise ValueError(f"sigma: expected a number above 0, got {sigma}")
    table, left = _by_label(scores.detach(), labels)
    places = boxes.detach().to(torch.promote_types(boxes.dtype, torch.float32))[table]
    steps = table.shape[1] if max_output is None else min(table.shape[1], max_output)
    chosen, values = [table.new_empty(table.shape[0], 0)], [left.new_empty(table.shape[0], 0)]
    for _ in range(steps):
        value, best = left.max(1, keepdim=True)
        if not bool((value >= max(min_score, 0.0)).any()):
            break
        chosen.append(table.gather(1, best))
        values.append(value)
        shared = _shared(places, best, plus_one)
        decay = torch.exp(shared.square() / -sigma) if method == "gaussian" else 1 - shared * (shared > iou_threshold)
        # A place that is empty or taken stays at -infinity: times a decay of 0 it would become NaN and end its label.
        left = torch.where(left.isneginf(), left, left * decay.to(left.dtype)).scatter(1, best, -torch.inf)
    found, rescored = torch.cat(chosen, 1).flatten(), torch.cat(values, 1).flatten()
    valid = rescored >= max(min_score, 0.0)
    order = rescored[valid].argsort(descending=True, stable=True)[:max_output]
    return found[valid][order], rescored[valid][order]


def _by_label(scores: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor]:
    """Indices ``[L, M]`` of the boxes of each label (padded by 0) and their scores (padded by -infinity)."""
    wide = scores.float() if scores.dtype in _checks.HALVES else scores
    wide = torch.where(wide.isnan(), -torch.inf, wide)
    if labels is None or not labels.numel():
        return torch.arange(scores.shape[0], device=scores.device)[None], wide[None].clone()
    _, label, counts = labels.unique(return_inverse=True, return_counts=True)
    order = label.argsort(stable=True)
    place = torch.arange(order.shape[0], device=scores.device) - (counts.cumsum(0) - counts)[label[order]]
    shape = (counts.shape[0], int(counts.max()))
    table, left = order.new_zeros(shape), wide.new_full(shape, -torch.inf)
    table[label[order], place] = order
    left[label[order], place] = wide[order]
    return table, left


def _shared(places: Tensor, best: Tensor, plus_one: bool) -> Tensor:
    """Overlap ``[L, M]`` of the best box of every label with all boxes of it; 0 where it is not a number."""
    extra = 1.0 if plus_one else 0.0
    one = places.gather(1, best[..., None].expand(-1, -1, 4))
    low, high = torch.maximum(one[..., :2], places[..., :2]), torch.minimum(one[..., 2:], places[..., 2:])
    shared = (high - low + extra).clamp(min=0).prod(-1)
    areas = [(b[..., 2:] - b[..., :2] + extra).prod(-1) for b in (one, places)]
    return (shared / (areas[0] + areas[1] - shared)).nan_to_num(0.0, 0.0, 0.0)


def box_voting(
    kept: Tensor,
    boxes: Tensor,
    scores: Tensor,
    iou_threshold: float = 0.5,
    *,
    kept_labels: Tensor | None = None,
    labels: Tensor | None = None,
    plus_one: bool = False,
) -> Tensor:
    """Iterative box averaging (Gidaris and Komodakis, 2015, section 3.3), which the paper uses on COCO test-dev.

    Each detection becomes the mean of all candidates that overlap it enough, weighted by their scores (not below 0).
    Call it on the survivors of :func:`nms` with the boxes from before.

    Args:
        kept: detections ``[K, 4]`` xyxy.
        boxes: candidates ``[N, 4]``, the detections among them.
        scores: of the candidates, ``[N]``.
        iou_threshold: a candidate votes when its overlap is at least this.
        kept_labels: ``[K]`` labels of the detections, given together with ``labels``: only candidates of one's own
            label vote.
        labels: ``[N]`` labels of the candidates.
        plus_one: widths are ``x2 - x1 + 1``.

    Returns:
        ``[K, 4]`` in the type of ``kept``; a detection without a vote of positive weight keeps its place.

    Raises:
        ValueError: a wrong shape, type, device or option.
    """
    _check(boxes, scores, labels, iou_threshold, None)
    _checks.shape("kept", kept, (kept.shape[0], 4), "x1, y1, x2, y2")
    _checks.same_device("kept", kept, boxes)
    if (kept_labels is None) != (labels is None):
        raise ValueError("kept_labels, labels: expected both or neither, got only one of them")
    dtype = torch.float64 if torch.float64 in (kept.dtype, boxes.dtype) else torch.float32
    voters = boxes.detach().to(dtype)
    votes = reference.overlaps(kept.detach().to(dtype), voters, plus_one) >= iou_threshold
    if kept_labels is not None and labels is not None:
        _checks.shape("kept_labels", kept_labels, (kept.shape[0],), "one per detection")
        votes = votes & (kept_labels[:, None] == labels[None])
    weights = votes * scores.detach().to(dtype).nan_to_num(0.0).clamp(min=0)
    total = weights.sum(1, keepdim=True)
    usable = torch.isfinite(voters).all(1, keepdim=True)
    mean = weights @ torch.where(usable, voters, 0.0) / total
    return torch.where(total > 0, mean, kept.to(dtype)).to(kept.dtype)
