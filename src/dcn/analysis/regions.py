"""Connected regions of one label in a segmentation map: the objects of data without boxes."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt


def region_areas(labels: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.int64]:
    """For each pixel the number of pixels of its region: those of its label that are connected side by side.

    Args:
        labels: ``[H, W]``.

    Returns:
        ``[H, W]``.
    """
    # Runs of one label in a row, numbered from 0; then runs that touch from row to row are joined.
    starts = np.ones(labels.shape, dtype=bool)
    starts[:, 1:] = labels[:, 1:] != labels[:, :-1]
    runs = np.cumsum(starts.ravel()).reshape(labels.shape) - 1
    touching = labels[1:] == labels[:-1]
    pairs = np.unique(np.stack((runs[:-1][touching], runs[1:][touching]), 1), axis=0)
    parent = list(range(int(runs[-1, -1]) + 1)) if runs.size else []
    for upper, lower in pairs.tolist():
        a, b = _root(parent, upper), _root(parent, lower)
        parent[max(a, b)] = min(a, b)
    roots = np.array([_root(parent, run) for run in range(len(parent))], dtype=np.int64)
    regions = roots[runs]
    return np.bincount(regions.ravel(), minlength=len(parent))[regions]


def _root(parent: list[int], run: int) -> int:
    while parent[run] != run:
        parent[run] = parent[parent[run]]
        run = parent[run]
    return run
