"""Classification and box regression of pooled regions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dcn import boxes
from dcn.models.detection.pyramid.roi_sampling import SampledRois
from dcn.models.detection.shared.slots import slots_of
from dcn.models.losses import box_loss, class_loss


class BoxHead(nn.Module):
    """Two shared fully connected layers, then class scores and box deltas.

    Args:
        in_features: ``C * k * k`` of the pooled regions.
        num_classes: without background, which is the last score.
        fc_channels: width of the two layers.
        class_agnostic: one box per region instead of one per class.
        stds: what deltas are divided by.
        beta: of the smooth L1 loss; 0 is L1.
    """

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        *,
        fc_channels: int = 1024,
        class_agnostic: bool = False,
        stds: Sequence[float] = (0.1, 0.1, 0.2, 0.2),
        beta: float = 0.0,
    ) -> None:
        super().__init__()
        self.shared_fcs = nn.ModuleList((nn.Linear(in_features, fc_channels), nn.Linear(fc_channels, fc_channels)))
        self.fc_cls = nn.Linear(fc_channels, num_classes + 1)
        self.fc_reg = nn.Linear(fc_channels, 4 if class_agnostic else 4 * num_classes)
        self.num_classes, self.class_agnostic = num_classes, class_agnostic
        self.stds, self.beta = tuple(stds), beta
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)
        nn.init.normal_(self.fc_cls.weight, std=0.01)
        nn.init.normal_(self.fc_reg.weight, std=0.001)

    def forward(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        """Pooled regions ``[R, C, k, k]`` to logits ``[R, num_classes + 1]`` and deltas ``[R, K, 4]``, both float32.

        ``K`` is 1 for a class-agnostic head and ``num_classes`` otherwise.
        """
        hidden = pooled.flatten(1)
        for layer in self.shared_fcs:
            hidden = F.relu(layer(hidden))
        return self.fc_cls(hidden).float(), self.fc_reg(hidden).float().unflatten(1, (-1, 4))

    def losses(self, logits: Tensor, deltas: Tensor, sampled: SampledRois) -> dict[str, Tensor]:
        """``loss_cls`` and ``loss_bbox``, both divided by the number of sampled regions."""
        positive = slots_of(sampled.positive)
        rows = positive.indices
        label = torch.zeros_like(rows) if self.class_agnostic else positive.of(sampled.labels)
        expected = boxes.encode(sampled.rois[rows, 1:], sampled.boxes[rows], stds=self.stds)
        return {
            "loss_cls": class_loss(logits, sampled.labels),
            "loss_bbox": box_loss(deltas[rows, label], expected, sampled.valid.sum(), self.beta, positive.valid),
        }

    def decode(self, rois: Tensor, deltas: Tensor) -> Tensor:
        """Boxes ``[..., K, 4]`` of regions ``[..., 4]``, not clipped."""
        return boxes.decode(rois[..., None, :], deltas, stds=self.stds)
