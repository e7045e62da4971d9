"""The second stage with one box head, and a mask head where there is one (Faster R-CNN, Mask R-CNN)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from dcn import boxes
from dcn.models.detection.pyramid.box_head import BoxHead
from dcn.models.detection.pyramid.mask_head import MaskHead
from dcn.models.detection.pyramid.roi_extractor import RoIExtractor
from dcn.models.detection.pyramid.roi_sampling import sample_rois
from dcn.models.detection.shared.frames import Frames, Size
from dcn.models.detection.shared.matcher import LowQuality
from dcn.models.detection.shared.padded_detections import PaddedDetections
from dcn.models.detection.shared.proposals import Proposals
from dcn.models.detection.shared.selection import SelectionRule, select_detections
from dcn.structures import Target


class RoIHead(nn.Module):
    """A second stage: it learns from proposals, and turns them into detections.

    Attributes:
        mask_roi_extractor: pools for the mask heads; ``None`` without masks.
        nms_iou: overlap above which a detection suppresses another of its class.
        max_detections: per image.
    """

    mask_roi_extractor: RoIExtractor | None
    nms_iou: float
    max_detections: int

    def losses(
        self, features: Sequence[Tensor], proposals: Proposals, sizes: Sequence[Size], targets: Sequence[Target]
    ) -> dict[str, Tensor]:
        """Scalar losses by name.

        Args:
            features: maps ``[N, C, H_l, W_l]``, finest first.
            proposals: of the ``N`` images.
            sizes: ``(height, width)`` of the images.
            targets: one per image.
        """
        raise NotImplementedError

    def candidates(self, features: Sequence[Tensor], proposals: Proposals, frames: Frames) -> tuple[Tensor, Tensor]:
        """Boxes ``[N, P, K, 4]`` in pixels of the output and scores ``[N, P, C]``, before any choice.

        Scores are -1 in empty slots.
        """
        raise NotImplementedError

    @property
    def mask_heads(self) -> list[nn.Module]:
        """The mask heads whose probabilities are averaged; none without masks."""
        raise NotImplementedError

    def predict(
        self, features: Sequence[Tensor], proposals: Proposals, frames: Frames, score_threshold: float
    ) -> PaddedDetections:
        """Detections of every image, with masks' probabilities where there are mask heads.

        Args:
            features: maps ``[N, C, H_l, W_l]``, finest first.
            proposals: of the ``N`` images.
            frames: their sizes.
            score_threshold: scores must be larger.
        """
        rule = SelectionRule(score_threshold, self.nms_iou, self.max_detections)
        candidates, scores = self.candidates(features, proposals, frames)
        detections = select_detections(candidates, scores, frames.output_sizes, rule).trimmed()
        return with_masks(detections, features, frames, self.mask_roi_extractor, self.mask_heads)


class StandardRoIHead(RoIHead):
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
        self, features: Sequence[Tensor], proposals: Proposals, sizes: Sequence[Size], targets: Sequence[Target]
    ) -> dict[str, Tensor]:
        """``loss_cls``, ``loss_bbox`` and, with a mask head, ``loss_mask`` of sampled regions, see :class:`RoIHead`."""
        sampled = sample_rois(
            proposals.boxes.unbind(),
            targets,
            self.bbox_head.num_classes,
            count=self.rois_per_image,
            low_quality=self.low_quality,
            valid=proposals.valid.unbind(),
        )
        logits, deltas = self.bbox_head(self.bbox_roi_extractor(features, sampled.rois))
        losses = self.bbox_head.losses(logits, deltas, sampled)
        if self.mask_head is not None and self.mask_roi_extractor is not None:
            positives = sampled.positives()
            masks = self.mask_head(self.mask_roi_extractor(features, positives.rois))
            losses |= self.mask_head.losses(masks, positives, targets)
        return losses

    def candidates(self, features: Sequence[Tensor], proposals: Proposals, frames: Frames) -> tuple[Tensor, Tensor]:
        """Boxes ``[N, P, K, 4]`` in pixels of the output and scores ``[N, P, C]``, before any choice.

        Scores are -1 in empty slots.
        """
        images = proposals.valid.shape
        logits, deltas = self.bbox_head(self.bbox_roi_extractor(features, proposals.rois()))
        decoded = self.bbox_head.decode(proposals.boxes, deltas.unflatten(0, images))
        scores = logits.softmax(1)[:, :-1].unflatten(0, images)
        return to_output(decoded, frames), scores.masked_fill(~proposals.valid[..., None], -1.0)

    @property
    def mask_heads(self) -> list[nn.Module]:
        """The mask heads whose probabilities are averaged; none without masks."""
        return [] if self.mask_head is None else [self.mask_head]


def to_output(decoded: Tensor, frames: Frames) -> Tensor:
    """Boxes ``[N, ..., 4]`` clipped to their images, then in pixels of the output."""
    clipped = boxes.clip_batch(decoded, frames.sizes)
    return clipped * boxes.per_image(frames.factors, clipped)


def with_masks(
    detections: PaddedDetections,
    features: Sequence[Tensor],
    frames: Frames,
    extractor: RoIExtractor | None,
    heads: Sequence[nn.Module],
) -> PaddedDetections:
    """The same detections with the probabilities of several mask heads averaged; unchanged without heads."""
    if extractor is None:
        return detections
    regions = Proposals(detections.boxes / boxes.per_image(frames.factors, detections.boxes), detections.valid)
    pooled = extractor(features, regions.rois())
    labels = detections.labels.flatten()
    own = torch.arange(labels.numel(), device=labels.device), labels
    masks = torch.stack([head(pooled)[own].float().sigmoid() for head in heads]).mean(0)
    return replace(detections, masks=masks.unflatten(0, detections.valid.shape))
