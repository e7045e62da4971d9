"""The two-stage detectors of the original MXNet code: what joins backbone, proposals and second stage.

Inside of the network boxes are inclusive, as in the original; annotations come in and detections go out with
continuous edges.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from dcn import boxes, ops
from dcn.models.detection.ohem import hard_examples
from dcn.models.detection.original_rpn import OriginalRPNHead, OriginalRPNOutput, decode
from dcn.models.detection.original_targets import (
    STDS,
    Objects,
    RegionTargets,
    assign_anchors,
    assign_regions,
    objects_of,
)
from dcn.models.losses import box_loss, class_loss
from dcn.models.preprocess import ImageBatch, Preprocess
from dcn.structures import Detections, Target

Size = tuple[int, int]


class OriginalDetector(nn.Module):
    """R-FCN, Faster R-CNN and FPN in the form of the original code; the parts make the difference.

    Args:
        preprocess: images to a batch.
        backbone: batch to the maps C2 to C5.
        neck: these maps to those that the heads read.
        rpn_head: proposals.
        roi_head: maps and inclusive regions ``[R, 5]`` to logits ``[R, C + 1]`` and deltas ``[R, K, 4]``, background
            first; has ``class_agnostic``: if true, ``K`` is 2 and index 1 holds the deltas of every object.
        rpn_maps: which outputs of the neck the proposal network reads.
        roi_maps: which of them the second stage reads.
        classes: names, in the order of the labels.
        padding_counts: whether the padding belongs to the image for anchors, proposals and clipping (the original FPN).
        rois_per_image: regions in the losses of the second stage; ``None``: all, for ``hardest``.
        hardest: regions that hard-example mining leaves in the losses; ``None``: no mining.
        lowest_negative_iou: overlap with an object that background regions must have.
        nms_iou: overlap above which a detection suppresses another of its class.
        max_detections: per image; ties with the weakest of them are kept.
        test_size: shorter side and largest longer side to which images are resized before they are given.
        score_threshold: detections have larger scores.
        lr_multipliers: factors on the learning rate by name of the parameter; 1 where not named.
    """

    def __init__(
        self,
        preprocess: Preprocess,
        backbone: nn.Module,
        neck: nn.Module,
        rpn_head: OriginalRPNHead,
        roi_head: nn.Module,
        *,
        rpn_maps: Sequence[int],
        roi_maps: Sequence[int],
        classes: Sequence[str],
        padding_counts: bool = False,
        rois_per_image: int | None = None,
        hardest: int | None = 128,
        lowest_negative_iou: float = 0.0,
        nms_iou: float = 0.3,
        max_detections: int = 100,
        test_size: tuple[int, int] = (600, 1000),
        score_threshold: float = 1e-3,
        lr_multipliers: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__()
        if rois_per_image is None and hardest is None:
            raise ValueError("rois_per_image, hardest: expected a number for at least one of them, got None twice")
        self.preprocess, self.backbone, self.neck = preprocess, backbone, neck
        self.rpn_head, self.roi_head = rpn_head, roi_head
        self.rpn_maps, self.roi_maps = tuple(rpn_maps), tuple(roi_maps)
        self.classes = tuple(classes)
        self.padding_counts = padding_counts
        self.rois_per_image, self.hardest = rois_per_image, hardest
        self.lowest_negative_iou, self.nms_iou = lowest_negative_iou, nms_iou
        self.max_detections, self.test_size, self.score_threshold = max_detections, test_size, score_threshold
        self.lr_multipliers = dict(lr_multipliers or {})

    def forward(
        self,
        images: Sequence[Tensor],
        targets: Sequence[Target] | None = None,
        output_sizes: Sequence[Size] | None = None,
    ) -> dict[str, Tensor] | list[Detections]:
        """Losses in training mode, detections in evaluation mode.

        Args:
            images: ``[3, h_i, w_i]`` uint8 RGB; they are not resized.
            targets: one per image, in training only. Crowd and difficult objects are left out.
            output_sizes: ``(height, width)`` per image, in whose pixels boxes are wanted, for images that were resized
                before; by default the sizes of ``images``. In evaluation only.

        Returns:
            In training ``loss_rpn_cls``, ``loss_rpn_bbox``, ``loss_cls`` and ``loss_bbox``, each the mean over the
            images of what the original computes for one. In evaluation one ``Detections`` per image.

        Raises:
            ValueError: without ``targets`` in training, or for lists of unequal length.
        """
        if self.training:
            return self._losses(images, targets)
        output_sizes = output_sizes or [(image.shape[1], image.shape[2]) for image in images]
        if len(output_sizes) != len(images):
            raise ValueError(f"output_sizes: expected {len(images)} (one per image), got {len(output_sizes)}")
        found: dict[int, Detections] = {}
        for members in self.preprocess.groups(images):
            batch = self.preprocess([images[index] for index in members])
            wanted = [output_sizes[index] for index in members]
            found.update(zip(members, self._predict(batch, wanted), strict=True))
        return [found[index] for index in range(len(images))]

    def features(self, pixels: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Normalised images ``[N, 3, H, W]`` to the maps of the proposal network and those of the second stage."""
        maps = self.neck(self.backbone(pixels))
        return [maps[index] for index in self.rpn_maps], [maps[index] for index in self.roi_maps]

    def region_losses(
        self, logits: Tensor, deltas: Tensor, labels: Tensor, wanted: Tensor
    ) -> tuple[dict[str, Tensor], Tensor]:
        """The losses of the second stage for the regions of one image, and the labels that mining leaves.

        Args:
            logits: ``[R, C + 1]``.
            deltas: ``[R, K, 4]``.
            labels: ``[R]`` int64, 0 is background, -1 is left out.
            wanted: ``[R, 4]`` targets where the label is positive.
        """
        slot = labels.clamp(0, 1) if self.roi_head.class_agnostic else labels.clamp(min=0)
        own = deltas[torch.arange(len(labels), device=labels.device), slot]
        if self.hardest is not None:
            labels = hard_examples(logits, own, labels, wanted, self.hardest)
        divisor = self.hardest if self.hardest is not None else self.rois_per_image
        assert divisor is not None
        positive = labels > 0
        loss_bbox = box_loss(own[positive], wanted[positive], divisor, beta=1.0)
        return {"loss_cls": class_loss(logits, labels), "loss_bbox": loss_bbox}, labels

    def _sizes(self, batch: ImageBatch) -> list[Size]:
        if self.padding_counts:
            return [batch.padded_size(index) for index in range(len(batch.sizes))]
        return batch.sizes

    def _losses(self, images: Sequence[Tensor], targets: Sequence[Target] | None) -> dict[str, Tensor]:
        if targets is None or len(targets) != len(images) or not images:
            got = "None" if targets is None else len(targets)
            raise ValueError(
                f"targets: expected one per image in training mode ({len(images)} images), got {got}; "
                "call .eval() first to predict"
            )
        batch = self.preprocess(images)
        objects = [objects_of(target, batch.pixels.device) for target in targets]
        rpn_maps, roi_maps = self.features(batch.pixels)
        output = self.rpn_head(rpn_maps)
        regions = self._regions(output, self._sizes(batch), objects)
        logits, deltas = self.roi_head(roi_maps, to_rois([region.rois for region in regions]))
        counts = [len(region.labels) for region in regions]
        parts = [
            self.region_losses(scores, moves, region.labels, region.deltas)[0]
            for scores, moves, region in zip(logits.split(counts), deltas.split(counts), regions, strict=True)
        ]
        second = {name: torch.stack([part[name] for part in parts]).mean() for name in parts[0]}
        return self._rpn_losses(output, self._sizes(batch), objects) | second

    def _rpn_losses(
        self, output: OriginalRPNOutput, sizes: Sequence[Size], objects: Sequence[Objects]
    ) -> dict[str, Tensor]:
        head = self.rpn_head
        targets = [
            assign_anchors(output.anchors, wanted, size, inside_only=head.inside_only, samples=head.samples)
            for wanted, size in zip(objects, sizes, strict=True)
        ]
        return head.losses(output, targets)

    @torch.no_grad()
    def _regions(
        self, output: OriginalRPNOutput, sizes: Sequence[Size], objects: Sequence[Objects]
    ) -> list[RegionTargets]:
        return [
            assign_regions(proposals, wanted, samples=self.rois_per_image, lowest_negative_iou=self.lowest_negative_iou)
            for proposals, wanted in zip(self.rpn_head.proposals(output, sizes), objects, strict=True)
        ]

    def _predict(self, batch: ImageBatch, output_sizes: Sequence[Size]) -> list[Detections]:
        rpn_maps, roi_maps = self.features(batch.pixels)
        sizes = self._sizes(batch)
        proposals = self.rpn_head.proposals(self.rpn_head(rpn_maps), sizes)
        logits, deltas = self.roi_head(roi_maps, to_rois(proposals))
        counts = [len(proposal) for proposal in proposals]
        rows = zip(proposals, logits.softmax(1).split(counts), deltas.split(counts), strict=True)
        found = []
        for index, (proposal, scores, moves) in enumerate(rows):
            # Index 1 of a class-agnostic head serves every class.
            chosen = moves[:, 1:2] if self.roi_head.class_agnostic else moves[:, 1:]
            decoded = decode(proposal[:, None], chosen, sizes[index], STDS)
            candidates = boxes.scale(decoded, batch.sizes[index], output_sizes[index])
            found.append(self.select(candidates, scores[:, 1:], output_sizes[index]))
        return found

    def select(self, candidates: Tensor, scores: Tensor, size: Size) -> Detections:
        """The final detections of one image: threshold, suppression per class, the best of what is left.

        Args:
            candidates: ``[R, K, 4]`` inclusive; ``K`` is 1 or the number of classes.
            scores: ``[R, C]``.
            size: ``(height, width)`` of the image in whose pixels ``candidates`` are.
        """
        return select_inclusive(
            candidates,
            scores,
            size,
            score_threshold=self.score_threshold,
            nms_iou=self.nms_iou,
            max_detections=self.max_detections,
        )


