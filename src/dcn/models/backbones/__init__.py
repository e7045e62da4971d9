"""Feature extractors."""

from __future__ import annotations

from dcn.models.backbones.resnet import ResNet, deformable_positions

__all__ = ["ResNet", "deformable_positions"]
