"""The region proposal network of the original MXNet code: softmax scores, rounded anchors, boxes with inclusive ends.

One class serves the single map of R-FCN and Faster R-CNN, the five levels of the original FPN, and, with more than one
foreground class, the class-aware model of the paper. All boxes in here are inclusive (width ``x2 - x1 + 1``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dcn import boxes, ops
from dcn.models.detection.original.targets import AnchorTargets
from dcn.models.detection.shared.anchors import AnchorShapes, grid_anchors, original_cell_anchors
from dcn.models.detection.shared.fixed_shapes import to_device
from dcn.models.detection.shared.proposals import Proposals, best_proposals
from dcn.models.detection.shared.slots import slots_of
from dcn.models.initialise import initialise
from dcn.models.losses import box_loss, class_loss

Size = tuple[int, int]

ONE_MAP = AnchorShapes((16,), (4, 8, 16, 32))
"""The anchors of R-FCN and Faster R-CNN on COCO."""


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
        anchors: of all levels.
        num_classes: foreground classes; 1 in an ordinary model.
        before_nms: anchors that enter non-maximum suppression, of all levels together.
        after_nms: proposals per image.
        nms_iou: overlap above which a proposal suppresses another.
        samples: anchors per image in the losses; the box loss is divided by it however many are positive.
        inside_only: trains only anchors inside the image; the pyramid trains all.
    """

    cells: Tensor

    def __init__(
        self,
        in_channels: int,
        channels: int = 512,
        *,
        anchors: AnchorShapes = ONE_MAP,
        num_classes: int = 1,
        before_nms: int = 6000,
        after_nms: int = 300,
        nms_iou: float = 0.7,
        samples: int = 256,
        inside_only: bool = True,
    ) -> None:
        super().__init__()
        self.shapes_per_cell = anchors.per_cell
        self.rpn_conv = nn.Conv2d(in_channels, channels, 3, padding=1)
        self.rpn_cls = nn.Conv2d(channels, (num_classes + 1) * self.shapes_per_cell, 1)
        self.rpn_reg = nn.Conv2d(channels, 4 * self.shapes_per_cell, 1)
        initialise(self)
        self.strides = anchors.strides
        self.before_nms, self.after_nms, self.nms_iou = before_nms, after_nms, nms_iou
        self.samples, self.inside_only = samples, inside_only
        # A buffer, so that it lies on the model's device: a copy at every call would wait for it.
        cells = torch.stack(
            [original_cell_anchors(stride, anchors.scales, anchors.ratios) for stride in anchors.strides]
        )
        self.register_buffer("cells", cells, persistent=False)

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
        for feature, stride, cell in zip(features, self.strides, self.cells, strict=True):
            hidden = F.relu_(self.rpn_conv(feature))
            scores = self.rpn_cls(hidden).float().unflatten(1, (-1, self.shapes_per_cell))
            logits.append(scores.permute(0, 3, 4, 2, 1).flatten(1, 3))
            deltas.append(self.rpn_reg(hidden).float().permute(0, 2, 3, 1).flatten(1).unflatten(1, (-1, 4)))
            anchors.append(grid_anchors(cell, (feature.shape[2], feature.shape[3]), stride))
        shapes = [(feature.shape[2], feature.shape[3]) for feature in features]
        return OriginalRPNOutput(torch.cat(logits, 1), torch.cat(deltas, 1), torch.cat(anchors), shapes)

    @torch.no_grad()
    def proposals(self, output: OriginalRPNOutput, sizes: Tensor) -> Proposals:
        """The proposals of each image, best first, inclusive and clipped to its ``(height, width)``.

        Args:
            output: of :meth:`forward`.
            sizes: ``[N, 2]``.
        """
        scores = output.logits.softmax(2)[..., 1:].sum(2)
        usable = self._whole_cells(output, sizes)
        best, order = torch.where(usable, scores, -1.0).topk(min(self.before_nms, scores.shape[1]), 1)
        deltas = output.deltas.gather(1, order[..., None].expand(-1, -1, 4))
        candidates = decode(output.anchors[order], deltas, sizes)
        keep = ops.nms_keep(candidates, best, self.nms_iou, valid=usable.gather(1, order), plus_one=True)
        return best_proposals(candidates, best, keep, self.after_nms).trimmed()

    @torch.no_grad()
    def filled_proposals(self, output: OriginalRPNOutput, sizes: Tensor) -> Proposals:
        """Exactly ``after_nms`` proposals of each image in which there are any, as the original trains on.

        Missing ones are repeats of others, chosen at random; in evaluation repeats would change nothing.
        """
        proposals = self.proposals(output, sizes)
        images, slots = proposals.valid.shape
        # Random numbers of the host, so that a seed means the same everywhere; the host does not know the count, so
        # they are shares of it.
        share = to_device(torch.rand(images, self.after_nms, dtype=torch.float64), proposals.boxes.device)
        if slots == 0:
            return proposals
        count = proposals.valid.sum(1, keepdim=True)
        slot = torch.arange(self.after_nms, device=count.device)
        repeat = (share * count).long().minimum(count - 1).clamp(min=0)
        row = torch.where(slot < count, slot, repeat)
        filled = proposals.boxes.gather(1, row[..., None].expand(-1, -1, 4))
        return Proposals(filled, (count > 0).expand(-1, self.after_nms))

    def _whole_cells(self, output: OriginalRPNOutput, sizes: Tensor) -> Tensor:
        """``[N, M]`` bool: anchors of cells that lie in the image as a whole; the original crops its maps to these."""
        flags = []
        for (rows, columns), stride in zip(output.shapes, self.strides, strict=True):
            last = sizes.div(stride, rounding_mode="floor")
            row = torch.arange(rows, device=sizes.device) < last[:, :1]
            column = torch.arange(columns, device=sizes.device) < last[:, 1:]
            cells = row[:, :, None, None] & column[:, None, :, None]
            flags.append(cells.expand(-1, -1, -1, self.shapes_per_cell).flatten(1))
        return torch.cat(flags, 1)

    def losses(self, output: OriginalRPNOutput, targets: Sequence[AnchorTargets]) -> dict[str, Tensor]:
        """``loss_rpn_cls`` (mean over sampled anchors) and ``loss_rpn_bbox`` (sum / ``samples``), averaged over images.

        Args:
            output: of :meth:`forward`.
            targets: of each image, from :func:`dcn.models.detection.original.targets.assign_anchors`.
        """
        cls, reg = [], []
        for logits, deltas, target in zip(output.logits, output.deltas, targets, strict=True):
            cls.append(class_loss(logits, target.labels))
            positive = slots_of(target.labels > 0)
            moves, expected = deltas[positive.indices], target.deltas[positive.indices]
            reg.append(box_loss(moves, expected, self.samples, beta=1 / 9, valid=positive.valid))
        return {"loss_rpn_cls": torch.stack(cls).mean(), "loss_rpn_bbox": torch.stack(reg).mean()}


def decode(references: Tensor, deltas: Tensor, sizes: Tensor, stds: Sequence[float] = (1.0, 1.0, 1.0, 1.0)) -> Tensor:
    """Inclusive boxes ``[N, ..., 4]`` from deltas without a bound on their size.

    They are clipped to the images, whose (height, width) are the rows of ``sizes`` ``[N, 2]``.
    """
    decoded = boxes.decode(references, deltas, stds=stds, pixel_offset=1, max_log_ratio=None)
    return boxes.clip_batch(decoded, sizes, pixel_offset=1)
