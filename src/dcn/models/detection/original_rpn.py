"""The region proposal network of the original MXNet code: softmax scores, rounded anchors, boxes with inclusive ends.

One class serves the single map of R-FCN and Faster R-CNN, the five levels of the original FPN, and, with more than one
foreground class, the class-aware network of the paper. All boxes in here are inclusive (width ``x2 - x1 + 1``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dcn import boxes, ops
from dcn.models.detection.anchors import grid_anchors, original_cell_anchors
from dcn.models.detection.original_targets import AnchorTargets
from dcn.models.losses import box_loss, class_loss

Size = tuple[int, int]


@dataclass(frozen=True)
class OriginalRPNOutput:
    """Scores and deltas of all ``M`` anchors: level after level, then row, column, anchor shape.

    Attributes:
        logits: ``[N, M, K]`` float32; class 0 is background.
        deltas: ``[N, M, 4]`` float32, not normalised.
        anchors: ``[M, 4]`` inclusive.
        shapes: ``(height, width)`` of the map of each level.
    """

    logits: Tensor
    deltas: Tensor
    anchors: Tensor
    shapes: list[Size]


class OriginalRPNHead(nn.Module):
    """A 3x3 convolution, class scores and box deltas, shared by all levels.

    Args:
        in_channels: channels of the maps.
        channels: of the 3x3 convolution.
        strides: pixels per cell of each level.
        scales: sides of the anchors in cells.
        ratios: height / width of the anchors.
        num_classes: foreground classes; 1 in an ordinary network.
        before_nms: anchors that enter non-maximum suppression, of all levels together.
        after_nms: proposals per image.
        nms_iou: overlap above which a proposal suppresses another.
        samples: anchors per image in the losses; the box loss is divided by it however many are positive.
        inside_only: trains only anchors inside the image; the pyramid trains all.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int = 512,
        *,
        strides: Sequence[int] = (16,),
        scales: Sequence[float] = (4, 8, 16, 32),
        ratios: Sequence[float] = (0.5, 1.0, 2.0),
        num_classes: int = 1,
        before_nms: int = 6000,
        after_nms: int = 300,
        nms_iou: float = 0.7,
        samples: int = 256,
        inside_only: bool = True,
    ) -> None:
        super().__init__()
        self.shapes_per_cell = len(scales) * len(ratios)
        self.rpn_conv = nn.Conv2d(in_channels, channels, 3, padding=1)
        self.rpn_cls = nn.Conv2d(channels, (num_classes + 1) * self.shapes_per_cell, 1)
        self.rpn_reg = nn.Conv2d(channels, 4 * self.shapes_per_cell, 1)
        initialise(self)
        self.strides, self.scales, self.ratios = tuple(strides), tuple(scales), tuple(ratios)
        self.before_nms, self.after_nms, self.nms_iou = before_nms, after_nms, nms_iou
        self.samples, self.inside_only = samples, inside_only

    def forward(self, features: Sequence[Tensor]) -> OriginalRPNOutput:
        """Maps ``[N, in_channels, H_l, W_l]``, one per stride, to scores and deltas of all anchors.

        The classes lie outside of the anchors among the channels of the scores (channel ``k * A + a``); among those of
        the deltas the anchors lie outside (channel ``4 * a + i``).
        """
        if len(features) != len(self.strides):
            raise ValueError(
                f"features: expected {len(self.strides)} maps (strides {self.strides}), got {len(features)}"
            )
        logits, deltas, anchors = [], [], []
        for feature, stride in zip(features, self.strides, strict=True):
            hidden = F.relu(self.rpn_conv(feature))
            scores = self.rpn_cls(hidden).float().unflatten(1, (-1, self.shapes_per_cell))
            logits.append(scores.permute(0, 3, 4, 2, 1).flatten(1, 3))
            deltas.append(self.rpn_reg(hidden).float().permute(0, 2, 3, 1).flatten(1).unflatten(1, (-1, 4)))
            cell = original_cell_anchors(stride, self.scales, self.ratios).to(feature.device)
            anchors.append(grid_anchors(cell, (feature.shape[2], feature.shape[3]), stride))
        shapes = [(feature.shape[2], feature.shape[3]) for feature in features]
        return OriginalRPNOutput(torch.cat(logits, 1), torch.cat(deltas, 1), torch.cat(anchors), shapes)

    @torch.no_grad()
    def proposals(self, output: OriginalRPNOutput, sizes: Sequence[Size]) -> list[Tensor]:
        """The proposals ``[R_i, 4]`` of each image, best first, inclusive and clipped to its ``(height, width)``.

        In training each image gets exactly ``after_nms`` of them: missing ones are repeats of others, drawn at random,
        as in the original. In evaluation repeats would change nothing and are left out.
        """
        return [self._proposals_of(output, index, size) for index, size in enumerate(sizes)]

    def _proposals_of(self, output: OriginalRPNOutput, index: int, size: Size) -> Tensor:
        scores = output.logits[index].softmax(1)[:, 1:].sum(1)
        usable = self._whole_cells(output, size).nonzero()[:, 0]
        best, order = scores[usable].topk(min(self.before_nms, usable.numel()))
        chosen = usable[order]
        candidates = decode(output.anchors[chosen], output.deltas[index, chosen], size)
        keep = ops.nms(candidates, best, self.nms_iou, plus_one=True, max_output=self.after_nms)
        missing = self.after_nms - keep.numel()
        if self.training and missing > 0 and keep.numel() > 0:
            repeats = torch.randint(keep.numel(), (missing,)).to(keep.device)
            keep = torch.cat((keep, keep[repeats]))
        return candidates[keep]

    def _whole_cells(self, output: OriginalRPNOutput, size: Size) -> Tensor:
        """``[M]`` bool: anchors of cells that lie in the image as a whole; the original crops its maps to these."""
        flags = []
        for (rows, columns), stride in zip(output.shapes, self.strides, strict=True):
            valid = torch.zeros(rows, columns, self.shapes_per_cell, dtype=torch.bool, device=output.logits.device)
            valid[: size[0] // stride, : size[1] // stride] = True
            flags.append(valid.flatten())
        return torch.cat(flags)

    def losses(self, output: OriginalRPNOutput, targets: Sequence[AnchorTargets]) -> dict[str, Tensor]:
        """``loss_rpn_cls`` (mean over sampled anchors) and ``loss_rpn_bbox`` (sum / ``samples``), averaged over images.

        Args:
            output: of :meth:`forward`.
            targets: of each image, from :func:`dcn.models.detection.original_targets.assign_anchors`.
        """
        cls, reg = [], []
        for logits, deltas, target in zip(output.logits, output.deltas, targets, strict=True):
            cls.append(class_loss(logits, target.labels))
            positive = target.labels > 0
            reg.append(box_loss(deltas[positive], target.deltas[positive], self.samples, beta=1 / 9))
        return {"loss_rpn_cls": torch.stack(cls).mean(), "loss_rpn_bbox": torch.stack(reg).mean()}


def decode(references: Tensor, deltas: Tensor, size: Size, stds: Sequence[float] = (1.0, 1.0, 1.0, 1.0)) -> Tensor:
    """Inclusive boxes ``[..., 4]`` from deltas without a bound on their size, clipped to ``(height, width)``."""
    decoded = boxes.decode(references, deltas, stds=stds, pixel_offset=1, max_log_ratio=None)
    return boxes.clip(decoded, size, pixel_offset=1)


def initialise(module: nn.Module) -> None:
    """Normal weights of deviation 0.01 and zero biases for every convolution and linear layer (the original's rule)."""
    for layer in module.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            nn.init.normal_(layer.weight, std=0.01)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
