"""Two-stage detectors on a feature pyramid in mmdetection's form: Faster, Mask, Cascade and Cascade Mask R-CNN."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dcn import boxes
from dcn.models.detection.detector import Detector, Limits, with_pasted_masks
from dcn.models.detection.pyramid.roi_heads import RoIHead, with_masks
from dcn.models.detection.pyramid.rpn import RPNHead
from dcn.models.detection.shared.frames import Frames, Size
from dcn.models.detection.shared.padded_detections import PaddedDetections, pad_detections
from dcn.models.detection.shared.proposals import Proposals
from dcn.models.parts import ModelPart
from dcn.models.preprocess import ImageBatch, Preprocess
from dcn.structures import Detections, Target


class FasterRCNN(Detector):
    """A backbone with a neck, a region proposal network, and a second stage on its proposals.

    Args:
        preprocess: images to a batch.
        backbone: batch to maps, finest first.
        neck: maps to the pyramid, finest first.
        rpn_head: pyramid to proposals.
        roi_head: pyramid and proposals to detections.
        classes: names, in the order of the labels.
        test_size: see :class:`Detector`.
        score_threshold: see :class:`Detector`.
    """

    def __init__(
        self,
        preprocess: Preprocess,
        backbone: nn.Module,
        neck: nn.Module,
        rpn_head: RPNHead,
        roi_head: RoIHead,
        *,
        classes: Sequence[str],
        test_size: Size = (800, 1333),
        score_threshold: float = 0.05,
    ) -> None:
        super().__init__(preprocess, classes=classes, test_size=test_size, score_threshold=score_threshold)
        self.backbone, self.neck, self.rpn_head, self.roi_head = backbone, neck, rpn_head, roi_head

    @property
    def limits(self) -> Limits:
        """The limits of the second stage."""
        return Limits(self.roi_head.nms_iou, self.roi_head.max_detections)

    @property
    def has_masks(self) -> bool:
        """Whether the second stage has a mask head."""
        return self.roi_head.mask_head is not None

    def losses(self, batch: ImageBatch, frames: Frames, targets: Sequence[Target]) -> dict[str, Tensor]:
        """``loss_rpn_cls``, ``loss_rpn_bbox`` and the losses of the second stage, see :meth:`Detector.losses`."""
        # Selected where the annotations are: on a GPU the host would wait for the number of objects.
        trained = [_trained_objects(target, batch.pixels.device) for target in targets]
        return self.batch_losses(batch, frames, trained)

    def batch_losses(self, batch: ImageBatch, frames: Frames, targets: Sequence[Target]) -> dict[str, Tensor]:
        """Normalised images to losses; the host does not wait for the device in here.

        Args:
            batch: the images.
            frames: their sizes.
            targets: one per image, on the device of the model; every object counts.
        """
        features = self.neck(self.backbone(batch.pixels))
        output = self.rpn_head(features)
        proposals = self.rpn_head.proposals(output, frames.sizes)
        second = self.roi_head.losses(features, proposals, batch.sizes, targets)
        return self.rpn_head.losses(output, batch, targets) | second

    def detect(self, pixels: Tensor, frames: Frames, min_score: float) -> PaddedDetections:
        """See :meth:`Detector.detect`; with a mask head the detections have probabilities of masks."""
        features, proposals = self._proposals(pixels, frames)
        return self.roi_head.predict(features, proposals, frames, min_score)

    def candidates(self, pixels: Tensor, frames: Frames) -> tuple[Tensor, Tensor]:
        """See :meth:`Detector.candidates`."""
        features, proposals = self._proposals(pixels, frames)
        return self.roi_head.candidates(features, proposals, frames)

    def _proposals(self, pixels: Tensor, frames: Frames) -> tuple[Sequence[Tensor], Proposals]:
        features: Sequence[Tensor] = self.neck(self.backbone(pixels))
        return features, self.rpn_head.proposals(self.rpn_head(features), frames.sizes)

    def add_masks(
        self, images: Sequence[Tensor], detections: Sequence[Detections], output_sizes: Sequence[Size]
    ) -> list[Detections]:
        """See :meth:`Detector.add_masks`."""
        head = self.roi_head
        if not head.mask_heads:
            return list(detections)

        def add(members: list[int], batch: ImageBatch, frames: Frames) -> list[Detections]:
            features = self.neck(self.backbone(batch.pixels))
            padded = pad_detections([detections[index] for index in members])
            padded = with_masks(padded, features, frames, head.mask_roi_extractor, head.mask_heads)
            return with_pasted_masks(padded, [output_sizes[index] for index in members])

        return self.each_batch(images, output_sizes, add)

    def parts(self) -> list[ModelPart]:
        """See :meth:`Detector.parts`."""
        rpn, head = self.rpn_head, self.roi_head
        parts = [ModelPart("input", self.preprocess), ModelPart("backbone", self.backbone)]
        parts += [ModelPart("neck", self.neck), ModelPart("proposals", rpn), ModelPart("proposals", rpn, "proposals")]
        if self.training:
            return [*parts, ModelPart("proposals", rpn, "losses"), ModelPart("heads", head, "losses")]
        parts.append(ModelPart("heads", head, "candidates"))
        masks = [head.mask_roi_extractor, *head.mask_heads]
        return [*parts, *(ModelPart("heads", module) for module in masks if module is not None)]


def _trained_objects(target: Target, device: torch.device) -> Target:
    """The objects that are trained on, copied to ``device``; from memory that a GPU reads by itself if it is one."""
    target = target.select(~target.ignored & (boxes.sizes(target.boxes) > 0).all(1))
    if device.type == "cuda" and target.boxes.device.type == "cpu":
        target = target.pin_memory()
    return target.to(device)
