"""Masks of pooled regions: the head and its targets (Mask R-CNN, section 3)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dcn import ops
from dcn.models.detection.pyramid.roi_sampling import SampledRois
from dcn.models.detection.shared.slots import slots_of
from dcn.models.losses import mask_loss
from dcn.models.necks.fpn import named_conv
from dcn.structures import Target


class MaskHead(nn.Module):
    """Four 3x3 convolutions, a 2x2 deconvolution of stride 2, one mask per class.

    Args:
        in_channels: channels of the pooled regions.
        num_classes: without background.
        channels: of the hidden layers.
    """

    def __init__(self, in_channels: int, num_classes: int, *, channels: int = 256) -> None:
        super().__init__()
        inputs = (in_channels, channels, channels, channels)
        self.convs = nn.ModuleList(named_conv(nn.Conv2d(c, channels, 3, padding=1)) for c in inputs)
        self.upsample = nn.ConvTranspose2d(channels, channels, 2, 2)
        self.conv_logits = nn.Conv2d(channels, num_classes, 1)
        for layer in self.modules():
            if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
                assert layer.bias is not None
                nn.init.zeros_(layer.bias)

    def forward(self, pooled: Tensor) -> Tensor:
        """Pooled regions ``[R, C, k, k]`` to logits ``[R, num_classes, 2k, 2k]``."""
        for conv in self.convs:
            pooled = F.relu(conv(pooled))
        return self.conv_logits(F.relu(self.upsample(pooled)))

    def losses(self, logits: Tensor, positives: SampledRois, targets: Sequence[Target]) -> dict[str, Tensor]:
        """``loss_mask`` of the logits ``[P, num_classes, m, m]`` of the positive regions, in their order."""
        expected = mask_targets(positives, targets, logits.shape[-1])
        return {"loss_mask": mask_loss(logits, expected, positives.labels)}


def mask_targets(positives: SampledRois, targets: Sequence[Target], side: int) -> Tensor:
    """What is inside of each positive region: the object's mask, averaged over ``side x side`` bins, at least 0.5.

    Returns:
        ``[P, side, side]`` bool; false in empty slots.

    Raises:
        ValueError: for a target without masks.
    """
    result = positives.valid.new_zeros(len(positives.rois), side, side)
    for index, target in enumerate(targets):
        if target.masks is None:
            raise ValueError(
                f"targets[{index}] (image {target.image_id!r}): expected masks, got None; "
                "train a model with masks on data with masks, for example COCO"
            )
        own = slots_of(positives.positive & (positives.rois[:, 0] == index))
        if len(target) == 0 or own.valid.numel() == 0:
            continue
        rois = own.of(positives.rois)
        rois = torch.cat((own.of(positives.objects)[:, None].to(rois.dtype), rois[:, 1:]), 1)
        masks = target.masks[:, None].to(rois.dtype)
        inside = ops.roi_align(masks, rois, side, 1.0, sampling_ratio=0, aligned=True)[:, 0] >= 0.5
        result[own.indices] = torch.where(own.valid[:, None, None], inside, result[own.indices])
    return result
