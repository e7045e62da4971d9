"""Results as ``supervision.Detections``, which the zones, annotators and data tools of that library take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dcn.class_names import IGNORE
from dcn.extras import require


def from_boxes(
    boxes: Tensor, scores: Tensor, labels: Tensor, masks: Tensor | None, classes: Sequence[str] | None
) -> Any:
    """One entry for each box.

    Args:
        boxes: ``[N, 4]`` xyxy.
        scores: ``[N]``.
        labels: ``[N]``.
        masks: ``[N, H, W]`` bool, or ``None``.
        classes: names of the labels; ``None``: entries get no names.
    """
    require("supervision")
    from supervision import Detections

    return Detections(
        xyxy=boxes.cpu().numpy().astype(np.float32).reshape(-1, 4),
        confidence=scores.cpu().numpy().astype(np.float32),
        class_id=labels.cpu().numpy().astype(int),
        mask=None if masks is None else masks.cpu().numpy(),
        data=_names(labels.tolist(), classes),
    )


def from_map(labels: Tensor, classes: Sequence[str] | None) -> Any:
    """One entry for each class that occurs: its pixels as a mask, and the box around them; without confidence.

    Args:
        labels: ``[H, W]``; pixels of 255 belong to no class.
        classes: names of the labels; ``None``: entries get no names.
    """
    require("supervision")
    from supervision import Detections

    present = [label for label in torch.unique(labels).tolist() if label != IGNORE]
    masks = np.stack([(labels == label).cpu().numpy() for label in present]) if present else None
    return Detections(
        xyxy=np.array([_box(mask) for mask in ([] if masks is None else masks)], dtype=np.float32).reshape(-1, 4),
        class_id=np.array(present, dtype=int),
        mask=np.zeros((0, *labels.shape), dtype=bool) if masks is None else masks,
        data=_names(present, classes),
    )


def _box(mask: np.ndarray[Any, np.dtype[np.bool_]]) -> tuple[int, int, int, int]:
    """The box around the pixels of a mask; its right and bottom edges are those of the last pixels."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return columns[0], rows[0], columns[-1] + 1, rows[-1] + 1


def _names(labels: Sequence[int], classes: Sequence[str] | None) -> dict[str, Any]:
    """The entry ``class_name``; a label without a name keeps its number."""
    if classes is None:
        return {}
    names = [classes[label] if label < len(classes) else str(label) for label in labels]
    return {"class_name": np.array(names, dtype=str)}
