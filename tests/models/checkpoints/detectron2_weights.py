"""Weights by formula for the recorded detectors of detectron2, so that the recording has only shapes and results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def made_weights(shapes: Mapping[str, Sequence[int]], first_scale: float) -> dict[str, Array]:
    """A value for every name, such that maps keep their size through the layers and scores differ."""
    random = np.random.RandomState(3)
    return {name: _value(name, shapes[name], random, first_scale).astype(np.float32) for name in sorted(shapes)}


def _value(name: str, shape: Sequence[int], random: np.random.RandomState, first_scale: float) -> Array:
    drawn = np.clip(random.randn(*shape), -3, 3)
    if "norm" in name:
        return 0.1 * drawn + (0.0 if name.endswith(("mean", "bias")) else 1.0)
    if len(shape) == 1:
        return 0.05 * drawn
    gains = {"objectness": 3.0, "cls_score": 2.0, "anchor_deltas": 0.5, "bbox_pred": 0.5, "_offset": 0.6}
    gain = next((gain for part, gain in gains.items() if part in name), 1.0)
    if name.endswith("stem.conv1.weight"):
        gain = first_scale
    return gain * drawn / np.sqrt(np.prod(shape[1:]))


def made_image(height: int, width: int) -> Array:
    """A smooth RGB image ``[3, height, width]`` uint8."""
    y, x = np.mgrid[0:height, 0:width]
    planes = [127 + 90 * np.sin(x / (9.0 + 4 * c) + c) + 37 * np.cos(y / (7.0 + 3 * c)) for c in range(3)]
    return np.stack(planes).round().astype(np.uint8)
