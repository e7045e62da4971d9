"""The second stage of Cascade R-CNN (Cai and Vasconcelos 2018): three heads, each on the boxes of the one before."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dcn import boxes
from dcn.models.detection.box_head import BoxHead
from dcn.models.detection.mask_head import MaskHead
from dcn.models.detection.roi_extractor import RoIExtractor, to_rois
from dcn.models.detection.roi_heads import ImageFrames, Size, add_masks, select_per_image
from dcn.models.detection.roi_sampling import SampledRois, sample_rois
from dcn.structures import Detections, Target

STAGE_STDS = ((0.1, 0.1, 0.2, 0.2), (0.05, 0.05, 0.1, 0.1), (0.033, 0.033, 0.067, 0.067))
STAGE_IOUS = (0.5, 0.6, 0.7)
STAGE_WEIGHTS = (1.0, 0.5, 0.25)


class CascadeRoIHead(nn.Module):
    """Class-agnostic box heads in a row; scores and masks are averaged over them.

    Args:
        bbox_roi_extractor: pools for all box heads; it has no parameters.
        bbox_head: one class-agnostic head per stage.
        mask_roi_extractor: pools for all mask heads; ``None`` without masks.
        mask_head: one head per stage; ``None`` without masks.
        rois_per_image: regions in the losses of each stage.
        positive_ious: overlap from which a region is positive, per stage.
        loss_weights: per stage.
        nms_iou: overlap above which a detection suppresses another of its class.
        max_detections: per image.
    """

    def __init__(
        self,
        bbox_roi_extractor: RoIExtractor,
        bbox_head: Sequence[BoxHead],
        mask_roi_extractor: RoIExtractor | None = None,
        mask_head: Sequence[MaskHead] | None = None,
        *,
        rois_per_image: int = 512,
        positive_ious: Sequence[float] = STAGE_IOUS,
        loss_weights: Sequence[float] = STAGE_WEIGHTS,
        nms_iou: float = 0.5,
        max_detections: int = 100,
    ) -> None:
        super().__init__()
        self.bbox_roi_extractor, self.mask_roi_extractor = bbox_roi_extractor, mask_roi_extractor
        self.bbox_head = nn.ModuleList(bbox_head)
        self.mask_head = nn.ModuleList(mask_head) if mask_head is not None else None
        self.rois_per_image = rois_per_image
        self.positive_ious, self.loss_weights = tuple(positive_ious), tuple(loss_weights)
        self.nms_iou, self.max_detections = nms_iou, max_detections

    def losses(
        self, features: Sequence[Tensor], proposals: Sequence[Tensor], sizes: Sequence[Size], targets: Sequence[Target]
    ) -> dict[str, Tensor]:
        """``s{stage}.loss_cls``, ``.loss_bbox`` and, with mask heads, ``.loss_mask``, with the weights of the stages.

        Args:
            features: maps ``[N, C, H_l, W_l]``, finest first.
            proposals: ``[R_i, 4]`` per image.
            sizes: ``(height, width)`` of the images; refined boxes are clipped to them.
            targets: one per image.
        """
        losses: dict[str, Tensor] = {}
        for stage, (head, iou, weight) in enumerate(
            zip(self.bbox_head, self.positive_ious, self.loss_weights, strict=True)
        ):
            assert isinstance(head, BoxHead)
            sampled = sample_rois(proposals, targets, head.num_classes, count=self.rois_per_image, positive_iou=iou)
            logits, deltas = head(self.bbox_roi_extractor(features, sampled.rois))
            parts = head.losses(logits, deltas, sampled) | self._mask_losses(stage, features, sampled, targets)
            losses |= {f"s{stage}.{name}": loss * weight for name, loss in parts.items()}
            proposals = _refine_sampled(head, sampled, deltas, sizes)
        return losses

    def _mask_losses(
        self, stage: int, features: Sequence[Tensor], sampled: SampledRois, targets: Sequence[Target]
    ) -> dict[str, Tensor]:
        if self.mask_head is None or self.mask_roi_extractor is None:
            return {}
        head = self.mask_head[stage]
        assert isinstance(head, MaskHead)
        pooled = self.mask_roi_extractor(features, sampled.rois[sampled.positive])
        return head.losses(head(pooled), sampled, targets)

    def predict(self, features: Sequence[Tensor], proposals: Sequence[Tensor], images: ImageFrames) -> list[Detections]:
        """Detections of every image from its proposals ``[R_i, 4]``, in pixels of ``images.output_sizes``."""
        candidates = self.candidates(features, proposals, images)
        found = select_per_image(candidates, images.score_threshold, self.nms_iou, self.max_detections)
        return self.draw_masks(found, features, images)

    def candidates(
        self, features: Sequence[Tensor], proposals: Sequence[Tensor], images: ImageFrames
    ) -> list[tuple[Tensor, Tensor]]:
        """Boxes ``[R_i, 1, 4]`` in pixels of ``images.output_sizes`` and scores ``[R_i, C]``, before any choice.

        Each stage scores the boxes it was given; the three rows of logits that descend from one proposal are averaged.
        """
        counts = [proposal.shape[0] for proposal in proposals]
        total: Tensor | None = None
        for head in self.bbox_head:
            assert isinstance(head, BoxHead)
            logits, deltas = head(self.bbox_roi_extractor(features, to_rois(proposals)))
            total = logits if total is None else total + logits
            refined = zip(proposals, deltas.split(counts), images.sizes, strict=True)
            proposals = [head.decode(box, delta, size)[:, 0] for box, delta, size in refined]
        assert total is not None
        scores = (total / len(self.bbox_head)).softmax(1)[:, :-1].split(counts)
        rows = zip(proposals, images.sizes, images.output_sizes, strict=True)
        return list(zip([boxes.scale(box[:, None], old, new) for box, old, new in rows], scores, strict=True))

    def draw_masks(self, found: list[Detections], features: Sequence[Tensor], images: ImageFrames) -> list[Detections]:
        """The same detections with masks averaged over the stages; unchanged without mask heads."""
        if self.mask_head is None or self.mask_roi_extractor is None:
            return found
        return add_masks(found, features, images, self.mask_roi_extractor, list(self.mask_head))


@torch.no_grad()
def _refine_sampled(head: BoxHead, sampled: SampledRois, deltas: Tensor, sizes: Sequence[Size]) -> list[Tensor]:
    """The sampled regions after regression, per image, without the annotated boxes that were added."""
    refined = []
    for index, size in enumerate(sizes):
        chosen = (sampled.rois[:, 0] == index) & ~sampled.is_object
        refined.append(head.decode(sampled.rois[chosen, 1:], deltas[chosen], size)[:, 0])
    return refined
