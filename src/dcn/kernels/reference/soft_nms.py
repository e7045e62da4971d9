"""Soft non-maximum suppression in plain PyTorch, on any device: one step of a loop selects one box of every label."""

from __future__ import annotations

import torch
from torch import Tensor


def unsupported(
    boxes: Tensor,
    scores: Tensor,
    labels: Tensor | None,
    gaussian: bool,
    sigma: float,
    threshold: float,
    least: float,
    most: int,
    plus_one: bool,
) -> str | None:
    """``None``: the reference takes every call."""
    return None


def forward(
    boxes: Tensor,
    scores: Tensor,
    labels: Tensor | None,
    gaussian: bool,
    sigma: float,
    threshold: float,
    least: float,
    most: int,
    plus_one: bool,
) -> tuple[Tensor, Tensor]:
    """Indices ``[K]`` of the boxes in the order of selection and their scores then.

    Args:
        boxes: ``[N, 4]`` xyxy.
        scores: ``[N]``; NaN is never selected.
        labels: ``[N]`` whole numbers or ``None``; boxes of different labels do not touch each other.
        gaussian: scores fall by ``exp(-overlap² / sigma)``; otherwise by ``1 - overlap`` above ``threshold``.
        sigma: width of the Gaussian.
        threshold: see ``gaussian``.
        least: a box whose score has fallen below this is not selected any more; at least 0.
        most: stop after so many in all, or negative.
        plus_one: whether a box of equal corners is one pixel wide.
    """
    table, left = _by_label(scores, labels)
    locations = boxes.to(torch.promote_types(boxes.dtype, torch.float32))[table]
    steps = table.shape[1] if most < 0 else min(table.shape[1], most)
    chosen, values = [table.new_empty(table.shape[0], 0)], [left.new_empty(table.shape[0], 0)]
    for _ in range(steps):
        value, best = left.max(1, keepdim=True)
        if not bool((value >= least).any()):
            break
        chosen.append(table.gather(1, best))
        values.append(value)
        shared = _shared(locations, best, plus_one)
        decay = torch.exp(shared.square() / -sigma) if gaussian else 1 - shared * (shared > threshold)
        # A slot that is empty or taken stays at -infinity: times a decay of 0 it would become NaN and end its label.
        left = torch.where(left.isneginf(), left, left * decay.to(left.dtype)).scatter(1, best, -torch.inf)
    return in_order(torch.cat(chosen, 1).flatten(), torch.cat(values, 1).flatten(), least, most)


def in_order(found: Tensor, values: Tensor, least: float, most: int) -> tuple[Tensor, Tensor]:
    """The selections of all labels by descending score, without those below ``least``, at most ``most``."""
    order = values.argsort(descending=True, stable=True)
    count = int((values >= least).sum())
    order = order[: count if most < 0 else min(count, most)]
    return found[order], values[order]


def wide_scores(scores: Tensor) -> Tensor:
    """Scores in float32 at least, -infinity where there is none."""
    wide = scores.to(torch.promote_types(scores.dtype, torch.float32))
    return torch.where(wide.isnan(), -torch.inf, wide)


def _by_label(scores: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor]:
    """Indices ``[L, M]`` of the boxes of each label (padded by 0) and their scores (padded by -infinity)."""
    wide = wide_scores(scores)
    if labels is None or not labels.numel():
        return torch.arange(scores.shape[0], device=scores.device)[None], wide[None]
    _, label, counts = labels.unique(return_inverse=True, return_counts=True)
    order = label.argsort(stable=True)
    location = torch.arange(order.shape[0], device=scores.device) - (counts.cumsum(0) - counts)[label[order]]
    shape = (counts.shape[0], int(counts.max()))
    table, left = order.new_zeros(shape), wide.new_full(shape, -torch.inf)
    table[label[order], location] = order
    left[label[order], location] = wide[order]
    return table, left


def _shared(locations: Tensor, best: Tensor, plus_one: bool) -> Tensor:
    """Overlap ``[L, M]`` of the best box of every label with all boxes of it; 0 where it is not a number."""
    extra = 1.0 if plus_one else 0.0
    one = locations.gather(1, best[..., None].expand(-1, -1, 4))
    low, high = torch.maximum(one[..., :2], locations[..., :2]), torch.minimum(one[..., 2:], locations[..., 2:])
    shared = (high - low + extra).clamp(min=0).prod(-1)
    areas = [(b[..., 2:] - b[..., :2] + extra).prod(-1) for b in (one, locations)]
    return (shared / (areas[0] + areas[1] - shared)).nan_to_num(0.0, 0.0, 0.0)
