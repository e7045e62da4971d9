"""Losses of the detection heads: sums over samples, divided by a given normaliser, always in float32."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def box_loss(
    predicted: Tensor, target: Tensor, normaliser: float | Tensor, beta: float = 0.0, valid: Tensor | None = None
) -> Tensor:
    """L1 or smooth L1 summed over boxes and coordinates.

    Args:
        predicted: deltas ``[N, 4]``.
        target: deltas ``[N, 4]``.
        normaliser: what the sum is divided by; at least 1 is used.
        beta: 0 is L1; otherwise the loss is ``0.5 d² / beta`` below ``beta``. The original code's sigma is
            ``beta = 1 / sigma²``.
        valid: ``[N]`` bool, which boxes count; whatever the others hold, their loss and gradient are 0.

    Returns:
        A scalar; 0, but connected to ``predicted``, without boxes.
    """
    predicted, target = predicted.float(), target.float()
    if valid is not None:
        predicted, target = (values.masked_fill(~valid[:, None], 0.0) for values in (predicted, target))
    return F.smooth_l1_loss(predicted, target, reduction="sum", beta=beta) / _at_least_one(normaliser)


def binary_loss(logits: Tensor, target: Tensor, normaliser: float | Tensor, valid: Tensor | None = None) -> Tensor:
    """Binary cross entropy of ``logits`` ``[N]`` against ``target`` ``[N]`` in ``[0, 1]``, summed, then divided.

    Only those count that are true in ``valid`` ``[N]``, if it is given.
    """
    return _binary_sum(logits.float(), target.float(), valid) / _at_least_one(normaliser)


def _binary_sum(logits: Tensor, target: Tensor, valid: Tensor | None) -> Tensor:
    """The sum over what counts: ``valid`` has as many dimensions as the others."""
    if valid is None:
        return F.binary_cross_entropy_with_logits(logits, target, reduction="sum")
    logits = logits.masked_fill(~valid, 0.0)
    return F.binary_cross_entropy_with_logits(logits, target, weight=valid.float(), reduction="sum")


def _at_least_one(normaliser: float | Tensor) -> float | Tensor:
    return normaliser.clamp(min=1) if isinstance(normaliser, Tensor) else max(normaliser, 1.0)


def class_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Softmax cross entropy of ``logits`` ``[N, C]``, averaged over the ``labels`` ``[N]`` that are not negative.

    Returns:
        A scalar; 0, but connected to ``logits``, where no label counts.
    """
    loss = F.cross_entropy(logits.float(), labels, reduction="sum", ignore_index=-1)
    return loss / (labels >= 0).sum().clamp(min=1)


def mask_loss(logits: Tensor, masks: Tensor, labels: Tensor) -> Tensor:
    """Mean binary cross entropy of each object's own mask (Mask R-CNN, section 3).

    Args:
        logits: ``[N, C, h, w]``, one mask per class.
        masks: ``[N, h, w]`` bool or float in ``[0, 1]``.
        labels: ``[N]`` int64: the class whose mask is trained; negative: the object does not count.

    Returns:
        A scalar; 0, but connected to ``logits``, without objects.
    """
    own = logits[torch.arange(labels.numel(), device=labels.device), labels.clamp(min=0)].float()
    valid = labels >= 0
    pixels = valid.sum() * own.shape[1] * own.shape[2]
    return _binary_sum(own, masks.float(), valid[:, None, None]) / pixels.clamp(min=1)
