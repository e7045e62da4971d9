from __future__ import annotations

import pytest
import torch
from torch.utils.data._utils.pin_memory import pin_memory

from dcn.structures import Sample, SegmentationMap, Target


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
    expected = torch.nn.functional.interpolate(labels[None, None].float(), size, mode="nearest")[0, 0]
    assert torch.equal(SegmentationMap(labels).resized(size).labels, expected.long())


@pytest.mark.parametrize(
    "target",
    [
        Target(torch.ones(2, 4), torch.zeros(2).long(), (3, 4), masks=torch.ones(2, 3, 4).bool(), image_id=7),
        SegmentationMap(torch.ones(3, 4).long(), 7),
    ],
    ids=["detection", "map"],
)
def test_the_loader_of_torch_can_pin_a_batch(target: Target | SegmentationMap, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pinning needs a GPU: here a copy stands in for it."""
    pinned: list[int] = []

    def pin(tensor: torch.Tensor) -> torch.Tensor:
        pinned.append(tensor.numel())
        return tensor.clone()

    monkeypatch.setattr(torch.Tensor, "pin_memory", pin)
    (actual,) = pin_memory([Sample(torch.zeros(3, 3, 4, dtype=torch.uint8), target)])
    assert type(actual.target) is type(target)
    assert actual.target.image_id == 7
    assert len(pinned) == (7 if isinstance(target, Target) else 2)
