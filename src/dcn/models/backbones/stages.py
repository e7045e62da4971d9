"""What the residual backbones share: a stem, four stages, and which of them are trained."""

from __future__ import annotations

from torch import Tensor, nn

from dcn.models.backbones.freezing import NormRule, freeze, keep_statistics
from dcn.nn import DeformConv2d


class FourStages(nn.Module):
    """A backbone of a stem (``conv1``, ``bn1``, ``maxpool``) and the stages ``layer1`` to ``layer4``.

    Attributes:
        out_channels: channels of the four maps.
        strides: image pixels per cell of the four maps.
    """

    conv1: nn.Conv2d
    bn1: nn.BatchNorm2d
    relu: nn.ReLU
    maxpool: nn.MaxPool2d
    layer1: nn.Sequential
    layer2: nn.Sequential
    layer3: nn.Sequential
    layer4: nn.Sequential
    out_channels: list[int]
    strides: tuple[int, int, int, int]
    norm: NormRule
    frozen_stages: int

    def _begin(self) -> None:
        """Random weights, and what is frozen: the end of every constructor."""
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, DeformConv2d)) and module.bias is None:
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        freeze(self, self._frozen_parts(), self.norm)

    def _frozen_parts(self) -> list[nn.Module]:
        stages = [self.layer1, self.layer2, self.layer3, self.layer4]
        return [self.conv1, self.bn1, *stages[: self.frozen_stages]] if self.frozen_stages else []

    def train(self, mode: bool = True) -> FourStages:
        """Sets training mode; batch norm stays in evaluation where its statistics are fixed."""
        super().train(mode)
        keep_statistics(self, self._frozen_parts(), self.norm)
        return self

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Normalised images ``[N, 3, H, W]`` to ``(C2, C3, C4, C5)`` of strides 4, 8, 16, 32 (16 when dilated)."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        c2 = self.layer1(x)
        c3 = self.layer2(c2)
        c4 = self.layer3(c3)
        return c2, c3, c4, self.layer4(c4)
