from __future__ import annotations

import pytest
import torch

from dcn.structures import SegmentationMap


def test_resizing_takes_the_pixel_at_floor_of_the_ratio() -> None:
    """OpenCV's nearest resizing of 0..4 to 3 and to 7 columns, and of 2 rows to 3."""
    labels = torch.stack((torch.arange(5), torch.arange(5) + 10))
    assert SegmentationMap(labels, "a").resized((2, 3)).labels[0].tolist() == [0, 1, 3]
    larger = SegmentationMap(labels, "a").resized((3, 7))
    assert larger.labels.tolist() == [[0, 0, 1, 2, 2, 3, 4]] * 2 + [[10, 10, 11, 12, 12, 13, 14]]
    assert larger.image_id == "a"


@pytest.mark.parametrize("size", [(2, 5), (1, 4)], ids=["same", "odd"])
def test_resizing_equals_torch(size: tuple[int, int]) -> None:
    labels = torch.randint(0, 256, (2, 5), generator=torch.Generator().manual_seed(0))
    wanted = torch.nn.functional.interpolate(labels[None, None].float(), size, mode="nearest")[0, 0]
    assert torch.equal(SegmentationMap(labels).resized(size).labels, wanted.long())
