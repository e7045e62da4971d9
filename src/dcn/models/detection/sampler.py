"""Random choice of the candidates that enter a loss."""

from __future__ import annotations

import torch
from torch import Tensor

from dcn.models.detection.matcher import NEGATIVE


def choose(candidates: Tensor, count: int, generator: torch.Generator | None = None) -> Tensor:
    """At most ``count`` of the indices ``candidates`` ``[N]``, without repetition; all, in order, if they are fewer.

    The random numbers are drawn on the CPU whatever the device, so that a seed means the same everywhere; without
    ``generator`` they come from torch's own (``torch.manual_seed``).
    """
    if candidates.numel() <= count:
        return candidates
    picked = torch.randperm(candidates.numel(), generator=generator)[:count]
    return candidates[picked.to(candidates.device)]


def sample(
    matched: Tensor, count: int, positive_fraction: float, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Chooses positives and fills up with negatives.

    Args:
        matched: ``[N]`` result of :func:`dcn.models.detection.matcher.match`.
        count: how many in all.
        positive_fraction: largest share of positives.
        generator: see :func:`choose`.

    Returns:
        Indices of the positives and of the negatives, int64; fewer than ``count`` together if there are fewer.
    """
    positive = choose((matched >= 0).nonzero()[:, 0], int(count * positive_fraction), generator)
    negative = choose((matched == NEGATIVE).nonzero()[:, 0], count - positive.numel(), generator)
    return positive, negative
