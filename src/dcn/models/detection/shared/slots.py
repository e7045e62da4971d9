"""Some rows of a tensor, in a number of slots that does not depend on values."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dcn.models.detection.shared.fixed_shapes import shapes_are_fixed


@dataclass(frozen=True)
class Slots:
    """Some rows of a tensor.

    Attributes:
        indices: ``[K]`` int64, of the rows; in empty slots those of any rows.
        valid: ``[K]`` bool: the slot is filled.
    """

    indices: Tensor
    valid: Tensor

    def trimmed(self) -> Slots:
        """Without empty slots, unless shapes are fixed."""
        if shapes_are_fixed(self.valid):
            return self
        filled = self.valid.nonzero()[:, 0]
        return Slots(self.indices[filled], self.valid[filled])

    def first(self, count: int) -> Slots:
        """At most ``count`` filled slots, the first ones, in their order; empty ones, if any, come last."""
        order = in_order(torch.arange(self.valid.numel(), device=self.valid.device), self.valid)
        return Slots(self.indices[order.indices[:count]], order.valid[:count])

    def of(self, values: Tensor, empty: float = 0) -> Tensor:
        """``[K, ...]``: these rows of ``values`` ``[N, ...]``, with ``empty`` in empty slots."""
        return values[self.indices].masked_fill(~self.valid.view(-1, *[1] * (values.ndim - 1)), empty)

    def spread(self, values: Tensor, count: int, rest: float) -> Tensor:
        """``[count, ...]``: ``values`` ``[K, ...]`` in these rows, ``rest`` elsewhere; the reverse of :meth:`of`."""
        result = values.new_full((count + 1, *values.shape[1:]), rest)
        # Empty slots write into one row more, which is cut off.
        result[torch.where(self.valid, self.indices, count)] = values
        return result[:count]


def slots_of(chosen: Tensor) -> Slots:
    """The rows that are true in ``chosen`` ``[N]``, in their order; where shapes are fixed, others are empty slots."""
    return Slots(torch.arange(chosen.numel(), device=chosen.device), chosen).trimmed()


def in_order(indices: Tensor, valid: Tensor) -> Slots:
    """Rows ``[K]`` in the order of their indices, empty slots (trimmed, unless shapes are fixed) at the end."""
    last = torch.iinfo(torch.int64).max
    order = torch.where(valid, indices, last).sort().values
    filled = order < last
    return Slots(torch.where(filled, order, 0), filled).trimmed()


def joined(*parts: Slots) -> Slots:
    """The slots of one after those of another."""
    return Slots(torch.cat([part.indices for part in parts]), torch.cat([part.valid for part in parts]))
