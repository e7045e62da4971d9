"""Non-maximum suppression on the CPU: caller of csrc/nms.cpp."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from dcn.kernels.cpu import _library
from dcn.kernels.reference.nms import keep_by_set, sort_scores


def unsupported(
    boxes: Tensor,
    scores: Tensor,
    labels: Tensor | None,
    threshold: float,
    plus_one: bool,
    suppress_equal: bool,
    most: int,
) -> str | None:
    """Why the library cannot compute this call, or ``None``."""
    if boxes.device.type != "cpu":
        return f"it computes on the CPU, the boxes are on {boxes.device}"
    return _library.reason()


def forward(
    boxes: Tensor,
    scores: Tensor,
    labels: Tensor | None,
    threshold: float,
    plus_one: bool,
    suppress_equal: bool,
    most: int,
) -> Tensor:
    """Indices ``[K]`` of the boxes kept, best first; arguments as in the reference."""
    order = sort_scores(scores)
    dtype = torch.float64 if boxes.dtype == torch.float64 else torch.float32
    sorted_boxes = boxes.detach().to(dtype)[order].contiguous()
    sorted_labels = None if labels is None else labels[order].contiguous()
    kept, found = torch.empty_like(order), ctypes.c_int64()
    status = _library.library().dcn_nms(
        ctypes.c_void_p(sorted_boxes.data_ptr()),
        None if sorted_labels is None else ctypes.c_void_p(sorted_labels.data_ptr()),
        ctypes.c_int64(order.shape[0]),
        ctypes.c_int(dtype == torch.float64),
        ctypes.c_double(threshold),
        ctypes.c_int(plus_one),
        ctypes.c_int(suppress_equal),
        ctypes.c_int64(most),
        ctypes.c_void_p(kept.data_ptr()),
        ctypes.byref(found),
    )
    _library.check(status, f"nms of {order.shape[0]} boxes")
    return order[kept[: found.value]]


def keep(
    boxes: Tensor,
    scores: Tensor,
    labels: Tensor | None,
    valid: Tensor | None,
    threshold: float,
    plus_one: bool,
    suppress_equal: bool,
) -> Tensor:
    """``[B, N]`` bool: which boxes of each of ``B`` sets stay; arguments as in the reference."""
    return keep_by_set(forward, boxes, scores, labels, valid, threshold, plus_one, suppress_equal)
