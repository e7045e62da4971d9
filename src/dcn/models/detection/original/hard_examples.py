"""Online hard example mining (Shrivastava et al. 2016) in the form of the original code: no suppression of regions."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


@torch.no_grad()
def hard_examples(logits: Tensor, deltas: Tensor, labels: Tensor, target: Tensor, count: int) -> Tensor:
    """The labels of the ``count`` regions with the largest losses; the others become -1, "left out".

    The loss of a region is its cross entropy plus, for an object, the smooth L1 loss of its four deltas.

    Args:
        logits: ``[R, C + 1]``, background first.
        deltas: ``[R, 4]``, those of the region's own class.
        labels: ``[R]`` int64: 0 background, 1 and above the class, -1 left out already.
        target: ``[R, 4]`` targets; used where the label is positive.
        count: how many stay.

    Returns:
        ``[R]`` int64.
    """
    if labels.numel() <= count:
        return labels
    # 1e-14 is the original's guard of the logarithm; it bounds the cross entropy at 32.2.
    probability = logits.float().softmax(1).gather(1, labels.clamp(min=0)[:, None])[:, 0]
    loss = -torch.log(probability + 1e-14)
    boxes_loss = F.smooth_l1_loss(deltas.float(), target.float(), reduction="none").sum(1)
    loss = loss + torch.where(labels > 0, boxes_loss, torch.zeros_like(boxes_loss))
    hardest = torch.where(labels >= 0, loss, -1.0).topk(count).indices
    result = torch.full_like(labels, -1)
    result[hardest] = labels[hardest]
    return result
