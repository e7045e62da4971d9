"""Connected regions against a flood fill."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch

from dcn.analysis.effective_dilation import categories_in_map
from dcn.analysis.regions import region_areas
from dcn.structures import SegmentationMap


def flooded(labels: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    areas = np.zeros_like(labels)
    for start in np.ndindex(*labels.shape):
        if areas[start]:
            continue
        region, open_ = {start}, [start]
        while open_:
            row, column = open_.pop()
            for beside in ((row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)):
                inside = 0 <= beside[0] < labels.shape[0] and 0 <= beside[1] < labels.shape[1]
                if inside and beside not in region and labels[beside] == labels[start]:
                    region.add(beside)
                    open_.append(beside)
        for place in region:
            areas[place] = len(region)
    return areas


@pytest.mark.parametrize("classes", [1, 2, 3, 7])
@pytest.mark.parametrize("shape", [(1, 9), (9, 1), (13, 17)], ids=str)
def test_areas_are_those_of_a_flood_fill(shape: tuple[int, int], classes: int) -> None:
    labels = np.random.default_rng(classes).integers(0, classes, shape)
    np.testing.assert_array_equal(region_areas(labels), flooded(labels))


def test_a_spiral_is_one_region() -> None:
    rows = ["1111111", "0000001", "1111101", "1000101", "1011101", "1000001", "1111111"]
    labels = np.array([[int(sign) for sign in row] for row in rows])
    np.testing.assert_array_equal(region_areas(labels), flooded(labels))


def test_objects_of_a_map() -> None:
    """A region of 16 pixels, one of 100, background, and pixels without annotation."""
    labels = torch.zeros(20, 30, dtype=torch.int64)
    labels[2:6, 2:6], labels[8:18, 10:20], labels[:, 29] = 1, 1, 255
    centers = torch.tensor([[3.5, 3.5], [15.0, 10.0], [25.0, 3.0], [29.5, 5.0], [31.0, 5.0], [-0.5, 5.0]])
    actual = categories_in_map(centers, SegmentationMap(labels), (6, 10), background=0)
    assert actual.tolist() == [0, 2, 3, -1, -1, -1]
    assert categories_in_map(centers[2:3], SegmentationMap(labels), (6, 10)).tolist() == [2]  # no class is background