def to_rois(per_image: Sequence[Tensor]) -> Tensor:
    """Boxes ``[R_i, 4]`` per image as ``[R, 5]`` with the index of the image first."""
    return torch.cat([torch.cat((b.new_full((len(b), 1), index), b), 1) for index, b in enumerate(per_image)])


def select_inclusive(
    candidates: Tensor,
    scores: Tensor,
    size: Size,
    *,
    score_threshold: float,
    nms_iou: float = 0.3,
    max_detections: int = 100,
) -> Detections:
    """Post-processing of the original code: all overlaps with inclusive boxes, ties with the last detection kept.

    Args:
        candidates: ``[R, K, 4]`` inclusive; ``K`` is 1 or the number of classes.
        scores: ``[R, C]``, without background.
        size: ``(height, width)`` of the image; results are clipped to it.
        score_threshold: scores must be larger.
        nms_iou: overlap above which a box suppresses a weaker one of its class.
        max_detections: how many are kept, more if some tie with the last of them.
    """
    row, label = (scores > score_threshold).nonzero().unbind(1)
    box = candidates[row, label if candidates.shape[1] > 1 else torch.zeros_like(label)]
    score = scores[row, label]
    keep = ops.nms(box, score, nms_iou, label, plus_one=True)
    if keep.numel() > max_detections:
        keep = keep[score[keep] >= score[keep[max_detections - 1]]]
    return Detections(boxes.clip(boxes.from_inclusive(box[keep]), size), score[keep], label[keep])
