"""Non-maximum suppression in plain PyTorch, on any device, without a loop over boxes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

_BLOCK = 1024
"""Boxes decided at a time: the table of overlaps has at most this many columns."""


def unsupported(
    boxes: Tensor,
    scores: Tensor,
    labels: Tensor | None,
    threshold: float,
    plus_one: bool,
    suppress_equal: bool,
    most: int,
) -> str | None:
    """``None``: the reference takes every call."""
    return None


def forward(
    boxes: Tensor,
    scores: Tensor,
    labels: Tensor | None,
    threshold: float,
    plus_one: bool,
    suppress_equal: bool,
    most: int,
) -> Tensor:
    """Indices ``[K]`` of the boxes kept, best first.

    Boxes are decided in blocks of descending score: first what earlier survivors suppress is dropped, then the block is
    solved by iterating "a box stays unless a better box that stays overlaps it" to its fixed point, which is the greedy
    answer: after ``t`` rounds the first ``t`` boxes are final, in practice a handful of rounds decide all.

    Args:
        boxes: ``[N, 4]`` xyxy.
        scores: ``[N]``; NaN counts as the lowest score.
        labels: ``[N]`` int64 or ``None``; only boxes of one label suppress each other.
        threshold: overlap above which (``suppress_equal``: from which on) a box is dropped.
        plus_one: whether a box of equal corners is one pixel wide.
        suppress_equal: whether an overlap of exactly ``threshold`` suppresses.
        most: stop after this many, or negative.
    """
    order = sort_scores(scores)
    boxes = boxes.float() if boxes.dtype != torch.float64 else boxes
    boxes, classes = boxes[order], None if labels is None else labels[order]
    kept = order.new_empty(0)
    for begin in range(0, order.shape[0], _BLOCK):
        block = torch.arange(begin, min(begin + _BLOCK, order.shape[0]), device=order.device)
        earlier = _suppresses(boxes, classes, kept, block, threshold, plus_one, suppress_equal)
        block = block[~earlier.any(0)]
        within = _suppresses(boxes, classes, block, block, threshold, plus_one, suppress_equal).triu(1)
        kept = torch.cat((kept, block[_settle(within)]))
        if 0 <= most <= kept.shape[0]:
            break
    return order[kept[:most] if most >= 0 else kept]


def keep(
    boxes: Tensor,
    scores: Tensor,
    labels: Tensor | None,
    valid: Tensor | None,
    threshold: float,
    plus_one: bool,
    suppress_equal: bool,
) -> Tensor:
    """``[B, N]`` bool: which boxes of each of ``B`` sets stay; other arguments as in :func:`forward`.

    Args:
        boxes: ``[B, N, 4]`` xyxy.
        scores: ``[B, N]``.
        labels: ``[B, N]`` int64 or ``None``.
        valid: ``[B, N]`` bool or ``None``; the others neither stay nor suppress.
        threshold: see :func:`forward`.
        plus_one: see :func:`forward`.
        suppress_equal: see :func:`forward`.
    """
    return keep_by_set(forward, boxes, scores, labels, valid, threshold, plus_one, suppress_equal)


def keep_by_set(
    forward: Callable[..., Tensor],
    boxes: Tensor,
    scores: Tensor,
    labels: Tensor | None,
    valid: Tensor | None,
    threshold: float,
    plus_one: bool,
    suppress_equal: bool,
) -> Tensor:
    """:func:`keep` by one call of a backend's ``forward`` per set."""
    stays = torch.zeros(scores.shape, dtype=torch.bool, device=scores.device)
    for index, row in enumerate(stays):
        usable = slice(None) if valid is None else valid[index]
        found = row[usable]
        classes = None if labels is None else labels[index][usable]
        call = (boxes[index][usable], scores[index][usable], classes, threshold, plus_one, suppress_equal, -1)
        found[forward(*call)] = True
        row[usable] = found
    return stays


def sort_scores(scores: Tensor) -> Tensor:
    """Order of descending score ``[N]``: of equal scores the lower index first, NaN last."""
    return torch.where(scores.isnan(), -torch.inf, scores).argsort(descending=True, stable=True)


def overlaps(first: Tensor, second: Tensor, plus_one: bool) -> Tensor:
    """Intersection over union ``[N, M]``, 0/0 being NaN, which no threshold exceeds: empty boxes never suppress."""
    extra = 1.0 if plus_one else 0.0
    low = torch.maximum(first[:, None, :2], second[None, :, :2])
    high = torch.minimum(first[:, None, 2:], second[None, :, 2:])
    shared = (high - low + extra).clamp(min=0).prod(-1)
    areas = [(b[:, 2:] - b[:, :2] + extra).prod(-1) for b in (first, second)]
    return shared / (areas[0][:, None] + areas[1][None] - shared)


def _suppresses(
    boxes: Tensor,
    labels: Tensor | None,
    first: Tensor,
    second: Tensor,
    threshold: float,
    plus_one: bool,
    suppress_equal: bool,
) -> Tensor:
    """``[N, M]`` bool: whether a box of ``first``, if it stays, drops one of ``second``."""
    shared = overlaps(boxes[first], boxes[second], plus_one)
    table = shared >= threshold if suppress_equal else shared > threshold
    return table if labels is None else table & (labels[first][:, None] == labels[second][None])


def _settle(table: Tensor) -> Tensor:
    """``[N]`` bool: who stays, given the upper triangle of who suppresses whom."""
    stays = torch.ones(table.shape[0], dtype=torch.bool, device=table.device)
    while True:
        again = ~(table & stays[:, None]).any(0)
        if bool((again == stays).all()):
            return stays
        stays = again
