"""The second stage of the original Faster R-CNN and FPN: pooled regions through two fully connected layers."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from dcn import boxes, ops
from dcn.models.detection.shared.regions import pool_by_level
from dcn.models.initialise import initialise

BINS = 7
SAMPLES_PER_PART = 4
TRANS_STD = 0.1


class MaxRoIPool(nn.Module):
    """RoI max pooling to 7 x 7 bins, which the original's plain models use (the paper says average)."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, features: Tensor, rois: Tensor) -> Tensor:
        """Map ``[N, C, H, W]`` and inclusive regions ``[R, 5]`` to ``[R, C, 7, 7]``."""
        return ops.roi_pool(features, rois, BINS, 1 / self.stride)


class OffsetRoIPool(nn.Module):
    """Deformable RoI pooling to 7 x 7 bins: one linear layer predicts the offsets from the bins at rest.

    Args:
        channels: of the map.
        stride: image pixels per cell.
    """

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.offset_fc = nn.Linear(channels * BINS * BINS, 2 * BINS * BINS)
        nn.init.zeros_(self.offset_fc.weight)
        nn.init.zeros_(self.offset_fc.bias)

    def forward(self, features: Tensor, rois: Tensor) -> Tensor:
        """Map ``[N, C, H, W]`` and inclusive regions ``[R, 5]`` to ``[R, C, 7, 7]``."""
        at_rest = self._pool(features, rois, None)
        offset = self.offset_fc(at_rest.flatten(1)).view(-1, 2, BINS, BINS)
        return self._pool(features, rois, offset)

    def _pool(self, features: Tensor, rois: Tensor, offset: Tensor | None) -> Tensor:
        return ops.deform_ps_roi_pool(
            features, rois, offset, BINS, 1 / self.stride, sample_per_part=SAMPLES_PER_PART, trans_std=TRANS_STD
        )


class LevelRoIPool(nn.Module):
    """Pools each region from the level of its size (FPN, equation 1, in the original's form).

    Args:
        pools: one per level, finest (stride 4) first.
    """

    def __init__(self, pools: Sequence[nn.Module]) -> None:
        super().__init__()
        self.levels = nn.ModuleList(pools)
        self.repeated_work = len(pools)  # with fixed shapes every level is given all regions

    def level_of(self, rois: Tensor) -> Tensor:
        """``[R]`` int64: ``floor(2 + log2(sqrt(w * h) / 224))`` of regions ``[R, 5]``, clipped to the levels."""
        # In double precision: a region of exactly 224 x 224 must not fall below its level by a rounding error.
        side = boxes.areas(rois[:, 1:].double(), 1).clamp(min=1e-6).sqrt()
        level = (2 + (side / 224).log2()).floor().long()
        return level.clamp(0, len(self.levels) - 1)

    def forward(self, features: Sequence[Tensor], rois: Tensor) -> Tensor:
        """Maps ``[N, C, H_l, W_l]`` and inclusive regions ``[R, 5]`` to ``[R, C, 7, 7]`` in their order."""
        return pool_by_level(features, rois, self.level_of(rois), self.levels)


class TwoLayerHead(nn.Module):
    """Two shared fully connected layers, then class scores and a box per class; background comes first.

    Args:
        in_features: ``C * 7 * 7``.
        num_classes: without background.
        channels: width of the two layers.
    """

    def __init__(self, in_features: int, num_classes: int, *, channels: int = 1024) -> None:
        super().__init__()
        self.shared_fcs = nn.ModuleList((nn.Linear(in_features, channels), nn.Linear(channels, channels)))
        self.fc_cls = nn.Linear(channels, num_classes + 1)
        self.fc_reg = nn.Linear(channels, 4 * (num_classes + 1))
        initialise(self)

    def forward(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        """``[R, C, 7, 7]`` to logits ``[R, num_classes + 1]`` and deltas ``[R, num_classes + 1, 4]``, both float32."""
        hidden = pooled.flatten(1)
        for layer in self.shared_fcs:
            hidden = F.relu(layer(hidden))
        return self.fc_cls(hidden).float(), self.fc_reg(hidden).float().unflatten(1, (-1, 4))
