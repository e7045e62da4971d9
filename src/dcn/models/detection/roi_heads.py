"""The second stage with one box head, and a mask head if wanted (Faster R-CNN, Mask R-CNN)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dcn import boxes
from dcn.models.detection.box_head import BoxHead, select_detections
from dcn.models.detection.mask_head import MaskHead, paste_masks
from dcn.models.detection.matcher import LowQuality
from dcn.models.detection.roi_extractor import RoIExtractor, to_rois
from dcn.models.detection.roi_sampling import sample_rois
from dcn.structures import Detections, Target

Size = tuple[int, int]


@dataclass(frozen=True)
class ImageFrames:
    """What the second stage needs to know in evaluation.

    Attributes:
        sizes: ``(height, width)`` of each image as the network sees it.
        output_sizes: ``(height, width)`` in whose pixels the detections are wanted.
        score_threshold: scores must be larger.
    """

    sizes: Sequence[Size]
    output_sizes: Sequence[Size]
    score_threshold: float


class StandardRoIHead(nn.Module):
    """Pools proposals, classifies and refines them, and draws their masks.

    Args:
        bbox_roi_extractor: pools for the box head.
        bbox_head: the box head.
        mask_roi_extractor: pools for the mask head; ``None`` without masks.
        mask_head: the mask head; ``None`` without masks.
        rois_per_image: regions in the losses.
        low_quality: whether the best proposal of an object is always matched (mmdetection: Mask R-CNN yes).
        nms_iou: overlap above which a detection suppresses another of its class.
        max_detections: per image.
    """

    def __init__(
        self,
        bbox_roi_extractor: RoIExtractor,
        bbox_head: BoxHead,
        mask_roi_extractor: RoIExtractor | None = None,
        mask_head: MaskHead | None = None,
        *,
        rois_per_image: int = 512,
        low_quality: LowQuality = "none",
        nms_iou: float = 0.5,
        max_detections: int = 100,
    ) -> None:
        super().__init__()
        self.bbox_roi_extractor, self.bbox_head = bbox_roi_extractor, bbox_head
        self.mask_roi_extractor, self.mask_head = mask_roi_extractor, mask_head
        self.rois_per_image, self.low_quality = rois_per_image, low_quality
        self.nms_iou, self.max_detections = nms_iou, max_detections

    def losses(
        self, features: Sequence[Tensor], proposals: Sequence[Tensor], sizes: Sequence[Size], targets: Sequence[Target]
    ) -> dict[str, Tensor]:
        """``loss_cls``, ``loss_bbox`` and, with a mask head, ``loss_mask`` of sampled regions.

        Args:
            features: maps ``[N, C, H_l, W_l]``, finest first.
            proposals: ``[R_i, 4]`` per image.
            sizes: of the images; not needed here, but by heads that refine boxes in training.
            targets: one per image.
        """
        sampled = sample_rois(
            proposals, targets, self.bbox_head.num_classes, count=self.rois_per_image, low_quality=self.low_quality
        )
        logits, deltas = self.bbox_head(self.bbox_roi_extractor(features, sampled.rois))
        losses = self.bbox_head.losses(logits, deltas, sampled)
        if self.mask_head is not None and self.mask_roi_extractor is not None:
            pooled = self.mask_roi_extractor(features, sampled.rois[sampled.positive])
            losses |= self.mask_head.losses(self.mask_head(pooled), sampled, targets)
        return losses

    def predict(self, features: Sequence[Tensor], proposals: Sequence[Tensor], images: ImageFrames) -> list[Detections]:
        """Detections of every image from its proposals ``[R_i, 4]``, in pixels of ``images.output_sizes``."""
        candidates = self.candidates(features, proposals, images)
        found = select_per_image(candidates, images.score_threshold, self.nms_iou, self.max_detections)
        return self.draw_masks(found, features, images)

    def candidates(
        self, features: Sequence[Tensor], proposals: Sequence[Tensor], images: ImageFrames
    ) -> list[tuple[Tensor, Tensor]]:
        """Boxes ``[R_i, K, 4]`` in pixels of ``images.output_sizes`` and scores ``[R_i, C]``, before any choice."""
        logits, deltas = self.bbox_head(self.bbox_roi_extractor(features, to_rois(proposals)))
        counts = [proposal.shape[0] for proposal in proposals]
        rows = zip(proposals, deltas.split(counts), images.sizes, images.output_sizes, strict=True)
        decoded = [boxes.scale(self.bbox_head.decode(box, delta, old), old, new) for box, delta, old, new in rows]
        return list(zip(decoded, logits.softmax(1)[:, :-1].split(counts), strict=True))

    def draw_masks(self, found: list[Detections], features: Sequence[Tensor], images: ImageFrames) -> list[Detections]:
        """The same detections with masks; unchanged without a mask head."""
        if self.mask_head is None or self.mask_roi_extractor is None:
            return found
        return add_masks(found, features, images, self.mask_roi_extractor, [self.mask_head])


def select_per_image(
    candidates: Sequence[tuple[Tensor, Tensor]], score_threshold: float, nms_iou: float, max_detections: int
) -> list[Detections]:
    """The final detections of every image from its boxes and scores, see :func:`select_detections`."""
    return [
        Detections(
            *select_detections(
                box, scores, score_threshold=score_threshold, nms_iou=nms_iou, max_detections=max_detections
            )
        )
        for box, scores in candidates
    ]


def add_masks(
    found: Sequence[Detections],
    features: Sequence[Tensor],
    images: ImageFrames,
    extractor: RoIExtractor,
    heads: Sequence[nn.Module],
) -> list[Detections]:
    """The same detections with masks: the probabilities of several heads averaged, pasted at the output sizes."""
    regions = [
        boxes.scale(detections.boxes, new, old)
        for detections, old, new in zip(found, images.sizes, images.output_sizes, strict=True)
    ]
    labels = torch.cat([detections.labels for detections in found])
    pooled = extractor(features, to_rois(regions))
    own = torch.arange(labels.numel(), device=labels.device), labels
    masks = torch.stack([head(pooled)[own].float().sigmoid() for head in heads]).mean(0)
    parts = masks.split([len(detections) for detections in found])
    return [
        Detections(d.boxes, d.scores, d.labels, paste_masks(mask, d.boxes, size))
        for d, mask, size in zip(found, parts, images.output_sizes, strict=True)
    ]
