"""The second stage of Cascade R-CNN (Cai and Vasconcelos 2018): three heads, each on the boxes of the one before."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

import torch
from torch import Tensor, nn

from dcn import boxes
from dcn.models.detection.pyramid.box_head import BoxHead
from dcn.models.detection.pyramid.mask_head import MaskHead
from dcn.models.detection.pyramid.roi_extractor import RoIExtractor
from dcn.models.detection.pyramid.roi_heads import RoIHead
from dcn.models.detection.pyramid.roi_sampling import SampledRois, sample_rois
from dcn.models.detection.pyramid.specs import CascadeAverage
from dcn.models.detection.shared.frames import Frames, Size
from dcn.models.detection.shared.proposals import Proposals
from dcn.models.detection.shared.slots import slots_of
from dcn.structures import Target

STAGE_STDS = ((0.1, 0.1, 0.2, 0.2), (0.05, 0.05, 0.1, 0.1), (0.033, 0.033, 0.067, 0.067))
STAGE_IOUS = (0.5, 0.6, 0.7)
STAGE_WEIGHTS = (1.0, 0.5, 0.25)


class CascadeRoIHead(RoIHead):
    """Class-agnostic box heads in a row; scores and masks are averaged over them.

    Args:
        bbox_roi_extractor: pools for the box head of each stage; deformable pooling learns for each stage anew.
        bbox_head: one class-agnostic head per stage.
        mask_roi_extractor: pools for all mask heads; ``None`` without masks.
        mask_head: one head per stage; ``None`` without masks.
        rois_per_image: regions in the losses of each stage.
        positive_ious: overlap from which a region is positive, per stage.
        loss_weights: per stage.
        average: the scores are those of the averaged ``"logits"`` (mmdetection), or the averaged ``"probabilities"``
            (detectron2).
        nms_iou: overlap above which a detection suppresses another of its class.
        max_detections: per image.
    """

    def __init__(
        self,
        bbox_roi_extractor: Sequence[RoIExtractor],
        bbox_head: Sequence[BoxHead],
        mask_roi_extractor: RoIExtractor | None = None,
        mask_head: Sequence[MaskHead] | None = None,
        *,
        rois_per_image: int = 512,
        positive_ious: Sequence[float] = STAGE_IOUS,
        loss_weights: Sequence[float] = STAGE_WEIGHTS,
        average: CascadeAverage = "logits",
        nms_iou: float = 0.5,
        max_detections: int = 100,
    ) -> None:
        super().__init__()
        self.bbox_roi_extractor, self.mask_roi_extractor = nn.ModuleList(bbox_roi_extractor), mask_roi_extractor
        self.bbox_head = nn.ModuleList(bbox_head)
        self.mask_head = nn.ModuleList(mask_head) if mask_head is not None else None
        self.rois_per_image = rois_per_image
        self.positive_ious, self.loss_weights = tuple(positive_ious), tuple(loss_weights)
        if average not in get_args(CascadeAverage):
            raise ValueError(f"cascade_average: expected 'logits' or 'probabilities', got {average!r}")
        self.average, self.nms_iou, self.max_detections = average, nms_iou, max_detections

    def losses(
        self, features: Sequence[Tensor], proposals: Proposals, sizes: Sequence[Size], targets: Sequence[Target]
    ) -> dict[str, Tensor]:
        """``s{stage}.loss_cls``, ``.loss_bbox`` and, with mask heads, ``.loss_mask``, with the weights of the stages.

        Refined boxes are clipped to ``sizes``; for the arguments see :class:`RoIHead`.
        """
        losses: dict[str, Tensor] = {}
        regions, valid = list(proposals.boxes.unbind()), list(proposals.valid.unbind())
        stages = zip(self.bbox_roi_extractor, self.bbox_head, self.positive_ious, self.loss_weights, strict=True)
        for stage, (extractor, head, iou, weight) in enumerate(stages):
            assert isinstance(head, BoxHead)
            sampled = sample_rois(
                regions, targets, head.num_classes, count=self.rois_per_image, positive_iou=iou, valid=valid
            )
            logits, deltas = head(extractor(features, sampled.rois))
            parts = head.losses(logits, deltas, sampled) | self._mask_losses(stage, features, sampled, targets)
            losses |= {f"s{stage}.{name}": loss * weight for name, loss in parts.items()}
            regions, valid = _refine_sampled(head, sampled, deltas, sizes, self.rois_per_image)
        return losses

    def _mask_losses(
        self, stage: int, features: Sequence[Tensor], sampled: SampledRois, targets: Sequence[Target]
    ) -> dict[str, Tensor]:
        if self.mask_head is None or self.mask_roi_extractor is None:
            return {}
        head = self.mask_head[stage]
        assert isinstance(head, MaskHead)
        positives = sampled.positives()
        return head.losses(head(self.mask_roi_extractor(features, positives.rois)), positives, targets)

    def candidates(self, features: Sequence[Tensor], proposals: Proposals, frames: Frames) -> tuple[Tensor, Tensor]:
        """Boxes ``[N, P, 1, 4]`` in pixels of the output and scores ``[N, P, C]``, before any choice.

        Each stage scores the boxes it was given; the three rows that descend from one proposal are averaged.
        Scores are -1 in empty slots.
        """
        valid = proposals.valid
        total: Tensor | None = None
        for extractor, head in zip(self.bbox_roi_extractor, self.bbox_head, strict=True):
            assert isinstance(head, BoxHead)
            logits, deltas = head(extractor(features, proposals.rois()))
            scores = logits if self.average == "logits" else logits.softmax(1)
            total = scores if total is None else total + scores
            decoded = head.decode(proposals.boxes, deltas.unflatten(0, valid.shape))[:, :, 0]
            proposals = Proposals(boxes.clip_batch(decoded, frames.sizes), valid)
        assert total is not None
        mean = total / len(self.bbox_head)
        scores = (mean.softmax(1) if self.average == "logits" else mean)[:, :-1].unflatten(0, valid.shape)
        output = proposals.boxes * boxes.per_image(frames.factors, proposals.boxes)
        return output[:, :, None], scores.masked_fill(~valid[..., None], -1.0)

    @property
    def mask_heads(self) -> list[nn.Module]:
        """The mask heads whose probabilities are averaged; none without masks."""
        return [] if self.mask_head is None else list(self.mask_head)


@torch.no_grad()
def _refine_sampled(
    head: BoxHead, sampled: SampledRois, deltas: Tensor, sizes: Sequence[Size], most: int
) -> tuple[list[Tensor], list[Tensor]]:
    """The sampled regions after regression, at most ``most`` per image, without the annotated boxes that were added.

    Returns:
        ``[R_i, 4]`` per image, and ``[R_i]`` bool, which of them are not empty slots.
    """
    decoded = head.decode(sampled.rois[:, 1:], deltas)[:, 0]
    kept = sampled.valid & ~sampled.is_object
    chosen = [slots_of(kept & (sampled.rois[:, 0] == index)).first(most) for index in range(len(sizes))]
    refined = [boxes.clip(decoded[own.indices], size) for own, size in zip(chosen, sizes, strict=True)]
    return refined, [own.valid for own in chosen]
