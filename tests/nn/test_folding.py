from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import nn

from dcn.models.backbones.resnet import ResNet, deformable_positions
from dcn.models.segmentation.deeplabv3 import AsppHead
from dcn.nn import DeformConv2d, FrozenBatchNorm2d, fold_batch_norm

_DEFORM = deformable_positions(["c4.1", "c5"], (2, 2, 2, 2))


def _unsettle(model: nn.Module) -> nn.Module:
    """Random statistics, scales, shifts and offsets: nothing may work only where they are trivial."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d | FrozenBatchNorm2d):
            assert isinstance(module.running_mean, torch.Tensor)
            assert isinstance(module.running_var, torch.Tensor)
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2)
            for parameter in module.parameters():
                nn.init.uniform_(parameter, -1.5, 1.5)
        if isinstance(module, DeformConv2d):
            nn.init.normal_(module.conv_offset.weight, std=0.05)
    return model.eval()


MODELS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "basic": (partial(ResNet, 18, width=0.125, stem_channels=8), 20),
    "bottleneck": (partial(ResNet, 50, width=0.125, stem_channels=8), 53),
    "deformable": (partial(ResNet, 18, width=0.125, stem_channels=8, deform=dict.fromkeys(_DEFORM, DeformConv2d)), 20),
    "sequential": (lambda: nn.Sequential(nn.Conv2d(3, 4, 3, bias=True), nn.BatchNorm2d(4), nn.ReLU()), 1),
    "no-affine": (lambda: nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, affine=False)), 1),
    "frozen": (lambda: nn.Sequential(nn.Conv2d(3, 4, 1), FrozenBatchNorm2d(4)), 1),
    "grouped": (lambda: nn.Sequential(nn.Conv2d(3, 6, 3, groups=3), nn.BatchNorm2d(6)), 1),
}


@pytest.mark.parametrize("name", MODELS)
def test_the_function_stays(name: str) -> None:
    torch.manual_seed(0)
    make, count = MODELS[name]
    model = _unsettle(make()).double()
    image = torch.randn(2, 3, 40, 56, dtype=torch.float64)
    with torch.no_grad():
        expected = model(image)
        assert fold_batch_norm(model) == count
        got = model(image)
    assert not any(isinstance(m, nn.BatchNorm2d | FrozenBatchNorm2d) for m in model.modules())
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)


def test_branches_of_a_head() -> None:
    torch.manual_seed(0)
    head = _unsettle(AsppHead(8, 3, channels=4, rates=(1, 2), deform=True)).double()
    features = torch.randn(1, 8, 9, 10, dtype=torch.float64)
    with torch.no_grad():
        expected = head(features, (9, 10))
        assert fold_batch_norm(head) == 4
        torch.testing.assert_close(head(features, (9, 10)), expected, rtol=1e-9, atol=1e-9)


def test_training_mode_is_refused() -> None:
    with pytest.raises(ValueError, match="expected evaluation mode, got training mode"):
        fold_batch_norm(nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1)))


def test_what_is_shared_or_not_next_to_a_convolution_stays() -> None:
    conv = nn.Conv2d(2, 2, 1)
    twice = nn.Sequential(nn.Sequential(conv, nn.BatchNorm2d(2)), nn.Sequential(conv, nn.BatchNorm2d(2))).eval()
    assert fold_batch_norm(twice) == 0
    apart = nn.Sequential(nn.Conv2d(2, 2, 1), nn.ReLU(), nn.BatchNorm2d(2)).eval()
    assert fold_batch_norm(apart) == 0
    norm = nn.BatchNorm2d(2)
    assert fold_batch_norm(nn.Sequential(nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2), norm).eval()) == 1
