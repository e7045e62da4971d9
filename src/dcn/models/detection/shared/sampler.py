"""Random choice of the candidates that enter a loss, in tensors whose shapes do not depend on values."""

from __future__ import annotations

import torch
from torch import Tensor

from dcn.models.detection.shared.fixed_shapes import to_device
from dcn.models.detection.shared.matcher import NEGATIVE
from dcn.models.detection.shared.slots import Slots, in_order


def random_keys(count: int, device: torch.device, generator: torch.Generator | None = None) -> Tensor:
    """``[count]`` float64 in ``[0, 1)``.

    They are made on the CPU whatever the device, so that a seed means the same everywhere; without ``generator`` they
    come from torch's own (``torch.manual_seed``). A call takes a single number from there, however many keys it makes,
    and the first keys do not depend on ``count``: empty slots at the end, which only some devices have, do not matter.
    """
    seed = torch.empty(1, dtype=torch.int64).random_(generator=generator)
    own = torch.Generator().manual_seed(int(seed.numpy()[0]))
    return to_device(torch.rand(count, dtype=torch.float64, generator=own), device)


def choose(eligible: Tensor, keys: Tensor, count: int, limit: Tensor | None = None) -> Slots:
    """At most ``count`` of the true rows of ``eligible``, without repetition.

    Args:
        eligible: ``[N]`` bool.
        keys: ``[N]`` of :func:`random_keys`: those with the largest keys are chosen.
        count: how many; all if there are fewer.
        limit: scalar int64, a smaller number than ``count`` that only the device knows.

    Returns:
        Rows in their order, ``min(count, N)`` slots; empty ones come last.
    """
    best = torch.where(eligible, keys, -1.0).topk(min(count, eligible.numel()))
    chosen = best.values >= 0
    if limit is not None:
        chosen &= torch.arange(chosen.numel(), device=chosen.device) < limit
    return in_order(best.indices, chosen)


def sample(
    matched: Tensor, count: int, positive_fraction: float, generator: torch.Generator | None = None
) -> tuple[Slots, Slots]:
    """Chooses positives and fills up with negatives.

    Args:
        matched: ``[N]`` result of :func:`dcn.models.detection.shared.matcher.match`.
        count: how many in all.
        positive_fraction: largest share of positives.
        generator: see :func:`random_keys`.

    Returns:
        The positives, at most ``int(count * positive_fraction)``, and the negatives; together at most ``count`` are
        filled, fewer if there are fewer.
    """
    keys = random_keys(matched.numel(), matched.device, generator)
    positive = choose(matched >= 0, keys, int(count * positive_fraction))
    negative = choose(matched == NEGATIVE, keys, count, count - positive.valid.sum())
    return positive, negative
