"""Region proposal network with one score per anchor, on several levels (mmdetection's form)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dcn import boxes, ops
from dcn.models.detection.shared.anchors import AnchorShapes, cell_anchors, grid_anchors, inside
from dcn.models.detection.shared.matcher import IGNORED, NOWHERE, match, overlaps, target_rows
from dcn.models.detection.shared.proposals import Proposals, best_proposals
from dcn.models.detection.shared.sampler import sample
from dcn.models.detection.shared.slots import joined, slots_of
from dcn.models.losses import binary_loss, box_loss
from dcn.models.preprocess import ImageBatch
from dcn.structures import Target


@dataclass(frozen=True)
class RPNOutput:
    """The scores and deltas of every anchor of a batch.

    Attributes:
        logits: per level ``[N, H * W * A]`` float32.
        deltas: per level ``[N, H * W * A, 4]`` float32.
        anchors: per level ``[H * W * A, 4]`` float32.
        shapes: ``(H, W)`` per level.
    """

    logits: list[Tensor]
    deltas: list[Tensor]
    anchors: list[Tensor]
    shapes: list[tuple[int, int]]


class RPNHead(nn.Module):
    """A 3x3 convolution with two 1x1 convolutions on it, shared by all levels; its losses and its proposals.

    Args:
        channels: channels of the maps and of the 3x3 convolution.
        anchors: of all levels, one scale in each.
        train_proposals: ``(per level before suppression, per image after it)`` in training.
        test_proposals: the same in evaluation.
        nms_iou: overlap above which a proposal suppresses another of its level.
        positive_iou: overlap from which an anchor is an object.
        negative_iou: overlap below which it is background; the best anchors of an object are positive from it on.
        samples: anchors per image in the losses, at most half of them positive.
        inside_only: trains only anchors inside the image (Cascade R-CNN).
        beta: of the smooth L1 loss; 0 is L1.
    """

    cells: Tensor

    def __init__(
        self,
        channels: int = 256,
        *,
        anchors: AnchorShapes = AnchorShapes(),  # noqa: B008  # frozen
        train_proposals: tuple[int, int] = (2000, 1000),
        test_proposals: tuple[int, int] = (1000, 1000),
        nms_iou: float = 0.7,
        positive_iou: float = 0.7,
        negative_iou: float = 0.3,
        samples: int = 256,
        inside_only: bool = False,
        beta: float = 0.0,
    ) -> None:
        super().__init__()
        self.rpn_conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.rpn_cls = nn.Conv2d(channels, anchors.per_cell, 1)
        self.rpn_reg = nn.Conv2d(channels, 4 * anchors.per_cell, 1)
        for conv in (self.rpn_conv, self.rpn_cls, self.rpn_reg):
            nn.init.normal_(conv.weight, std=0.01)
            assert conv.bias is not None
            nn.init.zeros_(conv.bias)
        self.strides, self.per_cell = anchors.strides, anchors.per_cell
        self.train_proposals, self.test_proposals, self.nms_iou = train_proposals, test_proposals, nms_iou
        self.positive_iou, self.negative_iou, self.samples = positive_iou, negative_iou, samples
        self.inside_only, self.beta = inside_only, beta
        # A buffer, so that it lies on the model's device: a copy at every call would wait for it.
        cells = torch.stack([cell_anchors(stride, anchors.scales, anchors.ratios) for stride in anchors.strides])
        self.register_buffer("cells", cells, persistent=False)

    def forward(self, features: Sequence[Tensor]) -> RPNOutput:
        """Maps ``[N, channels, H_l, W_l]``, one per stride, to scores and deltas of all anchors."""
        if len(features) != len(self.strides):
            raise ValueError(
                f"features: expected {len(self.strides)} maps (strides {self.strides}), got {len(features)}"
            )
        logits, deltas, anchors, shapes = [], [], [], []
        for feature, stride, cell in zip(features, self.strides, self.cells, strict=True):
            hidden = F.relu_(self.rpn_conv(feature))
            logits.append(self.rpn_cls(hidden).permute(0, 2, 3, 1).flatten(1).float())
            deltas.append(self.rpn_reg(hidden).permute(0, 2, 3, 1).flatten(1).unflatten(1, (-1, 4)).float())
            shapes.append((feature.shape[2], feature.shape[3]))
            anchors.append(grid_anchors(cell, shapes[-1], stride))
        return RPNOutput(logits, deltas, anchors, shapes)

    @torch.no_grad()
    def proposals(self, output: RPNOutput, sizes: Tensor) -> Proposals:
        """The proposals of each image, best first, clipped to its (height, width), a row of ``sizes`` ``[N, 2]``."""
        before, after = self.train_proposals if self.training else self.test_proposals
        scores, decoded, levels = [], [], []
        for level, (logits, deltas, anchors) in enumerate(
            zip(output.logits, output.deltas, output.anchors, strict=True)
        ):
            best, order = logits.topk(min(before, anchors.shape[0]), 1)
            scores.append(best)
            decoded.append(boxes.decode(anchors[order], deltas.gather(1, order[..., None].expand(-1, -1, 4))))
            levels.append(torch.full_like(order, level))
        candidates, score = boxes.clip_batch(torch.cat(decoded, 1), sizes), torch.cat(scores, 1).sigmoid()
        valid = (boxes.sizes(candidates) > 0).all(-1)
        keep = ops.nms_keep(candidates, score, self.nms_iou, torch.cat(levels, 1), valid)
        return best_proposals(candidates, score, keep, after).trimmed()

    def losses(self, output: RPNOutput, batch: ImageBatch, targets: Sequence[Target]) -> dict[str, Tensor]:
        """``loss_rpn_cls`` and ``loss_rpn_bbox``, both divided by the number of sampled anchors of the batch.

        Args:
            output: of :meth:`forward`.
            batch: the images; anchors in padding beyond an image's own multiple of the divisor are left out.
            targets: one per image; every object counts.
        """
        anchors = torch.cat(output.anchors)
        logits, deltas = torch.cat(output.logits, 1), torch.cat(output.deltas, 1)
        columns: list[tuple[Tensor, ...]] = []
        for index, target in enumerate(targets):
            matched = self._match(anchors, self._usable(output, batch, index), target)
            positive, negative = sample(matched, self.samples, 0.5)
            both = joined(positive, negative)
            own = target_rows(target.boxes.to(anchors.dtype), matched[positive.indices])
            columns.append(
                (
                    logits[index, both.indices],
                    torch.cat((torch.ones_like(positive.indices), torch.zeros_like(negative.indices))),
                    both.valid,
                    deltas[index, positive.indices],
                    boxes.encode(anchors[positive.indices], own),
                    positive.valid,
                )
            )
        scores, labels, sampled, moves, expected, objects = (torch.cat(c) for c in zip(*columns, strict=True))
        count = sampled.sum()
        return {
            "loss_rpn_cls": binary_loss(scores, labels, count, sampled),
            "loss_rpn_bbox": box_loss(moves, expected, count, self.beta, objects),
        }

    def _match(self, anchors: Tensor, usable: Tensor, target: Target) -> Tensor:
        """``[N]``: object of each anchor; ``IGNORED`` where not ``usable``."""
        chosen = slots_of(usable)
        matched = match(
            overlaps(target.boxes.to(anchors.dtype), chosen.of(anchors, NOWHERE)),
            positive_iou=self.positive_iou,
            negative_iou=self.negative_iou,
            low_quality="reassign",
            low_quality_iou=self.negative_iou,
        )
        return chosen.spread(matched, len(anchors), IGNORED)

    def _usable(self, output: RPNOutput, batch: ImageBatch, index: int) -> Tensor:
        """``[N]`` bool: anchors whose cell belongs to the image (mmdetection's valid flags), or that lie inside it."""
        height, width = batch.padded_size(index)
        flags = []
        for (rows, columns), stride, anchors in zip(output.shapes, self.strides, output.anchors, strict=True):
            valid = torch.zeros(rows, columns, self.per_cell, dtype=torch.bool, device=anchors.device)
            valid[: -(-height // stride), : -(-width // stride)].fill_(True)
            flags.append(valid.flatten())
        usable = torch.cat(flags)
        if self.inside_only:
            usable &= inside(torch.cat(output.anchors), batch.sizes[index])
        return usable
