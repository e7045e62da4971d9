"""Losses of the detection heads: sums over samples, divided by a given normaliser, always in float32."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def box_loss(predicted: Tensor, wanted: Tensor, normaliser: float, beta: float = 0.0) -> Tensor:
    """L1 or smooth L1 summed over boxes and coordinates.

    Args:
        predicted: deltas ``[N, 4]``.
        wanted: deltas ``[N, 4]``.
        normaliser: what the sum is divided by; at least 1 is used.
        beta: 0 is L1; otherwise the loss is ``0.5 d² / beta`` below ``beta``. The original code's sigma is
            ``beta = 1 / sigma²``.

    Returns:
        A scalar; 0, but connected to ``predicted``, without boxes.
    """
    loss = F.smooth_l1_loss(predicted.float(), wanted.float(), reduction="sum", beta=beta)
    return loss / max(normaliser, 1.0)


def binary_loss(logits: Tensor, wanted: Tensor, normaliser: float) -> Tensor:
    """Binary cross entropy of ``logits`` ``[N]`` against ``wanted`` ``[N]`` in ``[0, 1]``, summed, then divided."""
    loss = F.binary_cross_entropy_with_logits(logits.float(), wanted.float(), reduction="sum")
    return loss / max(normaliser, 1.0)


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
        labels: ``[N]`` int64: the class whose mask is trained.

    Returns:
        A scalar; 0, but connected to ``logits``, without objects.
    """
    own = logits[torch.arange(labels.numel(), device=labels.device), labels].float()
    if labels.numel() == 0:
        return logits.float().sum() * 0
    return F.binary_cross_entropy_with_logits(own, masks.float())
