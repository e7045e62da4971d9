"""The two-stage detectors of the original MXNet code: what joins backbone, proposals and second stage.

Inside of the model boxes are inclusive, as in the original; annotations come in and detections go out with
continuous edges.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dcn import boxes
from dcn.models.detection.detector import Detector, Limits
from dcn.models.detection.original.hard_examples import hard_examples
from dcn.models.detection.original.rpn import OriginalRPNHead, OriginalRPNOutput, decode
from dcn.models.detection.original.specs import DETECTIONS, MINED, NMS_IOU, FeatureMaps, RegionTraining
from dcn.models.detection.original.targets import (
    STDS,
    Objects,
    RegionTargets,
    assign_anchors,
    assign_regions,
    objects_of,
)
from dcn.models.detection.shared.frames import Frames, Size, make_frames
from dcn.models.detection.shared.regions import to_rois
from dcn.models.detection.specs import DetectionSpec
from dcn.models.losses import box_loss, class_loss
from dcn.models.parts import ModelPart
from dcn.models.preprocess import ImageBatch, Preprocess
from dcn.structures import Target


class OriginalDetector(Detector):
    """R-FCN, Faster R-CNN and FPN in the form of the original code; the parts make the difference.

    Args:
        preprocess: images to a batch.
        backbone: batch to the maps C2 to C5.
        neck: these maps to those that the heads read.
        rpn_head: proposals.
        roi_head: maps and inclusive regions ``[R, 5]`` to logits ``[R, C + 1]`` and deltas ``[R, K, 4]``, background
            first; has ``class_agnostic``: if true, ``K`` is 2 and index 1 holds the deltas of every object.
        maps: which outputs of the neck the proposal network and the second stage read.
        classes: names, in the order of the labels.
        padding_counts: whether the padding belongs to the image for anchors, proposals and clipping (the original FPN).
        regions: how the second stage is trained.
        detections: what is returned; ties with the weakest detection are kept.
    """

    inclusive_boxes = True

    def __init__(
        self,
        preprocess: Preprocess,
        backbone: nn.Module,
        neck: nn.Module,
        rpn_head: OriginalRPNHead,
        roi_head: nn.Module,
        *,
        maps: FeatureMaps,
        classes: Sequence[str],
        padding_counts: bool = False,
        regions: RegionTraining = MINED,
        detections: DetectionSpec = DETECTIONS,
    ) -> None:
        super().__init__(
            preprocess,
            classes=classes,
            test_size=detections.test_size,
            score_threshold=detections.score_threshold,
            lr_multipliers=regions.lr_multipliers,
        )
        self.backbone, self.neck, self.rpn_head, self.roi_head = backbone, neck, rpn_head, roi_head
        self.maps, self.padding_counts = maps, padding_counts
        self.rois_per_image, self.hardest = regions.rois_per_image, regions.hardest
        self.lowest_negative_iou, self.max_detections = regions.lowest_negative_iou, detections.max_detections

    @property
    def limits(self) -> Limits:
        """Suppression at 0.3, and the number of detections given to it."""
        return Limits(NMS_IOU, self.max_detections)

    def frames(self, batch: ImageBatch, output_sizes: Sequence[Size]) -> Frames:
        """The sizes of a batch, with the padding where that counts."""
        return make_frames(batch.sizes, output_sizes, batch.pixels.device, self._sizes(batch))

    def parts(self) -> list[ModelPart]:
        """See :meth:`Detector.parts`."""
        rpn = self.rpn_head
        parts = [ModelPart("input", self.preprocess), ModelPart("backbone", self.backbone)]
        parts += [ModelPart("neck", self.neck), ModelPart("proposals", rpn)]
        methods = ("losses", "filled_proposals") if self.training else ("proposals",)
        return [*parts, *(ModelPart("proposals", rpn, name) for name in methods), ModelPart("heads", self.roi_head)]

    def candidates(self, pixels: Tensor, frames: Frames) -> tuple[Tensor, Tensor]:
        """Inclusive boxes ``[N, P, K, 4]`` in pixels of the output and scores ``[N, P, C]``, before any choice.

        Scores are -1 in empty slots.
        """
        rpn_maps, roi_maps = self.features(pixels)
        proposals = self.rpn_head.proposals(self.rpn_head(rpn_maps), frames.sizes)
        logits, deltas = self.roi_head(roi_maps, proposals.rois())
        images = proposals.valid.shape
        # Index 1 of a class-agnostic head serves every class; index 0 is the background.
        moves = (deltas[:, 1:2] if self.roi_head.class_agnostic else deltas[:, 1:]).unflatten(0, images)
        decoded = decode(proposals.boxes[:, :, None], moves, frames.sizes, STDS)
        scores = logits.softmax(1)[:, 1:].unflatten(0, images)
        output = decoded * boxes.per_image(frames.factors, decoded)
        return output, scores.masked_fill(~proposals.valid[..., None], -1.0)

    def features(self, pixels: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Normalised images ``[N, 3, H, W]`` to the maps of the proposal network and those of the second stage."""
        maps = self.neck(self.backbone(pixels))
        return [maps[index] for index in self.maps.rpn], [maps[index] for index in self.maps.roi]

    def region_losses(
        self, logits: Tensor, deltas: Tensor, labels: Tensor, target: Tensor
    ) -> tuple[dict[str, Tensor], Tensor]:
        """The losses of the second stage for the regions of one image, and the labels that mining leaves.

        Args:
            logits: ``[R, C + 1]``.
            deltas: ``[R, K, 4]``.
            labels: ``[R]`` int64, 0 is background, -1 is left out.
            target: ``[R, 4]`` deltas where the label is positive.
        """
        slot = labels.clamp(0, 1) if self.roi_head.class_agnostic else labels.clamp(min=0)
        own = deltas[torch.arange(len(labels), device=labels.device), slot]
        if self.hardest is not None:
            labels = hard_examples(logits, own, labels, target, self.hardest)
        divisor = self.hardest if self.hardest is not None else self.rois_per_image
        assert divisor is not None
        loss_bbox = box_loss(own, target, divisor, beta=1.0, valid=labels > 0)
        return {"loss_cls": class_loss(logits, labels), "loss_bbox": loss_bbox}, labels

    def _sizes(self, batch: ImageBatch) -> list[Size]:
        if self.padding_counts:
            return [batch.padded_size(index) for index in range(len(batch.sizes))]
        return batch.sizes

    def losses(self, batch: ImageBatch, frames: Frames, targets: Sequence[Target]) -> dict[str, Tensor]:
        """``loss_rpn_cls``, ``loss_rpn_bbox``, ``loss_cls`` and ``loss_bbox``, see :meth:`Detector.losses`.

        Each is the mean over the images of what the original computes for one.
        """
        # Selected where the annotations are: on a GPU the host would wait for the number of objects.
        return self.batch_losses(batch, frames, [objects_of(target, batch.pixels.device) for target in targets])

    def batch_losses(self, batch: ImageBatch, frames: Frames, objects: Sequence[Objects]) -> dict[str, Tensor]:
        """From normalised images to losses; nothing in it waits for the device.

        Args:
            batch: the images.
            frames: their sizes.
            objects: of each image, on the device of the model.
        """
        rpn_maps, roi_maps = self.features(batch.pixels)
        output = self.rpn_head(rpn_maps)
        regions = self._regions(output, frames, objects)
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
            assign_anchors(output.anchors, own, size, inside_only=head.inside_only, samples=head.samples)
            for own, size in zip(objects, sizes, strict=True)
        ]
        return head.losses(output, targets)

    @torch.no_grad()
    def _regions(self, output: OriginalRPNOutput, frames: Frames, objects: Sequence[Objects]) -> list[RegionTargets]:
        filled = self.rpn_head.filled_proposals(output, frames.sizes)
        return [
            assign_regions(
                proposals,
                own,
                samples=self.rois_per_image,
                lowest_negative_iou=self.lowest_negative_iou,
                valid=valid,
            )
            for proposals, valid, own in zip(filled.boxes, filled.valid, objects, strict=True)
        ]
