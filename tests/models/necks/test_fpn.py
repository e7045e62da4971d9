from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from dcn.models.necks import FPN

CHANNELS = (4, 8, 12, 16)


def _maps() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, c, 16 >> i, 24 >> i, generator=generator) for i, c in enumerate(CHANNELS)]


def test_equals_the_definition() -> None:
    torch.manual_seed(0)
    fpn, maps = FPN(CHANNELS, 6), _maps()
    lateral: list[nn.Conv2d] = [module.conv for module in fpn.lateral_convs]  # type: ignore[misc]
    output: list[nn.Conv2d] = [module.conv for module in fpn.fpn_convs]  # type: ignore[misc]
    merged = lateral[3](maps[3])
    expected = [output[3](merged)]
    for level in (2, 1, 0):
        merged = lateral[level](maps[level]) + merged.repeat_interleave(2, 2).repeat_interleave(2, 3)
        expected.insert(0, output[level](merged))
    expected.append(expected[3][:, :, ::2, ::2])
    torch.testing.assert_close(list(fpn(maps)), expected)


def test_extra_convolution_reads_the_coarsest_map() -> None:
    fpn, maps = FPN(CHANNELS, 6, extra="conv"), _maps()
    assert fpn.extra_conv is not None
    expected = F.conv2d(maps[3], fpn.extra_conv.weight, fpn.extra_conv.bias, stride=2, padding=1)
    torch.testing.assert_close(fpn(maps)[4], expected)


def test_odd_sizes() -> None:
    maps = [torch.randn(1, c, h, w) for c, h, w in zip(CHANNELS, (13, 7, 4, 2), (11, 6, 3, 2), strict=True)]
    assert [tuple(m.shape[-2:]) for m in FPN(CHANNELS, 6)(maps)] == [(13, 11), (7, 6), (4, 3), (2, 2), (1, 1)]


def test_names_of_mmdetection() -> None:
    names = set(FPN(CHANNELS, 6).state_dict())
    groups = ("lateral_convs", "fpn_convs")
    assert names == {f"{g}.{i}.conv.{kind}" for g in groups for i in range(4) for kind in ("weight", "bias")}
