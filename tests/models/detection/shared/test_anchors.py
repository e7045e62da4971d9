from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from dcn.models.detection.shared.anchors import cell_anchors, grid_anchors, original_cell_anchors

RATIOS = (0.5, 1.0, 2.0)
GOLDEN = np.load(Path(__file__).parents[3] / "golden" / "utils.npz")


def test_cell_anchors_by_hand() -> None:
    # Stride 4, scale 8: area 1024; widths 32 sqrt(2), 32, 32 / sqrt(2).
    w, h = 32 * 2**0.5 / 2, 32 / 2**0.5 / 2
    expected = torch.tensor([[-w, -h, w, h], [-16, -16, 16, 16], [-h, -w, h, w]])
    torch.testing.assert_close(cell_anchors(4, (8,), RATIOS), expected)


def test_ratio_changes_slowest() -> None:
    got = cell_anchors(16, (1, 2), (1.0, 4.0))
    assert got.tolist() == [[-8, -8, 8, 8], [-16, -16, 16, 16], [-4, -16, 4, 16], [-8, -32, 8, 32]]


@pytest.mark.parametrize(
    ("name", "stride", "scales"),
    [
        ("voc", 16, (8, 16, 32)),
        ("coco", 16, (4, 8, 16, 32)),
        ("fpn_4", 4, (8,)),
        ("fpn_8", 8, (8,)),
        ("fpn_16", 16, (8,)),
        ("fpn_32", 32, (8,)),
        ("fpn_64", 64, (8,)),
    ],
)
def test_anchors_of_the_original_code(name: str, stride: int, scales: tuple[float, ...]) -> None:
    got = original_cell_anchors(stride, scales, RATIOS)
    torch.testing.assert_close(got, torch.from_numpy(GOLDEN[f"anchors_{name}"]).float(), rtol=0, atol=0)


def test_grid_order_is_row_column_anchor() -> None:
    cell = torch.tensor([[0.0, 0, 1, 1], [0, 0, 2, 2]])
    got = grid_anchors(cell, (2, 3), 10)
    expected = [
        [x * 10 + a, y * 10 + b, x * 10 + c, y * 10 + d]
        for y in range(2)
        for x in range(3)
        for a, b, c, d in cell.tolist()
    ]
    assert got.tolist() == expected
