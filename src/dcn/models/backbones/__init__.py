"""Feature extractors."""

from __future__ import annotations

from dcn.models.backbones.aligned_inception_resnet import AlignedInceptionResNet
from dcn.models.backbones.resnet import ResNet, deformable_positions

__all__ = ["AlignedInceptionResNet", "ResNet", "deformable_positions"]
