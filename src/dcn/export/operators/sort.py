"""Stable sorting, which torch translates only without the word ``stable``: ``TopK`` is stable."""

from __future__ import annotations

from onnxscript import opset20 as op

from dcn.export.operators._values import Value, size


def translate(
    self: Value, *, stable: bool | None = None, dim: int = -1, descending: bool = False
) -> tuple[Value, Value]:
    """``aten::sort.stable``: values and indices; of equal values the lower index comes first, as ``TopK`` has it."""
    values, indices = op.TopK(self, size(self, dim % len(self.shape)), axis=dim, largest=int(descending), sorted=1)
    return values, indices
