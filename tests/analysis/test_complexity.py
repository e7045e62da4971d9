from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from dcn import ops
from dcn.analysis import count_multiply_adds, count_parameters
from dcn.models.backbones import ResNet
from dcn.nn import DeformConv2d, DeformConvTranspose2d


def _total(module: nn.Module, *inputs: Tensor) -> float:
    return count_multiply_adds(module, lambda: module(*inputs)).total


_MAP = (2, 4, 10, 9)

# Multiply-adds by hand: cells x taps x channels in x channels out.
LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], int]] = {
    "conv": (lambda: nn.Conv2d(4, 6, 3, padding=1), _MAP, 2 * 90 * 9 * 4 * 6),
    "strided": (lambda: nn.Conv2d(4, 6, (3, 2), stride=2), _MAP, 2 * 4 * 4 * 6 * 4 * 6),
    "grouped": (lambda: nn.Conv2d(4, 6, 3, padding=1, groups=2), _MAP, 2 * 90 * 9 * 2 * 6),
    "transposed": (lambda: nn.ConvTranspose2d(4, 6, 2, stride=2), _MAP, 2 * 90 * 4 * 4 * 6),
    "transposed-grouped": (lambda: nn.ConvTranspose2d(4, 4, 4, stride=2, groups=4), _MAP, 2 * 90 * 16 * 4),
    "linear": (lambda: nn.Linear(7, 5), (3, 7), 3 * 7 * 5),
    "linear-of-rows": (lambda: nn.Linear(7, 5, bias=False), (2, 3, 7), 2 * 3 * 7 * 5),
    # Offsets of 18 channels, four neighbours for every sample of every channel, then the convolution itself.
    "deformable": (
        lambda: DeformConv2d(4, 6, 3, padding=1),
        _MAP,
        2 * 90 * (9 * 4 * 18 + 4 * 9 * 4 + 9 * 4 * 6),
    ),
    "deformable-grouped": (
        lambda: DeformConv2d(4, 6, 3, padding=1, groups=2, offset_groups=2, modulated=True),
        _MAP,
        2 * 90 * (9 * 4 * 54 + 4 * 9 * 4 + 9 * 2 * 6),
    ),
    "deformable-transposed": (
        lambda: DeformConvTranspose2d(4, 6, 2, stride=2, groups=2),
        _MAP,
        2 * 90 * (9 * 4 * 8 + 4 * 4 * 6 + 4 * 4 * 3),
    ),
}


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_by_hand(name: str, device: str) -> None:
    make, shape, expected = LAYERS[name]
    assert _total(make().to(device), torch.rand(shape).to(device)) == expected


def test_roi_pooling_by_hand() -> None:
    """4 multiply-adds a sample: 2 x 2 samples where their number hangs on the region, whole cells are only added."""
    maps, rois = torch.empty(1, 8, 20, 20, device="meta"), torch.empty(5, 5, device="meta")
    idle = nn.Identity()
    align = count_multiply_adds(idle, lambda: ops.roi_align(maps, rois, 7, aligned=True))
    fixed = count_multiply_adds(idle, lambda: ops.roi_align(maps, rois, 7, sampling_ratio=3))
    parts = count_multiply_adds(idle, lambda: ops.deform_ps_roi_pool(maps, rois, None, 7, 1.0, sample_per_part=4))
    cells = count_multiply_adds(idle, lambda: ops.ps_roi_pool(maps, rois, 2, 1.0))
    values = 5 * 8 * 49
    assert [c.total for c in (align, fixed, parts, cells)] == [values * 16, values * 36, values * 64, 0]


@pytest.mark.parametrize(("depth", "published"), [(18, 1.81), (34, 3.66), (50, 4.09), (101, 7.80)])
def test_resnets_as_torchvision_publishes_them(depth: int, published: float) -> None:
    """Its tables (GFLOPS at 224 x 224) include the classifier: channels x 1000."""
    with torch.device("meta"):
        network = ResNet(depth)
        total = _total(network, torch.empty(1, 3, 224, 224)) + network.out_channels[3] * 1000
    assert round(total / 1e9, 2) == pytest.approx(published, abs=0.011)


def test_parts_and_shared_work() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.pool = nn.Linear(3, 3), nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))

        def forward(self, x: Tensor) -> Tensor:
            return self.pool(self.first(x)) @ x.T

    module, x = Twice(), torch.rand(1, 3)
    module.pool.repeated_work = 2  # type: ignore[assignment]  # nn.Module attributes are untyped
    count = count_multiply_adds(module, lambda: module(x))
    assert count.by_part == {"first": 9.0, "pool": 9.0, "": 3.0}
    assert sum(count.by_operator.values()) == count.total == 21.0
    assert count_parameters(module) == 36
    # The hooks are gone, and an error inside leaves none behind.
    with pytest.raises(RuntimeError):
        count_multiply_adds(module, lambda: module(torch.rand(1, 5)))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in module.modules())
