"""Soft non-maximum suppression in Triton: the whole loop of a label is one program; only the count is waited for."""

from __future__ import annotations

import torch
from torch import Tensor

from dcn.kernels.reference.soft_nms import in_order, wide_scores
from dcn.kernels.triton import _runtime
from dcn.kernels.triton._numbers import bits_of

_CHUNK = 512
"""Boxes that a program looks at together, 4 per thread."""


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
    """Why Triton cannot compute this call, or ``None``."""
    if boxes.shape[0] >= 1 << 29:
        return f"it takes fewer than 2**29 boxes, got {boxes.shape[0]}"
    return _runtime.reason(boxes, scores, labels)


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
    """Indices ``[K]`` in the order of selection and the scores then; arguments as in the reference."""
    from dcn.kernels.triton import _nms_kernels as kernels

    count = scores.shape[0]
    if not count:
        return torch.empty(0, dtype=torch.int64, device=scores.device), wide_scores(scores)
    classes = torch.zeros(count, dtype=torch.int64, device=scores.device) if labels is None else labels.long()
    classes, order = classes.sort(stable=True)
    left = wide_scores(scores)[order]
    locations = boxes.to(torch.promote_types(boxes.dtype, torch.float32))[order]
    ends = torch.searchsorted(classes, classes, right=True)
    chosen, values = torch.zeros_like(order), torch.full_like(left, -torch.inf)
    with _runtime.launching(boxes, lambda: f"soft_nms of {count} boxes"):
        kernels.soft[(count,)](
            *(locations, left, classes, ends, chosen, values, bits_of(sigma), bits_of(threshold), bits_of(least)),
            *(count if most < 0 else most, int(plus_one), gaussian, _CHUNK),
            enable_fp_fusion=False,
        )
    return in_order(order[chosen], values, least, most)
