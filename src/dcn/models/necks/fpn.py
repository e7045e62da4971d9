"""Feature Pyramid Network (Lin et al. 2017) in the form of mmdetection and in that of the original MXNet code."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn


def named_conv(conv: nn.Conv2d) -> nn.Sequential:
    """A convolution under the key ``conv``, the name that checkpoints of mmdetection give it."""
    return nn.Sequential(OrderedDict(conv=conv))


class FPN(nn.Module):
    """Top-down pathway over ``C2 .. C5`` with one more, coarsest level.

    Args:
        in_channels: channels of the backbone's maps, finest first.
        out_channels: channels of every output.
        extra: the coarsest level: ``"pool"`` takes every second cell of ``P5`` (mmdetection); ``"conv"`` is a 3x3
            convolution of stride 2 on ``C5`` (the original MXNet code).
    """

    def __init__(
        self, in_channels: Sequence[int], out_channels: int = 256, *, extra: Literal["pool", "conv"] = "pool"
    ) -> None:
        super().__init__()
        self.lateral_convs = nn.ModuleList(named_conv(nn.Conv2d(c, out_channels, 1)) for c in in_channels)
        self.fpn_convs = nn.ModuleList(
            named_conv(nn.Conv2d(out_channels, out_channels, 3, padding=1)) for _ in in_channels
        )
        self.extra_conv = nn.Conv2d(in_channels[-1], out_channels, 3, 2, 1) if extra == "conv" else None
        self.out_channels = out_channels
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.xavier_uniform_(module.weight)
                assert module.bias is not None
                nn.init.zeros_(module.bias)

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Maps ``[N, C_i, H_i, W_i]``, finest first, to ``len(features) + 1`` maps ``[N, out_channels, ., .]``."""
        laterals = [conv(feature) for conv, feature in zip(self.lateral_convs, features, strict=True)]
        for i in range(len(laterals) - 1, 0, -1):
            laterals[i - 1] = laterals[i - 1] + F.interpolate(laterals[i], size=laterals[i - 1].shape[-2:])
        outputs = [conv(lateral) for conv, lateral in zip(self.fpn_convs, laterals, strict=True)]
        if self.extra_conv is not None:
            return (*outputs, self.extra_conv(features[-1]))
        return (*outputs, F.max_pool2d(outputs[-1], 1, 2))
